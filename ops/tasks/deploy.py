"""The tasks `deploy`, `rollback` and `deploys`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict

from ops import access, differences, release, secrets, where
from ops.ansible import run_playbook
from ops.console import confirm, console
from ops.deployment import lock, plan, releases, steps
from ops.deployment import record as records
from ops.deployment.deployment import Deployment
from ops.deployment.notify import notify
from ops.deployment.record import DEPLOY, ROLLBACK, Record, Records
from ops.deployment.store import Store
from ops.deployment.unfinished import changed_meanwhile, release_before, to_resume, where_it_stands
from ops.environment import Environment
from ops.errors import Exit, Failure
from ops.lab.lab import Lab
from ops.packages.change import lock_if_new
from ops.tasks.declare import task


@contextmanager
def _timed(title: str) -> Iterator[None]:
    began = time.monotonic()
    console.rule(title)
    yield
    console.print(f"{title}: {time.monotonic() - began:.0f} s")


def _built_outside(*, release_: str = "", resume: bool = False, **_: object) -> list[str]:
    """Build the release that a rehearsal deploys, where registries can be reached; returns the option that names it."""
    if release_ or resume:
        return []
    return [f"--release={release.build(dirty_allowed=True).version}"]


@task(
    outside=_built_outside,
    help={
        "release": "version of an earlier release (default: build this work tree)",
        "limit": "switch these hosts only, comma-separated (all are prepared)",
        "provision": "prepare all hosts first (site.yml); --no-provision deploys the release only",
        "resume": "continue a deployment that was interrupted",
        "yes": "neither show what will change nor ask",
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
    """Build a release, prepare all hosts, switch and test."""
    began = time.monotonic()
    environment = where.environment(env)
    if resume and (release_ or limit):
        raise Failure(
            "--resume continues the interrupted deployment, with its own release and hosts.",
            "Leave out --release and --limit, or go back first: ./inv rollback.",
            Exit.USAGE,
        )
    releases.hosts_of(environment, limit)  # a wrong name fails before anything is started
    if environment.is_lab:
        environment = _lab_up(environment)
    else:
        secrets.read(environment)  # if the vault cannot be read, fail before the build
    store = Store(environment)
    kept = Records(store, alone=without_lock)
    resumed = to_resume(kept, store, resume=resume)
    if resumed is not None:
        release_ = resumed.release
    with _timed("release"):
        chosen = release.find(release_) if release_ else release.build(dirty_allowed=environment.is_lab)
        console.print(f"release {chosen.version}, signed by {release.verify(chosen, environment)}")
    hosts = releases.hosts_of(environment, limit or (",".join(resumed.hosts) if resumed else ""))
    if not (environment.is_lab or yes):
        changes = differences.of_hosts(environment) if provision else None
        plan.show(releases.ask(environment, hosts), chosen.version, changes)
        confirm(f"Deploy {chosen.version} to '{env}' ({', '.join(host.name for host in hosts)})?", yes=False)
        provision = provision and bool(changes)
    with ExitStack() as stack:
        why = reason or f"deploy {chosen.version}"
        held = None if without_lock else lock.held_if_there(stack, store, why)
        if held is None and not without_lock:
            if provision:
                # This first step cannot be recorded: records are kept in etcd, which the step itself installs.
                with _timed(steps.PREPARE.name):
                    run_playbook(environment, "site")
                provision = False
            held = stack.enter_context(lock.held(store, why))
        # Asked again: the records may have changed since the question, and a deployment whose process died has now
        # lost its lock.
        if to_resume(kept, store, resume=resume, held=held) != resumed:
            raise changed_meanwhile()
        record = Record.new(DEPLOY, chosen.version, why)
        deployment = Deployment.begun(environment, hosts, record, kept, held, resumed=resumed)
        try:
            deployment.deploy(chosen, provision=provision)
        finally:
            notify(environment, record)
        if not environment.is_real:
            # Not earlier: installing a release installs packages too.
            lock_if_new(environment)
    console.rule(f"deployed {chosen.version} to '{env}' in {time.monotonic() - began:.0f} s")
    access.explain(access.access(environment))


@task(
    help={
        "to": "version to go back to (default: what the hosts had before the last deployment or rollback)",
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
    environment = where.environment(env)
    store = Store(environment)
    hosts = releases.hosts_of(environment, limit)
    # The web hosts that expand the database need the release too.
    others = [host for host in releases.web_hosts_for(environment, hosts).values() if host not in hosts]
    found = releases.ask(environment, hosts + others)
    kept = Records(store, alone=without_lock)
    target = to or release_before(kept, found)
    missing = [name for name, host in found.items() if target not in host.installed]
    if missing:
        everywhere = set.intersection(*(set(host.installed) for host in found.values()))
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
        if not to and release_before(kept, found) != target:
            raise changed_meanwhile()
        record = Record.new(ROLLBACK, target, why)
        deployment = Deployment.begun(environment, hosts, record, kept, held)
        try:
            deployment.go_to(target)
        finally:
            notify(environment, record)
    console.rule(f"'{env}' is back on {target} in {time.monotonic() - began:.0f} s")


@task(
    help={
        "last": "how many",
        "steps": "show the steps of each",
        "json": "all of them as JSON, for programs",
    }
)
def deploys(_context: object, *, env: str = "lab", last: int = 10, steps: bool = False, json_: bool = False) -> None:
    """Show the last deployments, the newest first."""
    store = Store(where.environment(env))
    found = Records(store).list()
    if json_:
        sys.stdout.write(json.dumps([asdict(record) for record in found], indent=2) + "\n")
        return
    # Lines, not a table: reasons are long, and a table would cut versions in two.
    for record in found[:last]:
        taken = sum(step.seconds for step in record.steps)
        what = f"{record.began}  {record.operation} {record.release}  {record.by}"
        sys.stdout.write(f"{what}  {record.result}, {taken:.0f} s\n")
        for step in record.steps if steps else []:
            sys.stdout.write(f"    {step.name:<40} {step.result.partition(':')[0]:<12} {step.seconds:4.0f} s\n")
        if record.message:
            sys.stdout.write(f"    {record.message}\n")
        elif record.result == records.RUNNING:
            sys.stdout.write(f"    {where_it_stands(record, lock.current(store) if record is found[0] else None)}\n")
    if not found:
        console.print(f"Nothing was deployed to '{env}' yet.", markup=False)


def _lab_up(environment: Environment) -> Environment:
    secrets.ensure_lab()
    with _timed("lab"):
        Lab.named().up([])
    return where.environment(environment.name)
