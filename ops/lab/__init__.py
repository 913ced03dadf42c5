"""The local data centre: boots the hosts of an inventory on this machine, and breaks them on request (docs/lab.md)."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ops.lab.lab import Lab

__all__ = ["Lab", "generated_inventory"]


def __getattr__(name: str) -> Any:
    # `Lab` needs ops.environment, which asks this package for the lab's inventory.
    if name == "Lab":
        from ops.lab.lab import Lab

        return Lab
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def generated_inventory(environment: str) -> Path | None:
    """The inventory of the lab that LONGHAUL_LAB names, or None if there is no such lab. Within a rehearsal, its own.

    Raises Failure within the rehearsal of another environment.

    Brought up to date with its source first, where this process may write it.
    """
    from ops.environment import LAB_ENVIRONMENT
    from ops.errors import Exit, Failure
    from ops.lab import inventory, rehearsal
    from ops.lab.place import Place

    place = Place.of()
    if rehearsed := rehearsal.current():
        if rehearsed.environment != environment:
            raise Failure(
                f"This is the rehearsal of '{rehearsed.environment}': '{environment}' cannot be reached from here.",
                code=Exit.USAGE,
            )
        place = rehearsed.place
    elif environment != LAB_ENVIRONMENT:
        return None
    if inventory.recorded_environment(place) is None:
        return None
    if os.access(place.inventory, os.W_OK):
        from ops.lab.lab import Lab

        with contextlib.suppress(FileNotFoundError):  # the lab is being destroyed
            Lab.named(place.name).write_inventory()
    return place.inventory
