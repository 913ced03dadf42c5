"""The tasks `packages.*`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Column, Table

from ops import maintenance
from ops.ansible import run_playbook
from ops.cli import confirm, console, task
from ops.deployment import lock as deployment_lock
from ops.deployment import record as records
from ops.deployment.record import PACKAGES, Record, Records
from ops.deployment.store import Store
from ops.environment import Environment
from ops.errors import Exit, Failure
from ops.packages import fleet, lock
from ops.packages.fleet import Change, Installed
from ops.packages.lock import Lock
from ops.packages.repository import GROUP, Available, Repository
from ops.status import status as site_status

SOURCES_PLAYBOOK = "packages-sources"
_CHANGING = {"env": "environment to change", "reason": "why, for the lock and the record", "yes": "do not ask"}


@task(help={"env": "environment to look at", "json": "as JSON, for programs"})
def status(_context: object, *, env: str = "lab", json_: bool = False) -> None:
    """Show what is installed where, and security updates."""
    environment = Environment.named(env)
    found = fleet.ask(environment)
    locked = lock.read(environment)
    repository = Repository(environment)
    available = repository.available(fleet.names(found))
    snapshots = repository.snapshots()
    newer = {name: newest.version for name, newest in available.items() if newest.security}
    security = fleet.changes(found, newer)
    differ = fleet.changes(found, locked.versions) if locked else []
    if json_:
        said = {
            "snapshot": locked.snapshot if locked else "",
            "snapshots": snapshots,
            "hosts": {host: asdict(installed) for host, installed in found.items()},
            "not_as_locked": [asdict(change) for change in differ],
            "security": [asdict(change) for change in security],
        }
        sys.stdout.write(json.dumps(said, indent=2) + "\n")
        return
    _show_hosts(found, locked, differ, security)
    if differ:
        _show_changes("not as locked (./inv packages.apply)", differ, {})
    if security:
        _show_changes("security updates (./inv packages.update)", security, {})
    Console().print(f"snapshots, the oldest first: {', '.join(snapshots) or 'none'}")


@task(
    help={
        "env": "environment to look at",
        "to": "a snapshot, or a commit with a lock (default: what Debian has today)",
        "json": "as JSON, for programs",
    }
)
def diff(_context: object, *, env: str = "lab", to: str = "", json_: bool = False) -> None:
    """Show what an update or a revert would change."""
    environment = Environment.named(env)
    found = fleet.ask(environment)
    repository = Repository(environment)
    available: dict[str, Available] = {}
    if to:
        versions: Mapping[str, str] = _locked_at(environment, repository, to).versions
    else:
        available = repository.available(fleet.names(found))
        versions = {name: newest.version for name, newest in available.items()}
    found_changes = fleet.changes(found, versions)
    if json_:
        sys.stdout.write(json.dumps([asdict(change) for change in found_changes], indent=2) + "\n")
    elif found_changes:
        _show_changes("what would change", found_changes, available)
    else:
        console.print("Nothing would change.")


@task(help={**_CHANGING, "also": "packages that no host has yet and a role is about to install, separated by commas"})
def update(_context: object, *, env: str = "lab", also: str = "", reason: str = "", yes: bool = False) -> None:
    """Bring all hosts to the packages that Debian has today."""
    environment = Environment.named(env)
    repository = Repository(environment)
    new = {name.strip() for name in also.split(",") if name.strip()}
    if new and (unknown := sorted(new - repository.available(new).keys())):
        raise Failure(f"Debian has no package {', '.join(unknown)}.", "Look at the spelling in --also.", Exit.USAGE)
    found = fleet.ask(environment)
    wanted = repository.make(fleet.names(found) | new)
    _bring_to(environment, wanted, found, reason or f"update packages to {wanted.snapshot}", yes=yes)


@task(help={**_CHANGING, "to": "a snapshot (./inv packages.status names them), or a commit whose lock to go back to"})
def revert(_context: object, *, to: str, env: str = "lab", reason: str = "", yes: bool = False) -> None:
    """Bring all hosts back to earlier packages."""
    environment = Environment.named(env)
    wanted = _locked_at(environment, Repository(environment), to)
    _bring_to(environment, wanted, fleet.ask(environment), reason or f"packages back to {wanted.snapshot}", yes=yes)


@task(help=_CHANGING)
def apply(_context: object, *, env: str = "lab", reason: str = "", yes: bool = False) -> None:
    """Bring all hosts to the packages that the lock names."""
    environment = Environment.named(env)
    wanted = lock.read(environment)
    if wanted is None:
        raise Failure(
            f"'{env}' has no lock of packages ({lock.path_of(environment)}).",
            f"Make one: ./inv packages.update --env={env}",
            Exit.USAGE,
        )
    _bring_to(environment, wanted, fleet.ask(environment), reason or f"apply packages {wanted.snapshot}", yes=yes)


def lock_if_new(environment: Environment) -> None:
    """Lock an environment that has a repository and no lock on what its hosts have; Debian has the same, just now."""
    if not environment.group(GROUP) or lock.read(environment) is not None:
        return
    found = fleet.ask(environment)
    wanted = Repository(environment).make(fleet.names(found))
    lock.write(environment, wanted)
    run_playbook(environment, SOURCES_PLAYBOOK)
    console.print(f"packages locked: snapshot {wanted.snapshot}, {len(wanted.versions)} packages")


def _locked_at(environment: Environment, repository: Repository, to: str) -> Lock:
    """The lock that a snapshot's name or a commit stands for. Raises Failure if its snapshot is not there any more."""
    snapshots = repository.snapshots()
    wanted = to if to in snapshots else lock.at(environment, to).snapshot
    if wanted not in snapshots:
        raise Failure(
            f"The snapshot {wanted}, which the lock in '{to}' names, is not kept any more.",
            f"There are: {', '.join(snapshots) or 'none'} (policy_package_snapshots_kept).",
            Exit.USAGE,
        )
    return repository.lock_on(wanted)


