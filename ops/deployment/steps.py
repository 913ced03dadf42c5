"""The steps of a deployment and of its relatives, in their order: what each is called, does, and how it goes back.

This is the one list. ops/deployment/deployment.py runs the steps, docs/deployments.md shows them, and the soak stops a
deployment after each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One step. With `each_host` it is done to one host after another, and named after each."""

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
    "Stays: hosts keep their release, and the next run goes on where this one stopped.",
)
INSTALL = Step(
    "install",
    "Copies the release to the hosts, verifies its signature and its files, and unpacks it beside the others.",
    "Stays, unused. A release that is refused leaves nothing on the host.",
)
EXPAND = Step(
    "expand the database",
    "Adds what the release needs to the database, and takes nothing away: earlier releases go on working.",
    "Stays: earlier releases do not see it. A revision that fails halfway is rolled back by PostgreSQL.",
)
SWITCH = Step(
    "switch",
    "Drains the host, hands its uploads over, switches the link `current`, starts the release, tests it through the "
    "host itself and puts it back into service. Workers first, then web hosts.",
    "The host returns to its earlier release at once; then the hosts before it do, the last one first.",
    each_host=True,
)
PROVE = Step(
    "prove",
    "Uploads a file through the virtual IP to each worker, as a user would, and compares what comes back.",
    "All hosts return to what they had, the last one first.",
)
CONTRACT = Step(
    "contract the database",
    "Removes from the database what no release that a host keeps still needs.",
    "A revision that is refused changes nothing; what was removed comes back from a backup only.",
)
SHIP = Step(
    "processors of",
    "Brings processors to a worker and processes a file with them.",
    "The worker returns to what it used; then the workers before it do, the last one first.",
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
