"""Tells which releases a host has. Runs as root.

Takes no arguments. Prints JSON with the fields of `Releases` in ops/deployment/releases.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HOME = Path("/opt/longhaul")


def main() -> None:
    """Print what there is."""
    current, switching = HOME / "current", HOME / "switching"
    # A release is complete if install_release has left its checksum.
    complete = [path.parent for path in HOME.glob("releases/*/archive.sha256")]
    complete.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    manifests = {path.name: json.loads((path / "manifest.json").read_text()) for path in complete}
    shipped = current / "shipped"
    state = {
        "current": current.readlink().name if current.is_symlink() else "",
        "switching": switching.read_text().strip() if switching.exists() else "",
        "installed": [path.name for path in complete],
        "processors": shipped.resolve().parent.name if shipped.exists() else "",
        "heads": {name: manifest.get("schema_head", "") for name, manifest in manifests.items()},
    }
    sys.stdout.write(json.dumps(state) + "\n")


if __name__ == "__main__":
    main()
