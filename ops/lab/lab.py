"""A lab: the hosts of one inventory, booted on this machine. What its tasks and tests do is a method of `Lab`."""

from __future__ import annotations

from ops.lab.clients import Clients
from ops.lab.faults import Faults
from ops.lab.snapshots import Snapshots


class Lab(Snapshots, Faults, Clients):
    """One lab by its name; it need not exist. Methods raise Failure for errors that the user can act on."""
