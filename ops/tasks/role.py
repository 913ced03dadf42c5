"""The tasks `role.*`."""

from __future__ import annotations

import os
import subprocess
import time

from ops import roles
from ops.console import console
from ops.errors import Exit, Failure
from ops.paths import ROLES, tool
from ops.tasks.declare import task


@task(
    name="test",
    positional=["role"],
    help={"role": "the role to test", "step": f"one step instead of the whole test: {', '.join(roles.STEPS[1:])}"},
)
def run_test(_context: object, role: str, step: str = "test") -> None:
    """Test a role on lab hosts of its own."""
    if role not in roles.names():
        raise Failure(f"There is no role '{role}' with a scenario.", f"Roles: {', '.join(roles.names())}.", Exit.USAGE)
    if step not in roles.STEPS:
        raise Failure(f"A scenario has no step '{step}'.", f"Steps: {', '.join(roles.STEPS)}.", Exit.USAGE)
    begun = time.monotonic()
    answer = subprocess.run(
        [tool("molecule"), step], cwd=ROLES / role, env={**os.environ, **roles.settings(role)}, check=False
    )
    if answer.returncode != 0:
        raise Failure(
            f"The scenario of the role '{role}' failed in `molecule {step}`; the first error above says why.",
            f"Keep its hosts with: ./inv role.test {role} --step=converge; "
            f"look at them with: LONGHAUL_LAB={roles.scenario_lab(role)} ./inv lab.ssh HOST",
        )
    console.print(f"role {role}: {step} passed in {time.monotonic() - begun:.0f} s")
