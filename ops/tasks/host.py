"""The tasks `host.*`."""

from __future__ import annotations

import getpass

from ops import maintenance, where
from ops.bootstrap import run as bootstrap_host
from ops.console import confirm, console
from ops.deployment import lock
from ops.deployment.store import Store
from ops.environment import Environment, Host
from ops.errors import Exit, Failure
from ops.status import status
from ops.tasks.declare import task


@task(
    rehearses=False,
    positional=["host"],
    help={
        "host": "name of the host, as in the inventory",
        "env": "the environment it belongs to",
        "user": "account that can log in now",
        "password": "ask for that user's password (default: log in with your SSH key)",
        "fingerprint": "the host's key as its console or provider shows it: SHA256:...",
    },
)
def bootstrap(
    _context: object,
    host: str,
    env: str = "lab",
    user: str = "root",
    password: bool = False,
    fingerprint: str = "",
) -> None:
    """Make first contact with a bare host."""
    environment = where.environment(env)
    target = environment.host(host)
    secret = getpass.getpass(f"Password of {user} on {host}: ") if password else None
    bootstrap_host(environment, target, user=user, password=secret, expected=fingerprint)


@task(
    help={
        "env": "environment to change",
        "rolling": "all hosts that need it",
        "all": "with --rolling: also those that do not need it",
        "limit": "these hosts, comma-separated, whether they need it or not",
        "reason": "why, for the lock",
        "yes": "do not ask",
    }
)
def reboot(
    _context: object,
    *,
    env: str = "lab",
    rolling: bool = False,
    all_: bool = False,
    limit: str = "",
    reason: str = "",
    yes: bool = False,
) -> None:
    """Reboot hosts, one after another."""
    if rolling == bool(limit):
        raise Failure(
            "Name the hosts in exactly one way.",
            "Give either --rolling (all hosts that need a reboot), or --limit=HOST,...",
            Exit.USAGE,
        )
    environment = where.environment(env)
    named = [environment.host(name.strip()) for name in limit.split(",") if name.strip()]
    hosts = named or (list(environment.hosts.values()) if all_ else _needing(environment))
    if not hosts:
        console.print(f"No host of '{env}' needs a reboot.")
        return
    found = status(environment)
    maintenance.ready(found, hosts)
    ordered = maintenance.in_order(hosts, found)
    confirm(f"Reboot {', '.join(host.name for host in ordered)}, one after another?", yes=yes or environment.is_lab)
    with lock.held(Store(environment), reason or "reboot hosts") as held:
        maintenance.one_after_another(environment, ordered, found, maintenance.REBOOT, held)


def _needing(environment: Environment) -> list[Host]:
    """The hosts that have a reason for a reboot; each reason is printed."""
    why = maintenance.reasons_to_reboot(environment)
    for host, reasons in why.items():
        for reason in reasons:
            console.print(f"{host}: {reason}", markup=False)
    return [host for host in environment.hosts.values() if why[host.name]]
