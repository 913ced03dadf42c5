"""The tasks `packages.*`: the packages of the servers."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from ops import package_lock, where
from ops.console import console
from ops.errors import Exit, Failure
from ops.package_lock import PackageLock
from ops.packages import installed
from ops.packages.change import bring_to, locked_at, show_changes
from ops.packages.installed import Installed, PackageChange
from ops.packages.repository import Available, Repository
from ops.tasks.declare import task


@task()
def status(_context: object, *, env: str = "lab", json_: bool = False) -> None:
    """Show what is installed where, and security updates."""
    environment = where.environment(env)
    found = installed.ask(environment)
    locked = package_lock.read(environment)
    repository = Repository(environment)
    available = repository.available(installed.names(found))
    snapshots = repository.snapshots()
    newer = {name: newest.version for name, newest in available.items() if newest.security}
    security = installed.changes(found, newer)
    differ = installed.changes(found, locked.versions) if locked else []
    if json_:
        said = {
            "snapshot": locked.snapshot if locked else "",
            "snapshots": snapshots,
            "hosts": {host: asdict(here) for host, here in found.items()},
            "not_as_locked": [asdict(change) for change in differ],
            "security": [asdict(change) for change in security],
        }
        sys.stdout.write(json.dumps(said, indent=2) + "\n")
        return
    _show_hosts(found, locked, differ, security)
    if differ:
        show_changes("not as locked (./inv packages.apply)", differ, {})
    if security:
        show_changes("security updates (./inv packages.update)", security, {})
    Console().print(f"snapshots, the oldest first: {', '.join(snapshots) or 'none'}")


@task(help={"to": "a snapshot, or a commit with a lock (default: what Debian has today)"})
def diff(_context: object, *, env: str = "lab", to: str = "", json_: bool = False) -> None:
    """Show what an update or a revert would change."""
    environment = where.environment(env)
    found = installed.ask(environment)
    repository = Repository(environment)
    available: dict[str, Available] = {}
    if to:
        versions: Mapping[str, str] = locked_at(environment, repository, to).versions
    else:
        available = repository.available(installed.names(found))
        versions = {name: newest.version for name, newest in available.items()}
    found_changes = installed.changes(found, versions)
    if json_:
        sys.stdout.write(json.dumps([asdict(change) for change in found_changes], indent=2) + "\n")
    elif found_changes:
        show_changes("what would change", found_changes, available)
    else:
        console.print("Nothing would change.")


@task(help={"also": "packages that no host has yet and a role is about to install, separated by commas"})
def update(_context: object, *, env: str = "lab", also: str = "", reason: str = "", yes: bool = False) -> None:
    """Bring all hosts to the packages that Debian has today."""
    environment = where.environment(env)
    repository = Repository(environment)
    new = {name.strip() for name in also.split(",") if name.strip()}
    if new and (unknown := sorted(new - repository.available(new).keys())):
        raise Failure(f"Debian has no package {', '.join(unknown)}.", "Look at the spelling in --also.", Exit.USAGE)
    found = installed.ask(environment)
    wanted = repository.make(installed.names(found) | new)
    bring_to(environment, wanted, found, reason or f"update packages to {wanted.snapshot}", yes=yes)


@task(help={"to": "a snapshot (./inv packages.status names them), or a commit whose lock to go back to"})
def revert(_context: object, *, to: str, env: str = "lab", reason: str = "", yes: bool = False) -> None:
    """Bring all hosts back to earlier packages."""
    environment = where.environment(env)
    wanted = locked_at(environment, Repository(environment), to)
    bring_to(environment, wanted, installed.ask(environment), reason or f"packages back to {wanted.snapshot}", yes=yes)


@task()
def apply(_context: object, *, env: str = "lab", reason: str = "", yes: bool = False) -> None:
    """Bring all hosts to the packages that the lock names."""
    environment = where.environment(env)
    wanted = package_lock.read(environment)
    if wanted is None:
        raise Failure(
            f"'{env}' has no lock of packages ({package_lock.path_of(environment)}).",
            f"Make one: ./inv packages.update --env={env}",
            Exit.USAGE,
        )
    bring_to(environment, wanted, installed.ask(environment), reason or f"apply packages {wanted.snapshot}", yes=yes)


def _show_hosts(
    found: Mapping[str, Installed],
    locked: PackageLock | None,
    differ: Sequence[PackageChange],
    security: Sequence[PackageChange],
) -> None:
    title = f"packages, locked on {locked.snapshot}" if locked else "packages, not locked (./inv packages.update)"
    table = Table("host", "installed", "not as locked", "security updates", "waiting for a restart", title=title)
    for host, here in found.items():
        table.add_row(
            host,
            str(len(here.packages)),
            str(sum(host in change.hosts for change in differ)) if locked else "-",
            str(sum(host in change.hosts for change in security)),
            " ".join(here.stale) or "-",
        )
    Console().print(table)
