"""The task `access`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from ops import where
from ops.access import access, explain
from ops.tasks.declare import task


@task(name="access")
def show(_context: object, env: str = "lab", json_: bool = False) -> None:
    """Print the URL and how to log in."""
    found = access(where.environment(env))
    if json_:
        sys.stdout.write(json.dumps(asdict(found)) + "\n")
    else:
        explain(found)
