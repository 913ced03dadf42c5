"""The tasks `provision` and `drift`: bring hosts to what the inventory says, and compare them with it."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from dataclasses import asdict

from rich.console import Console

from ops import differences, secrets, where
from ops.ansible import run_playbook
from ops.console import confirm, console
from ops.deployment import lock, plan
from ops.deployment.store import Store
from ops.errors import Exit, Failure
from ops.tasks.declare import task

RESTART_DATABASE = {"postgresql_restart_pending": True}


@task(
    help={
        "yes": "neither show what will change nor ask",
        "restart-database": "restart database members whose settings need it; the primary switches over first",
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
    """Bring all hosts to what the inventory says."""
    environment = where.environment(env)
    secrets.read(environment)  # if a secret is missing, fail now and not in the middle
    if not (environment.is_lab or yes):
        changes = differences.of_hosts(environment)
        if not changes and not restart_database:
            console.print("The hosts are what the inventory says: nothing to change.")
            return
        Console().print(plan.table_of(changes))
        confirm(f"Change the hosts of '{env}'?", yes=False)
    with ExitStack() as stack:
        if not without_lock:
            lock.held_if_there(stack, Store(environment), "provision")
        run_playbook(environment, "site", extra_vars=RESTART_DATABASE if restart_database else None)


@task()
def drift(_context: object, env: str = "lab", json_: bool = False) -> None:
    """Fail if a host is not what the inventory says."""
    environment = where.environment(env)
    secrets.read(environment)
    changes = [
        *run_playbook(environment, "site", check=True),
        *differences.of_packages(environment),
        *differences.of_releases(environment),
    ]
    if json_:
        sys.stdout.write(json.dumps([asdict(change) for change in changes], indent=2) + "\n")
    elif changes:
        Console().print(plan.table_of(changes))
    if changes:
        hosts = sorted({change.host for change in changes})
        raise Failure(
            f"{len(changes)} {'difference' if len(changes) == 1 else 'differences'} on {', '.join(hosts)}.",
            "Bring the hosts back: ./inv provision (packages: ./inv packages.apply, releases: ./inv deploy). Or put "
            "the change into roles/ or inventories/.",
            Exit.DIFFERENT,
        )
    console.print(f"No difference: the hosts of '{env}' are what the inventory says.")
