"""The tasks `secrets.*`: the vault of an environment and its certificate authority."""

from __future__ import annotations

from ops import authority_rotation, secrets, where
from ops.console import confirm, console
from ops.environment import Environment
from ops.tasks.declare import task


@task(rehearses=False)
def init(_context: object, env: str) -> None:
    """Make the secrets that an environment lacks."""
    environment = Environment.of_checkout(env)
    added = secrets.initialise(environment)
    console.print(f"{environment.vault}: " + (f"added {', '.join(added)}" if added else "complete already"))


@task(rehearses=False)
def edit(_context: object, env: str) -> None:
    """Open the secrets of an environment in $EDITOR."""
    secrets.edit(Environment.of_checkout(env))


@task(rehearses=False, help={"name": "secret to replace; repeat for several"}, iterable=["name"])
def rotate(_context: object, env: str, name: list[str], yes: bool = False) -> None:
    """Replace secrets by new ones."""
    environment = Environment.of_checkout(env)
    confirm(f"Replace {', '.join(name) or 'nothing'} in {environment.vault}?", yes=yes)
    secrets.rotate(environment, name)
    console.print(f"Replaced. Bring them to the hosts: ./inv deploy --env={env}")


@task(name="rotate-ca")
def rotate_authority(_context: object, env: str, *, yes: bool = False) -> None:
    """Replace the certificate authority, step by step."""
    environment = where.environment(env)
    step = authority_rotation.next_step(environment, secrets.read(environment))
    authority_rotation.require_ready(environment, step)
    confirm(f"{env}: {step.what}?", yes=yes)
    secrets.replace(environment, step.new)
    console.print(f"Done in {environment.vault}. Bring it to the hosts: ./inv provision --env={env}")
    console.print(f"Afterwards: {step.afterwards}")
