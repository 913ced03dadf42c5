"""Shows how far a piece of work is: a bar on a terminal, one line when it begins and one when it ends elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ops.console import console

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
