"""Decides which hosts the name of an environment means: the real ones, the lab's, or those of a rehearsal.

A process that runs within a rehearsal reaches the hosts of that rehearsal only.
"""

from __future__ import annotations

from ops import inventory_schema
from ops.environment import Environment
from ops.errors import Exit, Failure
from ops.inventories import LAB_ENVIRONMENT, inventory_of
from ops.lab import rehearsal
from ops.lab.lab import Lab


def environment(name: str) -> Environment:
    """The environment called `name`, with the inventory through which its hosts are reached.

    The inventory of a lab is first updated from that of this checkout, if this process may write it.

    Raises Failure if there is no such environment, if its inventory does not fit the schema, or if this process runs in
    the rehearsal of another environment.
    """
    inventory_schema.validate(inventory_of(name))
    if rehearsed := rehearsal.current():
        if rehearsed.environment != name:
            raise Failure(
                f"This is the rehearsal of '{rehearsed.environment}': '{name}' cannot be reached from here.",
                code=Exit.USAGE,
            )
        return _up_to_date(Lab(rehearsed.place, name))
    if name == LAB_ENVIRONMENT and (lab := Lab.named()).exists():
        return _up_to_date(lab)
    return Environment.of_checkout(name)


def _up_to_date(lab: Lab) -> Environment:
    lab.refresh_inventory()
    return lab.environment
