"""The tasks `lock.*`: who is changing an environment now."""

from __future__ import annotations

from ops import where
from ops.console import confirm, console
from ops.deployment import lock
from ops.deployment.store import Store
from ops.tasks.declare import task


@task()
def show(_context: object, env: str = "lab") -> None:
    """Show who is changing the environment now."""
    store = Store(where.environment(env))
    holder = lock.current(store)
    if holder is None:
        console.print(f"'{env}' is not locked.", markup=False)
        return
    ends = f"The lock ends in {lock.seconds_left(store)} s, unless its process is alive and renews it"
    console.print(f"'{env}' is locked by {holder}. {ends}.", markup=False)


@task(name="break")
def break_lock(_context: object, env: str = "lab", yes: bool = False) -> None:
    """Remove the lock, whoever holds it."""
    store = Store(where.environment(env))
    holder = lock.current(store)
    if holder is None:
        console.print(f"'{env}' is not locked.", markup=False)
        return
    confirm(f"'{env}' is locked by {holder}. Is that process dead, or does its owner agree?", yes=yes)
    lock.break_lock(store)
    console.print("The lock is free. To see what to resume or to undo: ./inv deploys", markup=False)
