"""Takes hosts out of service one after another, changes them, and goes on only while the site is well."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ops.ansible import run_playbook
from ops.cli import console
from ops.deployment.lock import Lock
from ops.environment import Environment, Host
from ops.errors import Failure
from ops.status import HostStatus, status

PLAYBOOK = "maintain"
WELL_SECONDS = 180
"""From the change of a host until its services do their part again: a database member may have to catch up."""
ASK_EVERY_SECONDS = 2
REBOOT, PACKAGES = "maintain_reboot", "maintain_packages"
"""What to do with a host that is out of service: a variable of the playbook."""


def one_after_another(environment: Environment, hosts: Sequence[Host], what: str, held: Lock) -> None:
    """Do `what` (REBOOT or PACKAGES) to each of `hosts`, in their order.

    Raises Failure if the site is not well after one of them; those behind it are untouched then.
    """
    for number, host in enumerate(hosts, start=1):
        held.check()
        began = time.monotonic()
        console.rule(f"{host.name} ({number} of {len(hosts)})")
        run_playbook(environment, PLAYBOOK, limit=host.name, extra_vars={what: True})
        well(environment, f"after {host.name}", seconds=WELL_SECONDS)
        console.print(f"{host.name}: back and well after {time.monotonic() - began:.0f} s")


def in_order(hosts: Sequence[Host], found: Sequence[HostStatus]) -> list[Host]:
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


def well(environment: Environment, when: str, *, seconds: float) -> list[HostStatus]:
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
                "See ./inv status, mend it, and run this again: what is done already is not done twice.",
            )
        time.sleep(ASK_EVERY_SECONDS)
