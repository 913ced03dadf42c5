"""Runs the molecule scenarios of roles, each on lab hosts of its own."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import yaml

from ops import ansible
from ops.paths import ROLES

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
