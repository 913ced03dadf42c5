"""The tasks `secrets.*`."""

from __future__ import annotations

from ops import authority, secrets
from ops.cli import confirm, console, task
from ops.environment import Environment

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


@task(help={"env": _ENV, "yes": "do not ask"})
def rotate_ca(_context: object, env: str, *, yes: bool = False) -> None:
    """Replace the certificate authority, step by step."""
    step = authority.next_step(env, secrets.read(env))
    authority.require_ready(Environment.named(env), step)
    confirm(f"{env}: {step.what}?", yes=yes)
    secrets.replace(env, step.new)
    console.print(f"Done in {secrets.vault_path(env)}. Carry it to the hosts with: ./inv provision --env={env}")
    console.print(f"Afterwards: {step.afterwards}")
