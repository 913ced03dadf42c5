"""Runs on a host, as root, with nothing but Debian's Python: tells as JSON what certificates it has and who read them.

Services that read certificates only when they start have copies of that moment among their credentials; those that are
told to read them anew were told when longhaul-pki.service was reloaded, which leaves copies too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PKI = "etc/longhaul/pki"
TOLD = "run/longhaul-pki"
CREDENTIALS = "run/credentials/*.service"
NAMES = ("ca.crt", "host.crt")


def state(root: Path) -> dict[str, Any]:
    """What stands below `root`, and the units that have other copies of it."""
    text = {name: _text(root / PKI / name) for name in NAMES}
    copies = [root / TOLD / name for name in NAMES]
    copies += [path for name in NAMES for path in root.glob(f"{CREDENTIALS}/{name}")]
    unread = {path.parent.name.removesuffix(".service") for path in copies if _text(path) != text[path.name]}
    return {"authorities": text["ca.crt"], "certificate": text["host.crt"], "unread": sorted(unread)}


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    sys.stdout.write(json.dumps(state(Path("/"))) + "\n")
