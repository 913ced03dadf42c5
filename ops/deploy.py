"""Deploys: prepares the hosts, carries a release to them one after another, and proves with an upload that it works."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ops import access, release, secrets
from ops.ansible import run_playbook
from ops.cli import confirm, console, task
from ops.environment import Environment
from ops.errors import Exit, Failure
from ops.smoke import smoke


@contextmanager
def _step(title: str) -> Iterator[None]:
    began = time.monotonic()
    console.rule(title)
    yield
    console.print(f"{title}: {time.monotonic() - began:.0f} s")


@task(
    help={
        "env": "environment to deploy to",
        "release": "version of an earlier release (default: build this work tree)",
        "yes": "do not ask",
    },
)
def deploy(_context: object, env: str = "lab", release_: str = "", yes: bool = False) -> None:
    """Build, prepare all hosts, switch, and prove it."""
    began = time.monotonic()
    environment = Environment.named(env)
    if environment.is_lab:
        environment = _lab_up(environment)
    else:
        secrets.read(env)  # now rather than after the build
    with _step("release"):
        chosen = release.find(release_) if release_ else release.build(dirty_allowed=environment.is_lab)
        console.print(f"release {chosen.version}")
    if not environment.is_lab:
        hosts = ", ".join(environment.hosts)
        confirm(f"Deploy {chosen.version} to '{env}' ({hosts})?", yes=yes)
    with _step("hosts"):
        run_playbook(environment, "site")
    with _step("switch"):
        run_playbook(
            environment,
            "deploy",
            extra_vars={
                "release_version": chosen.version,
                "release_archive": str(chosen.path),
                "release_sha256": chosen.sha256,
            },
        )
    reach = access.access(environment)
    with _step("smoke test"):
        _twice(lambda: smoke(reach))
    console.rule(f"deployed {chosen.version} to '{env}' in {time.monotonic() - began:.0f} s")
    access.explain(reach)


def _twice[T](step: Callable[[], T]) -> T:
    """In the seconds after the load balancers were set up the address moves between them: one more try if no answer."""
    try:
        return step()
    except Failure as failure:
        if failure.code != Exit.UNAVAILABLE:
            raise
        console.print(failure.message)
    time.sleep(5)
    return step()


def _lab_up(environment: Environment) -> Environment:
    from ops.lab import Lab

    secrets.ensure_lab()
    with _step("lab"):
        Lab.of(environment.name).up([])
    return Environment.named(environment.name)


@task(help={"allow-dirty": "build changes that are not committed too", "json": "as JSON, for programs"})
def build(_context: object, allow_dirty: bool = False, json_: bool = False) -> None:
    """Build a release of the application."""
    built = release.build(dirty_allowed=allow_dirty)
    if json_:
        described = {**dataclasses.asdict(built), "path": str(built.path)}
        sys.stdout.write(json.dumps(described) + "\n")
    else:
        console.print(f"{built.path}  sha256:{built.sha256}")


@task(help={"env": "environment to prepare", "yes": "do not ask"})
def provision(_context: object, env: str = "lab", yes: bool = False) -> None:
    """Make all hosts what the inventory says."""
    environment = Environment.named(env)
    if not environment.is_lab:
        secrets.read(env)
        confirm(f"Change the hosts of '{env}' ({', '.join(environment.hosts)})?", yes=yes)
    run_playbook(environment, "site")
