"""Takes hosts out of service one after another, changes them, and goes on only while the site is well."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ops.ansible import run_playbook
from ops.cli import console
from ops.deployment.lock import Lock
from ops.environment import Environment, Host
from ops.errors import Failure
from ops.progress import progress
from ops.status import HostStatus, member_is_well, status

PLAYBOOK = "maintain"
WELL_SECONDS = 180
"""From the change of a host until its services do their part again: a database member may have to catch up."""
ASK_EVERY_SECONDS = 2
REBOOT, PACKAGES = "maintain_reboot", "maintain_packages"
"""What to do with a host that is out of service: a variable of the playbook."""
DRAIN_REASON = "maintenance"
"""What the playbook writes into the mark of a host that it drains. Other marks are somebody else's."""


def ready(found: Sequence[HostStatus], hosts: Sequence[Host]) -> None:
    """Raises Failure if `hosts` may not be taken out of service one after another, as all were `found`.

    One host may be unwell, if it is among them: to change it takes nothing more away, and may be what mends it. But not
    one that somebody else has drained, who may still be at work on it.
    """
    unwell = unwell_of(found)
    names = {host.name for host in hosts}
    others = [host.name for host in found if host.said.get("drained", "") not in ("", DRAIN_REASON)]
    if others or len(unwell) > 1 or not unwell <= names:
        rule = f"Only one host may be unwell, of those to be changed ({', '.join(sorted(names)) or 'none'})."
        if others:
            rule = f"{', '.join(others)} is drained by somebody else, as the mark there says: it is theirs."
        raise Failure(
            f"The site is not well before the first host, and another host less could stop it: {_problems(found)}.",
            f"See ./inv status and mend it first: {', '.join(sorted(unwell))}. {rule}",
        )


def unwell_of(found: Sequence[HostStatus]) -> set[str]:
    """The names of the hosts that something is wrong with, in their own eyes or in others'."""
    return {name for host in found for name in host.suspects}


def left_out(found: Sequence[HostStatus]) -> list[str]:
    """The names of the hosts that an earlier run has taken out of service, or whose services it has stopped, and not
    brought back.
    """

    def stopped(host: HostStatus) -> bool:
        return any(state != "active" for state in host.said.get("units", {}).values())

    return [host.name for host in found if host.said.get("drained") == DRAIN_REASON or stopped(host)]


def one_after_another(
    environment: Environment, hosts: Sequence[Host], found: Sequence[HostStatus], what: str, held: Lock
) -> None:
    """Do `what` (REBOOT or PACKAGES) to each of `hosts`, in their order, which are as they were `found`.

    Raises Failure if the site is not well after one of them; those behind it are untouched then.
    """
    for number, host in enumerate(hosts, start=1):
        held.check()
        began = time.monotonic()
        console.rule(f"{host.name} ({number} of {len(hosts)})")
        run_playbook(environment, PLAYBOOK, limit=host.name, extra_vars={what: True, **_as_found(host, found)})
        found = well(environment, f"after {host.name}", seconds=WELL_SECONDS)
        console.print(f"{host.name}: back and well after {time.monotonic() - began:.0f} s")


def in_order(hosts: Sequence[Host], found: Sequence[HostStatus]) -> list[Host]:
    """An unwell one first; then those whose absence is felt least; the holders of the virtual address and the leader of
    the database last among their like, so that each moves once.
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
    """Role and state of a host's member of the database in its own eyes, "" if there is none or it does not answer."""
    members = said.get("members", {})
    return str(members.get(name, "")) if isinstance(members, dict) else ""


def _as_found(host: Host, found: Sequence[HostStatus]) -> dict[str, Any]:
    """What the playbook must know of a host that may be unwell: whether its member of the database can hand over, and
    which units are to be started.
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
                    f"The site is not well {when}, and another host less could stop it: {problems}.",
                    "See ./inv status, mend it, and run this again: what is done already is not done twice.",
                )
            time.sleep(ASK_EVERY_SECONDS)


def _problems(found: Sequence[HostStatus]) -> str:
    return "; ".join(f"{host.name}: {problem}" for host in found for problem in host.problems)
