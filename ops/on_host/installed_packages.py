"""Tells which packages a host has, and which services still run with replaced files and need a restart. Runs as root.

Takes no arguments. Prints JSON: `packages` (name -> version) and `stale` (names of services).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

FORMAT = "${db:Status-Status} ${Package} ${Version}\n"
SERVICE = "NEEDRESTART-SVC: "


def packages() -> dict[str, str]:
    """Name -> version of all installed packages."""
    said = subprocess.run(
        ["dpkg-query", "--show", f"--showformat={FORMAT}"], capture_output=True, text=True, check=True
    )
    fields = [line.split() for line in said.stdout.splitlines()]
    return {name: version for state, name, version in fields if state == "installed"}


def stale() -> list[str]:
    """The services that still run with files which a newer package has replaced (needrestart(1), batch mode)."""
    if shutil.which("needrestart") is None:
        return []
    said = subprocess.run(["needrestart", "-b", "-r", "l"], capture_output=True, text=True, check=False)
    return sorted(line.removeprefix(SERVICE) for line in said.stdout.splitlines() if line.startswith(SERVICE))


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"packages": packages(), "stale": stale()}) + "\n")
