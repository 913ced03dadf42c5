"""The tasks `bench.*`: measurements whose figures stand in docs/numbers.md."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

from rich.console import Console
from rich.table import Table

from ops.errors import Failure
from ops.lab import machine
from ops.paths import APP, ROOT
from ops.progress import progress
from ops.tasks.declare import task

TRACE_PARTS = {
    "tracing_instructions": "instructions of one turn of a loop",
    "tracing": "small functions that do nothing but run Python: ratios of CPU time to the same untraced, and rates",
    "tracing_site": "the web process of the application: ratios to the same unarmed, or without the tracer in it",
}
"""Module in app/benchmarks -> what its figures are."""


@task(name="trace", help={"json": "as JSON, for programs"})
def trace(_context: object, *, json_: bool = False) -> None:
    """Measure what tracing costs."""
    if shutil.which("valgrind") is None:
        machine.install("valgrind")
    found = {}
    for module, what in TRACE_PARTS.items():
        with progress(what):
            ran = subprocess.run(
                [sys.executable, "-m", f"benchmarks.{module}"],
                cwd=APP,
                env={**os.environ, "PYTHONPATH": f".:{ROOT}"},
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
        if ran.returncode != 0:
            raise Failure(f"The measurement {module} failed.", "Its messages stand above.")
        found[module] = json.loads(ran.stdout.splitlines()[-1])
    if json_:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    for module, figures in found.items():
        table = Table(box=None, show_header=False, padding=(0, 1))
        table.add_column()
        table.add_column(justify="right")
        for name, figure in figures.items():
            table.add_row(name, f"{figure:,}")
        shown = Console(highlight=False)
        shown.print(f"[bold]{TRACE_PARTS[module]}[/]")
        shown.print(table)
