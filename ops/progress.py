"""Shows how far a piece of work is: a bar on a terminal, one line when it begins and one when it ends elsewhere."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ops.console import console
from ops.errors import Failure
from ops.paths import ROOT

# What takes less is not worth a line in a log.
QUIET_SECONDS = 2.0


@contextlib.contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """Shows `what` while the block runs; it calls what it is given after each of `total` steps."""
    if console.is_terminal and not console.is_dumb_terminal:
        bars = [BarColumn(), MofNCompleteColumn()] if total is not None else []
        columns = [SpinnerColumn(), TextColumn("{task.description}"), *bars, TimeElapsedColumn()]
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda: bar.advance(task)
        return
    begun = time.monotonic()
    if total is None:
        console.print(f"{what} ...")
    yield lambda: None
    elapsed = time.monotonic() - begun
    if elapsed > QUIET_SECONDS:
        console.print(f"{what}: done in {elapsed:.1f} s")


def quietly(
    command: Sequence[str],
    what: str,
    failure: Failure,
    *,
    folder: Path = ROOT,
    variables: Mapping[str, str] | None = None,
) -> None:
    """Run another's program, showing `what`. What it says is shown only if it fails; then raises `failure`.

    `variables` are added to the environment.
    """
    environment = os.environ | dict(variables or {})
    with progress(what):
        answer = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    if answer.returncode != 0:
        console.print(answer.stdout, markup=False, highlight=False, soft_wrap=True)
        raise failure
