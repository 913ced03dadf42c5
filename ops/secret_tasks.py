"""The tasks `secrets.*`."""

from __future__ import annotations

from ops import secrets
from ops.cli import confirm, console, task

_ENV = "environment whose vault is meant (a folder of inventories/)"


@task(help={"env": _ENV})
def init(_context: object, env: str) -> None:
    """Make the secrets that an environment lacks."""
    added = secrets.initialise(env)
    console.print(f"{secrets.vault_path(env)}: " + (f"added {', '.join(added)}" if added else "complete already"))


@task(help={"env": _ENV})
def edit(_context: object, env: str) -> None:
    """Open the secrets of an environment in $EDITOR."""
    secrets.edit(env)


@task(help={"env": _ENV, "name": "secret to replace; repeat for several", "yes": "do not ask"}, iterable=["name"])
def rotate(_context: object, env: str, name: list[str], yes: bool = False) -> None:
    """Replace secrets by new ones."""
    confirm(f"Replace {', '.join(name) or 'nothing'} in {secrets.vault_path(env)}?", yes=yes)
    secrets.rotate(env, name)
    console.print(f"Replaced. Carry them to the hosts with: ./inv deploy --env={env}")
