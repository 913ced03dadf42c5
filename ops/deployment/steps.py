"""The steps of deployments, rollbacks, contractions and shipments of processors: name, effect and way back of each.

This is the only list. ops/deployment/deployment.py runs the steps, docs/deployments.md shows them, and the soak test
stops a deployment after each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One step. With `each_host` it is done on one host after another, and the host is part of its name."""

    name: str
    does: str
    goes_back: str
    each_host: bool = False

    def of(self, host: str) -> str:
        """The step's name on a host."""
        return f"{self.name} {host}"


PREPARE = Step(
    "hosts",
    "Makes every host what the inventory says (`playbooks/site.yml`).",
    "What it changed stays changed. Hosts keep their release, and the next run continues.",
)
INSTALL = Step(
    "install",
    "Copies the release to the hosts, verifies its signature and its files, and unpacks it beside the others.",
    "The release stays on the hosts, unused. A rejected release leaves nothing.",
)
EXPAND = Step(
    "expand the database",
    "Adds what the release needs to the database, and removes nothing. Earlier releases keep working.",
    "What was added stays; earlier releases do not use it. A revision that fails halfway is rolled back by PostgreSQL.",
)
SWITCH = Step(
    "switch",
    "A web host is drained and hands its uploads over; a worker finishes its jobs or hands them back. Then the host "
    "switches its link `current`, starts the release, and serves again after a smoke test through it. Workers first.",
    "The failed host returns to its earlier release at once. Then the hosts switched before it return, the last one "
    "first.",
    each_host=True,
)
PROVE = Step(
    "prove",
    "Uploads a file through the virtual IP to each worker of the first data centre, as a user would, and compares what "
    "comes back.",
    "All hosts return to their earlier release, the last one first.",
)
CONTRACT = Step(
    "contract the database",
    "Removes from the database what is not needed by any release that a host keeps.",
    "A rejected revision changes nothing. What was removed comes back from a backup only.",
)
SHIP = Step(
    "processors of",
    "Brings processors to a worker and processes a file with them.",
    "The failed worker returns to its earlier processors. Then the workers before it return, the last one first.",
    each_host=True,
)

DEPLOYMENT = (PREPARE, INSTALL, EXPAND, SWITCH, PROVE)
ROLLBACK = (EXPAND, SWITCH, PROVE)


def names(steps: Sequence[Step], hosts: Sequence[str]) -> list[str]:
    """The names of all steps on these hosts, in their order."""
    return [name for step in steps for name in (map(step.of, hosts) if step.each_host else [step.name])]


def table() -> str:
    """The steps of a deployment as a Markdown table."""
    rows = [
        f"| {number} | {step.name}{' HOST' if step.each_host else ''} | {step.does} | {step.goes_back} |"
        for number, step in enumerate(DEPLOYMENT, start=1)
    ]
    return "\n".join(["| | step | does | if it or a later one fails |", "|---|---|---|---|", *rows]) + "\n"
