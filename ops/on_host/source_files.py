"""Reads source files of Python on this host, for the page of a trace.

Takes paths as arguments. Prints a JSON object: path -> text. Left out are files that cannot be read, are not named
`.py`, are larger than LARGEST bytes or lie outside of HOME: this runs as root, and a processor's script names files
too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HOME = Path("/opt/longhaul")
LARGEST = 1_000_000


def texts(paths: list[str]) -> dict[str, str]:
    """The texts of the files that can be shown."""
    found: dict[str, str] = {}
    for name in paths:
        try:
            path = Path(name).resolve()
            ours = path.suffix == ".py" and path.is_relative_to(HOME.resolve()) and path.is_file()
            if ours and path.stat().st_size <= LARGEST:
                found[name] = path.read_text(encoding="utf-8", errors="replace")
        except (OSError, ValueError):  # ValueError: not a name that a file can have
            continue
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(texts(sys.argv[1:])) + "\n")
