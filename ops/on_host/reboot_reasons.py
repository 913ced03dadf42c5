"""Tells why a host needs a reboot.

Takes no arguments. Prints a JSON list of reasons, empty if there is none.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

REQUIRED = "run/reboot-required"
KERNEL = "vmlinuz-"


def reasons(root: Path, running: str) -> list[str]:
    """Reasons for a reboot, from the files below `root`; `running` is the kernel's release as `uname -r` prints it."""
    found = []
    if (root / REQUIRED).exists():
        packages = root / f"{REQUIRED}.pkgs"
        names = sorted(set(packages.read_text().split())) if packages.exists() else []
        found.append(f"packages ask for it: {', '.join(names)}" if names else "a package asks for it")
    kernels = [path.name.removeprefix(KERNEL) for path in (root / "boot").glob(f"{KERNEL}*")]
    if kernels and (newest := max(kernels, key=_version)) != running:
        found.append(f"kernel {newest} is installed, {running} runs")
    return found


def _version(release: str) -> list[tuple[int, str]]:
    """Orders 6.12.9 before 6.12.10."""
    return [(int(number or 0), word) for number, word in re.findall(r"(\d+)|(\D+)", release)]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(reasons(Path("/"), os.uname().release)) + "\n")
