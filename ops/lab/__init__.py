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


def generated_inventory() -> Path | None:
    """The inventory of the lab that LONGHAUL_LAB names, or None if there is no such lab.

    Brought up to date with its source first, where this process may write it.
    """
    from ops.lab import inventory
    from ops.lab.place import Place

    place = Place.of()
    if inventory.recorded_block(place) is None:
        return None
    if os.access(place.inventory, os.W_OK):
        from ops.lab.lab import Lab

        with contextlib.suppress(FileNotFoundError):  # the lab is being destroyed
            Lab(place).write_inventory()
    return place.inventory
