"""Runs programs of this machine."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from ops.errors import Failure


def run(
    command: Sequence[str | Path], *, check: bool = True, text: str | None = None, seconds: float | None = None
) -> str:
    """Runs a program and returns its standard output.

    `text` goes to its standard input. Raises Failure with its standard error if its exit code is not 0 (unless `check`
    is off), and subprocess.TimeoutExpired after `seconds`.
    """
    done = subprocess.run(
        [str(word) for word in command],
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    if check and done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing")[-4000:]
        raise Failure(f"{' '.join(map(str, command))} ended with code {done.returncode}: {said}")
    return done.stdout
