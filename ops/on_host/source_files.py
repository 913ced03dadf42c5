"""Reads source files of Python on this host, for the page of a trace.

Takes paths as arguments. Prints a JSON object: path -> text; files that cannot be read, are not named `.py` or are
larger than LARGEST bytes are left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

LARGEST = 1_000_000


def texts(paths: list[str]) -> dict[str, str]:
    """The texts of the files that can be shown."""
    found: dict[str, str] = {}
    for name in paths:
        path = Path(name)
        try:
            if path.suffix == ".py" and path.stat().st_size <= LARGEST:
                found[name] = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(texts(sys.argv[1:])) + "\n")
