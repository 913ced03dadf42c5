"""Deploys: prepares the hosts, carries a release to them one after another, and proves that it works; and goes back."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict

from ops import access, release, secrets
from ops.ansible import run_playbook
from ops.cli import confirm, console, name_again, task
from ops.deployment import fleet, lock, plan
from ops.deployment import record as records
from ops.deployment.machine import Machine
from ops.deployment.record import Record, Records
from ops.deployment.store import NotThereYet, Store
from ops.environment import Environment, Host
from ops.errors import Exit, Failure
from ops.packages import tasks as packages
from ops.provision import WITHOUT_LOCK, check, lock_if_there

DEPLOY, ROLLBACK = "deploy", "rollback"
NOTIFY = "deploy_notify"
"""Inventory variable: a command (list of words) that gets each record as JSON on its standard input, here."""
NOTIFY_SECONDS = 30


@contextmanager
def _timed(title: str) -> Iterator[None]:
    began = time.monotonic()
    console.rule(title)
    yield
    console.print(f"{title}: {time.monotonic() - began:.0f} s")


def _built_outside(*, release_: str = "", resume: bool = False, **_: object) -> list[str]:
    """What a rehearsal deploys, built where registries can be reached."""
    if release_ or resume:
        return []
    return [f"--release={release.build(dirty_allowed=True).version}"]


@task(
    outside=_built_outside,
    help={
        "env": "environment to deploy to",
        "release": "version of an earlier release (default: build this work tree)",
        "limit": "carry the release to these hosts only, comma-separated (all are prepared)",
        "provision": "prepare all hosts first (site.yml); --no-provision carries the release only",
        "reason": "why, for the lock and the record",
        "resume": "go on with a deployment that was interrupted",
        "without-lock": WITHOUT_LOCK,
        "yes": "do not show what will change and ask",
    },
)
def deploy(
    _context: object,
    *,
    env: str = "lab",
    release_: str = "",
    limit: str = "",
    provision: bool = True,
    reason: str = "",
    resume: bool = False,
    without_lock: bool = False,
    yes: bool = False,
) -> None:
    """Build, prepare all hosts, switch, and prove it."""
    began = time.monotonic()
    environment = Environment.named(env)
    if resume and (release_ or limit):
        raise Failure(
            "--resume goes on with what was begun: its release, and its hosts.",
            "Leave --release and --limit away, or go back first: ./inv rollback.",
            Exit.USAGE,
        )
    fleet.hosts_of(environment, limit)  # a wrong name is said before anything is started
    if environment.is_lab:
        environment = _lab_up(environment)
    else:
        secrets.read(env)  # now rather than after the build
    store = Store(environment)
    kept = Records(store, alone=without_lock)
    resumed = _to_resume(kept, store, resume=resume)
    if resumed is not None:
        release_ = resumed.release
    with _timed("release"):
        chosen = release.find(release_) if release_ else release.build(dirty_allowed=environment.is_lab)
        console.print(f"release {chosen.version}, signed by {release.check(chosen, environment)}")
    hosts = fleet.hosts_of(environment, limit or (",".join(resumed.hosts) if resumed else ""))
    if not (environment.is_lab or yes):
        changes = check(environment) if provision else None
        plan.show(fleet.ask(environment, hosts), chosen.version, changes)
        confirm(f"Deploy {chosen.version} to '{env}' ({', '.join(host.name for host in hosts)})?", yes=False)
        provision = provision and bool(changes)
    with ExitStack() as stack:
        why = reason or f"deploy {chosen.version}"
        held = None if without_lock else lock_if_there(stack, store, why)
        if held is None and not without_lock:
            if provision:
                # Where there is no etcd yet, there is nowhere to keep what is done.
                with _timed("hosts"):
                    run_playbook(environment, "site")
                provision = False
            held = stack.enter_context(lock.held(store, why))
        # What was true before the question need not be now, and whose process has died meanwhile has no lock any more.
        if _to_resume(kept, store, resume=resume, held=held) != resumed:
            raise _changed()
        record = Record.new(DEPLOY, chosen.version, why)
        machine = _machine(environment, hosts, record=record, kept=kept, held=held, resumed=resumed)
        try:
            machine.deploy(chosen, provision=provision)
        finally:
            _notify(environment, record)
        if not environment.is_real:
            # Now rather than before: a release's installation has brought packages too.
            packages.lock_if_new(environment)
    console.rule(f"deployed {chosen.version} to '{env}' in {time.monotonic() - began:.0f} s")
    access.explain(access.access(environment))


@task(
    help={
        "env": "environment to change",
        "to": "version to go back to (default: what the hosts had before the last deployment or rollback)",
        "limit": "only these hosts, comma-separated",
        "reason": "why, for the lock and the record",
        "without-lock": WITHOUT_LOCK,
        "yes": "do not ask",
    },
)
def rollback(
    _context: object,
    *,
    env: str = "lab",
    to: str = "",
    limit: str = "",
    reason: str = "",
    without_lock: bool = False,
    yes: bool = False,
) -> None:
    """Go back to an earlier release."""
    began = time.monotonic()
    environment = Environment.named(env)
    store = Store(environment)
    hosts = fleet.hosts_of(environment, limit)
    # Those that expand the database need the release too.
    others = [host for host in fleet.web_hosts_for(environment, hosts).values() if host not in hosts]
    found = fleet.ask(environment, hosts + others)
    kept = Records(store, alone=without_lock)
    target = to or _before(kept, found)
    missing = [name for name, releases in found.items() if target not in releases.installed]
    if missing:
        everywhere = set.intersection(*(set(releases.installed) for releases in found.values()))
        raise Failure(
            f"{', '.join(missing)} has no release '{target}'.",
            f"Installed on all hosts: {', '.join(sorted(everywhere)) or 'none'}. A release that is in dist/ can be "
            f"deployed again: ./inv deploy --env={env} --release={target}",
            Exit.USAGE,
        )
    if not (environment.is_lab or yes):
        plan.show({host.name: found[host.name] for host in hosts}, target, None)
        confirm(f"Go back to {target} on '{env}' ({', '.join(host.name for host in hosts)})?", yes=False)
    with ExitStack() as stack:
        why = reason or f"rollback to {target}"
        held = None if without_lock else stack.enter_context(lock.held(store, why))
        if not to and _before(kept, found) != target:
            raise _changed()
        record = Record.new(ROLLBACK, target, why)
        machine = _machine(environment, hosts, record=record, kept=kept, held=held, resumed=None)
        try:
            machine.go_to(target)
        finally:
            _notify(environment, record)
    console.rule(f"'{env}' is back on {target} in {time.monotonic() - began:.0f} s")


@task(
    help={
        "env": "environment to change",
        "confirm": "the environment's name, instead of being asked for it",
        "reason": "why, for the lock and the record",
    }
)
def contract(_context: object, env: str = "lab", confirm: str = "", reason: str = "") -> None:
    """Remove from the database what no kept release needs."""
    environment = Environment.named(env)
    store = Store(environment)
    hosts = fleet.hosts_of(environment)
    _needed(environment, hosts)  # a refusal comes before the question
    name_again(f"What is removed comes back from a backup only. Contract the database of '{env}'?", env, given=confirm)
    with lock.held(store, reason or "contract the database") as held:
        # What was true when the question was asked need not be now.
        version, heads = _needed(environment, hosts)
        record = Record.new(records.CONTRACT, version, reason or "contract the database")
        machine = _machine(environment, hosts, record=record, kept=Records(store), held=held, resumed=None)
        try:
            machine.contract(version, heads)
        finally:
            _notify(environment, record)
    console.print("The database has nothing left that no release needs.")


@task(
    help={
        "env": "environment to look at",
        "last": "how many",
        "steps": "show the steps of each",
        "json": "all of them as JSON, for programs",
    }
)
def deploys(_context: object, *, env: str = "lab", last: int = 10, steps: bool = False, json_: bool = False) -> None:
    """Show the last deployments, the newest first."""
    store = Store(Environment.named(env))
    found = Records(store).list()
    if json_:
        sys.stdout.write(json.dumps([asdict(record) for record in found], indent=2) + "\n")
        return
    # Lines, not a table: reasons are long, and half a version is none.
    for record in found[:last]:
        taken = sum(step.seconds for step in record.steps)
        what = f"{record.began}  {record.operation} {record.release}  {record.by}"
        sys.stdout.write(f"{what}  {record.result}, {taken:.0f} s\n")
        for step in record.steps if steps else []:
            sys.stdout.write(f"    {step.name:<40} {step.result.partition(':')[0]:<12} {step.seconds:4.0f} s\n")
        if record.message:
            sys.stdout.write(f"    {record.message}\n")
        elif record.result == records.RUNNING:
            sys.stdout.write(f"    {_where_it_stands(record, lock.current(store) if record is found[0] else None)}\n")
    if not found:
        console.print(f"Nothing was deployed to '{env}' yet.", markup=False)


def _where_it_stands(record: Record, holder: lock.Holder | None) -> str:
    """What to say of a deployment that has no end yet."""
    if holder is not None:
        return f"in '{record.open_step}'; the lock is held by {holder}"
    died = f"its process has died in '{record.open_step}'"
    return died if record.operation in records.CHANGES_NO_RELEASE else f"{died}: {_way_on(record)}"


def _way_on(record: Record) -> str:
    if record.operation == ROLLBACK:
        return f"./inv rollback --to={record.release}"
    return "./inv deploy --resume, or ./inv rollback"


def _needed(environment: Environment, hosts: list[Host]) -> tuple[str, list[str]]:
    """The release that all hosts run, and the database's revisions that a kept release of any of them needs.

    Raises Failure if they run different ones, or if a release does not tell.
    """
    found = fleet.ask(environment, hosts)
    versions = {releases.current for releases in found.values()}
    if len(versions) != 1 or not next(iter(versions)):
        raise Failure(
            f"The hosts run different releases ({', '.join(version or 'none' for version in sorted(versions))}).",
            "First: ./inv deploy --resume",
        )
    heads = sorted({head for releases in found.values() for head in releases.heads.values()})
    if "" in heads:
        raise Failure(
            "A host keeps a release that does not say which database it needs.",
            "Deploy newer ones until it is gone: hosts keep a fixed number (policy_releases_kept).",
        )
    return versions.pop(), heads


def _changed() -> Failure:
    return Failure(
        "Somebody else has changed the environment since this began to look at it.",
        "See what was done (./inv deploys), and run the same command again if that is still what you want.",
        Exit.TEMPORARY,
    )


def _to_resume(kept: Records, store: Store, *, resume: bool, held: lock.Lock | None = None) -> Record | None:
    """The deployment to go on with. Raises Failure if there is none, or if one waits to be and this is another."""
    try:
        found = kept.unfinished()
        # One that runs under a lock of somebody else was not interrupted: the lock will say whose it is.
        running = (
            found is not None and found.result == records.RUNNING and held is None and lock.current(store) is not None
        )
    except NotThereYet:
        found, running = None, False
    if resume:
        if found is None:
            raise Failure("There is no interrupted deployment to resume.", "See: ./inv deploys", Exit.USAGE)
        if found.operation == ROLLBACK:
            raise Failure("What was interrupted is a rollback.", f"Go on with it: ./inv rollback --to={found.release}")
        return found
    if found is None or running:
        return None
    raise Failure(
        f"The {found.operation} to {found.release} by {found.by} ({found.began}) stopped at '{found.open_step}': "
        "hosts may differ.",
        "Go on with it: ./inv deploy --resume. Or go back to what there was before: ./inv rollback.",
        Exit.TEMPORARY,
    )


def _before(kept: Records, found: dict[str, fleet.Releases]) -> str:
    """The release that most hosts had before the last deployment that changed them. Raises Failure if nobody knows.

    If that is a rollback that was interrupted, the release that it was on its way to.
    """
    unfinished = kept.unfinished()
    if unfinished is not None and unfinished.operation == ROLLBACK:
        return unfinished.release
    for record in kept.of_releases():
        before = Counter(version for version in record.before.values() if version and version != record.release)
        if before and record.result != records.RETURNED:
            return before.most_common(1)[0][0]
    everywhere = set.intersection(*(set(releases.installed) for releases in found.values()))
    raise Failure(
        "No record tells what there was before.",
        f"Name the release with --to; installed on all hosts: {', '.join(sorted(everywhere)) or 'none'}.",
        Exit.USAGE,
    )


def _machine(
    environment: Environment,
    hosts: list[Host],
    *,
    record: Record,
    kept: Records,
    held: lock.Lock | None,
    resumed: Record | None,
) -> Machine:
    """A machine with a record that knows what each host had before."""
    found = fleet.ask(environment, hosts)
    record.hosts = [host.name for host in hosts]
    record.before = {name: releases.switching or releases.current for name, releases in found.items()}
    # A way back leads to before what did not end, not into the middle of it.
    unfinished = resumed or kept.unfinished()
    if unfinished is not None:
        record.before |= unfinished.before
    # First the new one: whatever happens now, one of the two is there to go on with.
    kept.save(record)
    if resumed is not None:
        resumed.result = records.INTERRUPTED + ", resumed"
        kept.save(resumed)
    kept.prune()
    return Machine(environment, hosts, record, kept, held, interrupted=unfinished is not None)


def _notify(environment: Environment, record: Record) -> None:
    """Tell whom the inventory names. A notification that fails is shown and stops nothing."""
    command = environment.hosts[next(iter(environment.hosts))].variables.get(NOTIFY, [])
    if not command:
        return
    try:
        subprocess.run(command, input=record.text, text=True, check=True, timeout=NOTIFY_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        console.print(f"{NOTIFY} failed: {error}", markup=False)


def _lab_up(environment: Environment) -> Environment:
    from ops.lab import Lab

    secrets.ensure_lab()
    with _timed("lab"):
        Lab.named().up([])
    return Environment.named(environment.name)
