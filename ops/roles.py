"""Runs the molecule scenarios of roles, each on lab hosts of its own."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import yaml

from ops import ansible
from ops.cli import console, task
from ops.errors import Exit, Failure
from ops.paths import ROLES, tool

# What a person may want of a scenario; `test` is the whole sequence of .config/molecule/config.yml.
STEPS = ("test", "create", "prepare", "converge", "idempotence", "side-effect", "verify", "destroy")


def names() -> list[str]:
    """The roles that have a scenario, by name: all of them, as a structure test demands."""
    return sorted(path.parents[2].name for path in ROLES.glob("*/molecule/default/molecule.yml"))


def hosts(role: str) -> list[str]:
    """The hosts that a role's scenario is run on."""
    configuration = yaml.safe_load((ROLES / role / "molecule/default/molecule.yml").read_text())
    return list(configuration["driver"]["hosts"])


def scenario_lab(role: str) -> str:
    """The lab of a role's scenario in this checkout: scenarios run beside each other and beside a lab in use."""
    own = hashlib.sha256(f"{ROLES}/{role}".encode()).hexdigest()
    return f"r{own[:4]}-{role[:6].replace('_', '-')}"  # names of labs have at most 12 characters, and no underscores


def settings(role: str) -> dict[str, str]:
    """Environment variables under which molecule runs the scenario of a role, on top of .config/molecule/config.yml."""
    programs = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"  # molecule calls ansible by name
    molecule = {"MOLECULE_COMMAND_BORDERS": "false", "LONGHAUL_SCENARIO_LAB": scenario_lab(role)}
    return {**ansible.settings(), "PATH": programs, **molecule}


@task(
    name="test",
    positional=["role"],
    help={"role": "the role to test", "step": f"one step instead of the whole test: {', '.join(STEPS[1:])}"},
)
def run_test(_context: object, role: str, step: str = "test") -> None:
    """Test a role on lab hosts of its own."""
    if role not in names():
        raise Failure(f"There is no role '{role}' with a scenario.", f"Roles: {', '.join(names())}.", Exit.USAGE)
    if step not in STEPS:
        raise Failure(f"A scenario has no step '{step}'.", f"Steps: {', '.join(STEPS)}.", Exit.USAGE)
    begun = time.monotonic()
    answer = subprocess.run(
        [tool("molecule"), step], cwd=ROLES / role, env={**os.environ, **settings(role)}, check=False
    )
    if answer.returncode != 0:
        raise Failure(
            f"The scenario of the role '{role}' failed in `molecule {step}`; the first error above says why.",
            f"Keep its hosts with: ./inv role.test {role} --step=converge; "
            f"look at them with: LONGHAUL_LAB={scenario_lab(role)} ./inv lab.ssh HOST",
        )
    console.print(f"role {role}: {step} passed in {time.monotonic() - begun:.0f} s")
