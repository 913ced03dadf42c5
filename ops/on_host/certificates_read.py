"""Tells which certificates a host has, and which services have not read them since they changed. Runs as root.

Takes no arguments. Prints JSON: `authorities` and `certificate` (PEM), and `unread`, the names of those services.

How it knows: some services read certificates only when they start; systemd keeps a copy of that moment among their
credentials. The others are told to read them again when longhaul-pki.service is reloaded, which also leaves copies. A
service of the first kind that runs without a copy was started by an earlier version of its unit: nobody can tell which
certificates it read, so it is listed too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PKI = "etc/longhaul/pki"
TOLD = "run/longhaul-pki"
CREDENTIALS = "run/credentials"
NAMES = ("ca.crt", "host.crt")
READ_AT_START = {
    "etcd.service": ("ca.crt",),
    "longhaul-web.service": ("ca.crt", "host.crt"),
    "longhaul-worker.service": ("ca.crt",),
}


def state(root: Path, running: Iterable[str]) -> dict[str, Any]:
    """The certificates below `root`, and the units whose copies of them differ or are missing."""
    text = {name: _text(root / PKI / name) for name in NAMES}
    copies = [root / TOLD / name for name in NAMES]
    copies += [path for name in NAMES for path in root.glob(f"{CREDENTIALS}/*.service/{name}")]
    copies += [root / CREDENTIALS / unit / name for unit in running for name in READ_AT_START[unit]]
    unread = {path.parent.name.removesuffix(".service") for path in copies if _text(path) != text[path.name]}
    return {"authorities": text["ca.crt"], "certificate": text["host.crt"], "unread": sorted(unread)}


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def running_units() -> list[str]:
    """Which of the units that read certificates at their start run on this host."""
    command = ["systemctl", "is-active", *READ_AT_START]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return [unit for unit, active in zip(READ_AT_START, said, strict=True) if active == "active"]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(state(Path("/"), running_units())) + "\n")
