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
    "Stays: hosts keep their release, and the next run continues where this one stopped.",
)
INSTALL = Step(
    "install",
    "Copies the release to the hosts, verifies its signature and its files, and unpacks it beside the others.",
    "Stays, unused. A rejected release leaves nothing on the host.",
)
EXPAND = Step(
    "expand the database",
    "Adds what the release needs to the database, and removes nothing: earlier releases continue to work.",
    "Stays: earlier releases do not notice it. PostgreSQL rolls back a revision that fails halfway.",
)
SWITCH = Step(
    "switch",
    "Drains the host, hands its uploads over, switches the link `current`, starts the release, tests it through the "
    "host itself and puts it back into service. Workers first, then web hosts.",
    "The host returns to its earlier release at once; then the hosts that were switched before it, the last one first.",
    each_host=True,
)
PROVE = Step(
    "prove",
    "Uploads a file through the virtual IP to each worker, as a user would, and compares what comes back.",
    "All hosts return to what they had, the last one first.",
)
CONTRACT = Step(
    "contract the database",
    "Removes from the database what none of the releases kept on hosts needs.",
    "A refused revision changes nothing. Only a backup can bring back what was removed.",
)
SHIP = Step(
    "processors of",
    "Brings processors to a worker and processes a file with them.",
    "The worker returns to what it used; then the workers that were changed before it, the last one first.",
    each_host=True,
)

DEPLOYMENT = (PREPARE, INSTALL, EXPAND, SWITCH, PROVE)
ROLLBACK = (EXPAND, SWITCH, PROVE)
CONTRACTION = (CONTRACT,)
SHIPMENT = (SHIP,)


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
