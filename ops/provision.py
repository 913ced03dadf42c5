"""Makes the hosts what the inventory says, and tells where they are not."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict

from rich.console import Console

from ops import secrets
from ops.ansible import Change, run_playbook
from ops.cli import confirm, console, task
from ops.deployment import fleet as releases
from ops.deployment import lock, plan
from ops.deployment.store import NotThereYet, Store
from ops.environment import Environment
from ops.errors import Exit, Failure
from ops.packages import fleet as packages
from ops.packages import lock as package_lock

WITHOUT_LOCK = "go ahead although etcd is away: you make sure that you are alone"
RESTART_DATABASE = {"postgresql_restart_pending": True}


@task(
    help={
        "env": "environment to prepare",
        "yes": "do not show what will change and ask",
        "restart-database": "restart database members whose settings wait for it, the primary after a switchover",
        "without-lock": WITHOUT_LOCK,
    }
)
def provision(
    _context: object,
    env: str = "lab",
    *,
    yes: bool = False,
    restart_database: bool = False,
    without_lock: bool = False,
) -> None:
    """Make all hosts what the inventory says."""
    environment = Environment.named(env)
    secrets.read(env)  # what a newer version needs is missed now rather than in the middle
    if not (environment.is_lab or yes):
        changes = check(environment)
        if not changes and not restart_database:
            console.print("The hosts are what the inventory says: nothing to change.")
            return
        Console().print(plan.table_of(changes))
        confirm(f"Change the hosts of '{env}'?", yes=False)
    with ExitStack() as stack:
        if not without_lock:
            lock_if_there(stack, Store(environment), "provision")
        run_playbook(environment, "site", extra_vars=RESTART_DATABASE if restart_database else None)


@task(help={"env": "environment to look at", "json": "as JSON, for programs"})
def drift(_context: object, env: str = "lab", json_: bool = False) -> None:
    """Fail if a host is not what the inventory says."""
    environment = Environment.named(env)
    secrets.read(env)
    changes = [
        *run_playbook(environment, "site", check=True),
        *_other_packages(environment),
        *_other_releases(environment),
    ]
    if json_:
        sys.stdout.write(json.dumps([asdict(change) for change in changes], indent=2) + "\n")
    elif changes:
        Console().print(plan.table_of(changes))
    if changes:
        hosts = sorted({change.host for change in changes})
        raise Failure(
            f"{len(changes)} {'difference' if len(changes) == 1 else 'differences'} on {', '.join(hosts)}.",
            "Make them what the inventory says: ./inv provision, for packages ./inv packages.apply, for releases "
            "./inv deploy. Or put the change into roles/ or inventories/.",
            Exit.DIFFERENT,
        )
    console.print(f"No difference: the hosts of '{env}' are what the inventory says.")


def _other_packages(environment: Environment) -> Iterator[Change]:
    """Packages that are not of the version that the lock names."""
    locked = package_lock.read(environment)
    if locked is not None:
        for change in packages.changes(packages.ask(environment), locked.versions):
            for host in change.hosts:
                yield Change(host, "packages", "Version", f"{change.package} {change.before}, locked: {change.after}")


def _other_releases(environment: Environment) -> Iterator[Change]:
    """Hosts that run another release than most do."""
    found = releases.ask(environment, releases.hosts_of(environment))
    counted = Counter(host.current for host in found.values())
    most = max(counted, key=counted.__getitem__, default="")
    for host in found.values():
        if host.current != most:
            yield Change(host.host, "release", "Current", f"{host.current or 'none'}; most have {most or 'none'}")


def check(environment: Environment) -> list[Change]:
    """What site.yml would change. Raises Failure if it cannot be told."""
    try:
        return run_playbook(environment, "site", check=True)
    except Failure as failure:
        raise Failure(
            f"What would change cannot be told: {failure.message}",
            "New hosts cannot be checked before their first packages are there: look at the inventory, then add --yes. "
            "If a host is dead, the others can be given a release: ./inv deploy --no-provision --limit=HOST,...",
            failure.code,
        ) from failure


def lock_if_there(stack: ExitStack, store: Store, reason: str) -> lock.Lock | None:
    """The lock, held until the stack ends; None on an environment that was never provisioned."""
    try:
        return stack.enter_context(lock.held(store, reason))
    except NotThereYet:
        console.print("No lock yet: this environment is new.")
        return None
