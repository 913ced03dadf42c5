"""The task that builds releases."""

from __future__ import annotations

import dataclasses
import json
import sys

from ops import release
from ops.cli import console, task


@task(help={"allow-dirty": "build changes that are not committed too", "json": "as JSON, for programs"})
def build(_context: object, allow_dirty: bool = False, json_: bool = False) -> None:
    """Build a release of the application."""
    built = release.build(dirty_allowed=allow_dirty)
    if json_:
        described = {**dataclasses.asdict(built), "path": str(built.path)}
        sys.stdout.write(json.dumps(described) + "\n")
    else:
        console.print(f"{built.path}  sha256:{built.sha256}")
