"""How long a run of site.yml that changes nothing takes with this repository's settings, and with Ansible's own.

    .venv/bin/python -m tests.benchmarks.provision [ROUNDS]

On a lab that is up and converged (./inv deploy). Both run in turn, ROUNDS times (default 3), so that what else the
machine does falls on both. Prints seconds of each run, and the ratio of the medians.
"""

from __future__ import annotations

import configparser
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ops import ansible, where
from ops.environment import Environment
from ops.inventories import LAB_ENVIRONMENT
from ops.paths import ROOT

OWN = ("roles_path", "library", "action_plugins", "callback_plugins", "interpreter_python")
"""Of ansible.cfg what says where things are; everything that is there for speed is left out."""


def stock_settings(directory: Path) -> dict[str, str]:
    """Environment variables of a run with Ansible's own settings."""
    ours, stock = configparser.ConfigParser(), configparser.ConfigParser()
    ours.read(ROOT / "ansible.cfg")
    paths = {name: ours["defaults"][name] for name in OWN}
    stock["defaults"] = {name: value if value.startswith("/") else str(ROOT / value) for name, value in paths.items()}
    path = directory / "ansible.cfg"
    with path.open("w") as file:
        stock.write(file)
    return {"ANSIBLE_CONFIG": str(path)}


def seconds(environment: Environment, variables: dict[str, str]) -> float:
    """One run; fails if it changed anything."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    command = ansible.command_line(environment, "site")
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, env={**clean, **variables}, capture_output=True, text=True, check=False, timeout=1800
    )
    elapsed = time.monotonic() - began
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    changed = [line for line in done.stdout.splitlines() if "changed=" in line and "changed=0" not in line]
    assert not changed, f"the lab was not converged: {changed}"
    return elapsed


def main() -> None:
    """Compare, and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    environment = where.environment(LAB_ENVIRONMENT)
    ours: list[float] = []
    stock: list[float] = []
    with tempfile.TemporaryDirectory(prefix="longhaul-stock-") as directory:
        for number in range(1, rounds + 1):
            ours.append(seconds(environment, ansible.settings()))
            stock.append(seconds(environment, stock_settings(Path(directory))))
            sys.stdout.write(
                f"round {number}: {ours[-1]:.0f} s with these settings, {stock[-1]:.0f} s with Ansible's\n"
            )
            sys.stdout.flush()
    ratio = statistics.median(ours) / statistics.median(stock)
    sys.stdout.write(
        f"median: {statistics.median(ours):.0f} s and {statistics.median(stock):.0f} s, ratio {ratio:.2f}\n"
    )


if __name__ == "__main__":
    main()
