"""Where things are in the repository. The only module that knows its own place in the tree."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INVENTORIES = ROOT / "inventories"
PLAYBOOKS = ROOT / "playbooks"
ROLES = ROOT / "roles"
APP = ROOT / "app"
FRONTEND = APP / "frontend"
DOCS = ROOT / "docs"
DIST = ROOT / "dist"
CACHE = ROOT / ".cache"
ARTEFACTS = ROOT / "artefacts"


def tool(name: str) -> str:
    """Path of a command that requirements.txt installs: beside the running interpreter, whatever PATH says."""
    return str(Path(sys.executable).parent / name)
