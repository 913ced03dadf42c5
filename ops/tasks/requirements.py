"""The tasks `requirements.*`: the locks of Python and npm packages."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ops import requirements
from ops.console import console
from ops.tasks.declare import task


@task()
def lock(_context: object) -> None:
    """Write the locks from the .in files."""
    requirements.compile_locks(upgrade=False)


@task()
def update(_context: object) -> None:
    """Take the newest packages into the locks."""
    found = requirements.update()
    if not found:
        console.print("The locks had the newest versions already.")
        return
    table = Table("lock", "package", "before", "after")
    for change in found:
        table.add_row(change.lock, change.package, change.before or "-", change.after or "-")
    Console().print(table)
    console.print("Now run: ./inv test. git diff shows the change; git restore undoes it.")
