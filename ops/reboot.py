"""Reboots hosts one after another, and goes on only while the site is well."""

from __future__ import annotations

import json
import shlex
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ops.ansible import run_playbook
from ops.cli import confirm, console, task
from ops.deployment import lock
from ops.deployment.store import Store
from ops.environment import Environment, Host
from ops.errors import Exit, Failure
from ops.status import HostStatus, status

PLAYBOOK = "reboot"
PROBE = Path(__file__).with_name("reboot_probe.py")
ANSWER_SECONDS = 20
WELL_SECONDS = 180
"""From the reboot of a host until its services do their part again: a database member may have to catch up."""
ASK_EVERY_SECONDS = 2


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
    found = _well(environment, "before the first reboot", seconds=0)
    hosts = named or _needing(environment, everyone=all_)
    if not hosts:
        console.print(f"No host of '{env}' needs a reboot.")
        return
    ordered = in_order(hosts, found)
    confirm(f"Reboot {', '.join(host.name for host in ordered)}, one after another?", yes=yes or environment.is_lab)
    with lock.held(Store(environment), reason or "reboot hosts") as held:
        for number, host in enumerate(ordered, start=1):
            held.check()
            began = time.monotonic()
            console.rule(f"{host.name} ({number} of {len(ordered)})")
            run_playbook(environment, PLAYBOOK, limit=host.name)
            _well(environment, f"after the reboot of {host.name}", seconds=WELL_SECONDS)
            console.print(f"{host.name}: back and well after {time.monotonic() - began:.0f} s")


def in_order(hosts: list[Host], found: list[HostStatus]) -> list[Host]:
    """Those first whose absence is felt least; the holders of the virtual address and the leader of the database last
    among their like, so that each moves once.
    """
    said = {host.name: host.said for host in found}

    def weight(host: Host) -> tuple[int, bool]:
        groups = ("workers", "web", "loadbalancers", "storage", "database")
        place = max((number for number, group in enumerate(groups, start=1) if group in host.groups), default=0)
        holds = host.variables.get("public_address") in said[host.name].get("addresses", [])
        leads = str(said[host.name].get("members", {}).get(host.name, "")).startswith("leader")
        return place, holds or leads

    return sorted(hosts, key=weight)


def _well(environment: Environment, when: str, *, seconds: float) -> list[HostStatus]:
    """The state of all hosts, once nothing is wrong with any. Raises Failure if that takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = status(environment)
        problems = [f"{host.name}: {problem}" for host in found for problem in host.problems]
        if not problems:
            return found
        if time.monotonic() >= deadline:
            raise Failure(
                f"The site is not well {when}, and another host less could stop it: {'; '.join(problems)}.",
                "See ./inv status, mend it, and run this again: hosts that were rebooted do not need it any more.",
            )
        time.sleep(ASK_EVERY_SECONDS)


def _needing(environment: Environment, *, everyone: bool) -> list[Host]:
    """The hosts that have a reason for a reboot, each told; with `everyone` all of them."""
    hosts = list(environment.hosts.values())
    if everyone:
        return hosts
    with ThreadPoolExecutor(max_workers=len(hosts) or 1) as pool:
        why = list(pool.map(lambda host: _reasons(environment, host), hosts))
    for host, reasons in zip(hosts, why, strict=True):
        for reason in reasons:
            console.print(f"{host.name}: {reason}", markup=False)
    return [host for host, reasons in zip(hosts, why, strict=True) if reasons]


def _reasons(environment: Environment, host: Host) -> list[str]:
    with environment.connection(host) as connection:
        command = shlex.join(["python3", "-c", PROBE.read_text()])
        answer = connection.run(command, hide=True, warn=True, timeout=ANSWER_SECONDS)
    if answer.return_code != 0:
        raise Failure(f"{host.name} cannot be asked whether it needs a reboot: {answer.stderr.strip()[-200:]}")
    found: list[str] = json.loads(answer.stdout)
    return found
