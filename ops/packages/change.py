"""Brings the hosts of an environment to the packages of a lock, one host after another."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Column, Table

from ops import maintenance, package_lock
from ops.ansible import run_playbook
from ops.console import confirm, console
from ops.deployment import lock
from ops.deployment import record as records
from ops.deployment.record import PACKAGES, Record, Records
from ops.deployment.store import Store
from ops.environment import Environment
from ops.errors import Exit, Failure
from ops.package_lock import PackageLock
from ops.packages import installed
from ops.packages.installed import Installed, PackageChange
from ops.packages.repository import GROUP, Available, Repository
from ops.status import status

SOURCES_PLAYBOOK = "packages-sources"


def lock_if_new(environment: Environment) -> None:
    """If an environment has a repository and no lock, lock its packages; a new host has just got Debian's newest."""
    if not environment.group(GROUP) or package_lock.read(environment) is not None:
        return
    found = installed.ask(environment)
    wanted = Repository(environment).make(installed.names(found))
    package_lock.write(environment, wanted)
    run_playbook(environment, SOURCES_PLAYBOOK)
    console.print(f"packages locked: snapshot {wanted.snapshot}, {len(wanted.versions)} packages")


def locked_at(environment: Environment, repository: Repository, to: str) -> PackageLock:
    """The lock that `to` means: a snapshot's name or a commit. Raises Failure if the snapshot no longer exists."""
    snapshots = repository.snapshots()
    wanted = to if to in snapshots else package_lock.at(environment, to).snapshot
    if wanted not in snapshots:
        raise Failure(
            f"The lock in '{to}' names the snapshot {wanted}, which was removed.",
            f"Choose one that is kept (policy_package_snapshots_kept): {', '.join(snapshots) or 'none'}.",
            Exit.USAGE,
        )
    return repository.lock_on(wanted)


def bring_to(
    environment: Environment, wanted: PackageLock, found: Mapping[str, Installed], why: str, *, yes: bool
) -> None:
    """Write the lock of the environment, and bring the hosts that differ to its packages, one after another."""
    before = package_lock.read(environment)
    differ = installed.changes(found, wanted.versions)
    state = status(environment)
    todo = sorted({*installed.hosts_of(differ), *maintenance.left_out(state)})
    if not todo and before == wanted:
        console.print(f"Nothing to change: every host has the packages of {wanted.snapshot}.")
        return
    if differ:
        show_changes(f"packages of {environment.name}", differ, {})
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
    with lock.held(store, why) as held:
        kept = Records(store)
        record = Record.new(PACKAGES, wanted.snapshot, why)
        record.hosts = [host.name for host in ordered]
        record.before = dict.fromkeys(record.hosts, before.snapshot if before else "")
        with kept.whole(record):
            package_lock.write(environment, wanted)
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
        console.print(f"Now commit {package_lock.path_of(environment)}: with it, a new host gets the same packages.")


def _ways_on(environment: Environment, before: PackageLock | None, wanted: PackageLock) -> str:
    here = f"--env={environment.name}"
    forwards = f"Correct the cause, then: ./inv packages.apply {here}."
    if before is None or before.snapshot == wanted.snapshot:
        back = f"./inv packages.revert {here} --to=SNAPSHOT"
        return f"{forwards} Or go back to a snapshot that ./inv packages.status names: {back}"
    return f"{forwards} Or go back: ./inv packages.revert {here} --to={before.snapshot}"


def _prove(environment: Environment, wanted: PackageLock) -> None:
    left = installed.changes(installed.ask(environment), wanted.versions)
    if left:
        shown = "; ".join(f"{change.package} {change.before} on {', '.join(change.hosts)}" for change in left[:10])
        raise Failure(f"These packages are not what {wanted.snapshot} has: {shown}.")


def show_changes(title: str, found: Sequence[PackageChange], available: Mapping[str, Available]) -> None:
    """Print packages that would change, or have, as a table."""
    # On a narrow terminal, fold instead of cutting versions off.
    table = Table(*(Column(name, overflow="fold") for name in ("package", "now", "then", "hosts", "")), title=title)
    for change in found:
        newest = available.get(change.package)
        note = "security" if newest and newest.security else ""
        table.add_row(change.package, change.before, change.after, " ".join(change.hosts), note)
    Console().print(table)
