"""Reboots or updates hosts one after another: drains each, changes it, and continues only if the site is well."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ops import remote
from ops.ansible import run_playbook
from ops.console import console
from ops.deployment.lock import Lock
from ops.environment import Environment, Host
from ops.errors import Failure
from ops.progress import progress
from ops.status import HostStatus, member_is_well, status

PLAYBOOK = "maintain"
WELL_SECONDS = 180
"""Limit from the change of a host until the site is well again: a database member may have to catch up."""
ASK_EVERY_SECONDS = 2
REBOOT, PACKAGES = "maintain_reboot", "maintain_packages"
"""What to do with a host that is out of service: a variable of the playbook."""
DRAIN_REASON = "maintenance"
"""The playbook writes this into the drain mark of a host. A mark with another text was set by somebody else."""


def reasons_to_reboot(environment: Environment) -> dict[str, list[str]]:
    """Host name -> why it needs a reboot, if it does. Raises Failure that names the hosts which do not answer."""
    return remote.of_all(
        list(environment.hosts.values()),
        lambda host: remote.ask_program(environment, host, "reboot_reasons", as_root=False),
    )


def ready(found: Sequence[HostStatus], hosts: Sequence[Host]) -> None:
    """Raises Failure if `hosts` may not be taken out of service one after another; `found` is the state of all hosts.

    One host may be unwell if it is among `hosts`: changing it makes nothing worse and may repair it. It may not be
    drained by somebody else, who may still be working on it.
    """
    unwell = unwell_of(found)
    names = {host.name for host in hosts}
    others = [host.name for host in found if host.said.get("drained", "") not in ("", DRAIN_REASON)]
    if others or len(unwell) > 1 or not unwell <= names:
        rule = f"Only one host may be unwell, and only one of these: {', '.join(sorted(names)) or 'none'}."
        if others:
            rule = f"Somebody else has drained {', '.join(others)}, as the drain mark says: ask them to finish."
        raise Failure(
            f"The site is not well before the first host, and losing one more could stop it: {_problems(found)}.",
            f"See ./inv status and repair first: {', '.join(sorted(unwell))}. {rule}",
        )


def unwell_of(found: Sequence[HostStatus]) -> set[str]:
    """The names of the hosts with a problem that they or other hosts report."""
    return {name for host in found for name in host.suspects}


def left_out(found: Sequence[HostStatus]) -> list[str]:
    """The names of the hosts that an earlier run has drained or stopped, and not brought back into service."""

    def stopped(host: HostStatus) -> bool:
        return any(state != "active" for state in host.said.get("units", {}).values())

    return [host.name for host in found if host.said.get("drained") == DRAIN_REASON or stopped(host)]


def one_after_another(
    environment: Environment, hosts: Sequence[Host], found: Sequence[HostStatus], what: str, held: Lock
) -> None:
    """Do `what` (REBOOT or PACKAGES) to each of `hosts`, in their order; `found` is the state of all hosts.

    Raises Failure if the site is not well after one of them; the hosts after that one are not touched.
    """
    for number, host in enumerate(hosts, start=1):
        held.check()
        began = time.monotonic()
        console.rule(f"{host.name} ({number} of {len(hosts)})")
        run_playbook(environment, PLAYBOOK, limit=host.name, extra_vars={what: True, **_as_found(host, found)})
        found = well(environment, f"after {host.name}", seconds=WELL_SECONDS)
        console.print(f"{host.name}: back and well after {time.monotonic() - began:.0f} s")


def in_order(hosts: Sequence[Host], found: Sequence[HostStatus]) -> list[Host]:
    """Unhealthy hosts first, then the least critical. Within a group, the holder of the virtual IP and the database
    primary go last, so that each of the two moves only once.
    """
    said = {host.name: host.said for host in found}
    unwell = unwell_of(found)

    def weight(host: Host) -> tuple[bool, int, bool]:
        groups = ("workers", "web", "loadbalancers", "storage", "database")
        place = max((number for number, group in enumerate(groups, start=1) if group in host.groups), default=0)
        holds = host.variables.get("public_address") in said[host.name].get("addresses", [])
        leads = _member(host.name, said[host.name]).startswith("leader")
        return host.name not in unwell, place, holds or leads

    return sorted(hosts, key=weight)


def _member(name: str, said: dict[str, Any]) -> str:
    """Role and state of a host's database member, as the host reports it; "" without a member or without an answer."""
    members = said.get("members", {})
    return str(members.get(name, "")) if isinstance(members, dict) else ""


def _as_found(host: Host, found: Sequence[HostStatus]) -> dict[str, Any]:
    """Variables of the playbook for a host that may be unwell: whether its database member can hand over, and which
    units to start.
    """
    said = next(status.said for status in found if status.name == host.name)
    member = _member(host.name, said)
    return {
        "maintain_hand_over": bool(member) and member_is_well(member),
        "maintain_start": [unit for unit, state in said.get("units", {}).items() if state != "active"],
    }


def well(environment: Environment, when: str, *, seconds: float) -> list[HostStatus]:
    """The state of all hosts, once nothing is wrong with any. Raises Failure if that takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    with progress("waiting until the site is well"):
        while True:
            found = status(environment)
            problems = _problems(found)
            if not problems:
                return found
            if time.monotonic() >= deadline:
                raise Failure(
                    f"The site is not well {when}, and losing one more host could stop it: {problems}.",
                    "See ./inv status, repair the problem, and run this command again: it skips what is done.",
                )
            time.sleep(ASK_EVERY_SECONDS)


def _problems(found: Sequence[HostStatus]) -> str:
    return "; ".join(f"{host.name}: {problem}" for host in found for problem in host.problems)
