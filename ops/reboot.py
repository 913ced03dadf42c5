"""Reboots hosts that need it, one after another."""

from __future__ import annotations

from pathlib import Path

from ops import maintenance, remote
from ops.cli import confirm, console, task
from ops.deployment import lock
from ops.deployment.store import Store
from ops.environment import Environment, Host
from ops.errors import Exit, Failure
from ops.status import status

PROBE = Path(__file__).with_name("reboot_probe.py")


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
        raise Failure("Which hosts?", "Either --rolling (all that need it), or --limit=HOST,...", Exit.USAGE)
    environment = Environment.named(env)
    named = [environment.host(name.strip()) for name in limit.split(",") if name.strip()]
    hosts = named or _needing(environment, everyone=all_)
    if not hosts:
        console.print(f"No host of '{env}' needs a reboot.")
        return
    found = status(environment)
    maintenance.ready(found, hosts)
    ordered = maintenance.in_order(hosts, found)
    confirm(f"Reboot {', '.join(host.name for host in ordered)}, one after another?", yes=yes or environment.is_lab)
    with lock.held(Store(environment), reason or "reboot hosts") as held:
        maintenance.one_after_another(environment, ordered, found, maintenance.REBOOT, held)


def _needing(environment: Environment, *, everyone: bool) -> list[Host]:
    """The hosts that have a reason for a reboot, each told; with `everyone` all of them."""
    hosts = list(environment.hosts.values())
    if everyone:
        return hosts
    command = ["python3", "-c", PROBE.read_text()]
    why: dict[str, list[str]] = remote.of_all(hosts, lambda host: remote.answer(environment, host, command))
    for host, reasons in why.items():
        for reason in reasons:
            console.print(f"{host}: {reason}", markup=False)
    return [host for host in hosts if why[host.name]]