def _bring_to(environment: Environment, wanted: Lock, found: Mapping[str, Installed], why: str, *, yes: bool) -> None:
    """Let the hosts have the packages of a lock, and the environment that lock: those that differ one after another."""
    before = lock.read(environment)
    differ = fleet.changes(found, wanted.versions)
    state = site_status(environment)
    todo = sorted({*fleet.hosts_of(differ), *maintenance.left_out(state)})
    if not todo and before == wanted:
        console.print(f"Nothing to change: every host has the packages of {wanted.snapshot}.")
        return
    if differ:
        _show_changes(f"packages of {environment.name}", differ, {})
    hosts = [environment.host(name) for name in todo]
    if hosts:
        maintenance.ready(state, hosts)
        ordered = maintenance.in_order(hosts, state)
        question = f"Change {', '.join(host.name for host in ordered)}, one after another?"
    else:
        ordered, question = [], f"Lock the packages on {wanted.snapshot}? No host changes."
    confirm(question, yes=yes or environment.is_lab)
    began = time.monotonic()
    store = Store(environment)
    with deployment_lock.held(store, why) as held:
        kept = Records(store)
        record = Record.new(PACKAGES, wanted.snapshot, why)
        record.hosts = [host.name for host in ordered]
        record.before = dict.fromkeys(record.hosts, before.snapshot if before else "")
        with kept.whole(record):
            lock.write(environment, wanted)
            with kept.step(record, "sources"):
                run_playbook(environment, SOURCES_PLAYBOOK)
            try:
                with kept.step(record, "packages"):
                    maintenance.one_after_another(environment, ordered, state, maintenance.PACKAGES, held)
                _prove(environment, wanted)
            except Failure as failure:
                record.result = records.FAILED
                raise Failure(failure.message, _ways_on(environment, before, wanted), failure.code) from failure
    console.rule(f"'{environment.name}' has packages {wanted.snapshot} after {time.monotonic() - began:.0f} s")
    if environment.is_real:
        console.print(f"Now commit {lock.path_of(environment)}: it is what brings a new host to the same packages.")


def _ways_on(environment: Environment, before: Lock | None, wanted: Lock) -> str:
    here = f"--env={environment.name}"
    forwards = f"Mend it, then: ./inv packages.apply {here}."
    if before is None or before.snapshot == wanted.snapshot:
        return f"{forwards} Or go back: ./inv packages.revert {here}, to one of those that ./inv packages.status names."
    return f"{forwards} Or go back: ./inv packages.revert {here} --to={before.snapshot}"


def _prove(environment: Environment, wanted: Lock) -> None:
    left = fleet.changes(fleet.ask(environment), wanted.versions)
    if left:
        shown = "; ".join(f"{change.package} {change.before} on {', '.join(change.hosts)}" for change in left[:10])
        raise Failure(f"These packages are not what {wanted.snapshot} has: {shown}.")


def _show_hosts(
    found: Mapping[str, Installed], locked: Lock | None, differ: Sequence[Change], security: Sequence[Change]
) -> None:
    title = f"packages, locked on {locked.snapshot}" if locked else "packages, not locked (./inv packages.update)"
    table = Table("host", "installed", "not as locked", "security updates", "waiting for a restart", title=title)
    for host, installed in found.items():
        table.add_row(
            host,
            str(len(installed.packages)),
            str(sum(host in change.hosts for change in differ)) if locked else "-",
            str(sum(host in change.hosts for change in security)),
            " ".join(installed.stale) or "-",
        )
    Console().print(table)


def _show_changes(title: str, found: Sequence[Change], available: Mapping[str, Available]) -> None:
    # A narrow terminal folds: half a version is none.
    table = Table(*(Column(name, overflow="fold") for name in ("package", "now", "then", "hosts", "")), title=title)
    for change in found:
        newest = available.get(change.package)
        note = "security" if newest and newest.security else ""
        table.add_row(change.package, change.before, change.after, " ".join(change.hosts), note)
    Console().print(table)
