"""The task `build`."""

from __future__ import annotations

import dataclasses
import json
import sys

from ops import release
from ops.console import console
from ops.tasks.declare import task


@task(
    help={
        "ref": "branch, tag or commit to build (default: the work tree's commit)",
        "key": "SSH key to sign with (default: what LONGHAUL_SIGNING_KEY names, or the lab's own)",
        "allow-dirty": "for the lab: build changes that are not committed too, and sign with the lab's key",
    }
)
def build(_context: object, ref: str = "", key: str = "", allow_dirty: bool = False, json_: bool = False) -> None:
    """Build and sign a release of the application."""
    built = release.build(ref=ref, dirty_allowed=allow_dirty, key=key)
    if json_:
        described = {**dataclasses.asdict(built), "path": str(built.path)}
        sys.stdout.write(json.dumps(described) + "\n")
    else:
        console.print(f"{built.path}  sha256:{built.sha256}")
