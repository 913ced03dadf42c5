"""The task `status`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from rich.console import Console

from ops import where
from ops.errors import Failure
from ops.status import show_table, status
from ops.tasks.declare import task


@task(name="status")
def show(_context: object, env: str = "lab", json_: bool = False) -> None:
    """Show hosts, services and versions."""
    environment = where.environment(env)
    found = status(environment)
    if json_:
        sys.stdout.write(json.dumps([asdict(host) for host in found], indent=2) + "\n")
    else:
        show_table(Console(), environment, found)
    wrong = [host.name for host in found if host.problems]
    if wrong:
        raise Failure(
            f"Not as it should be: {', '.join(wrong)}.",
            "The table shows what is wrong; `journalctl -u UNIT` on that host shows why.",
        )
