"""Commands that tests run as a person would at the root: nobody answers, and all that is said is one text."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ops.paths import ROOT


def run(
    *command: str | Path,
    seconds: float,
    env: Mapping[str, str] | None = None,
    cwd: str | Path = ROOT,
    umask: int = -1,
) -> subprocess.CompletedProcess[str]:
    """Run a command with additional environment variables; its exit code, and its output with its errors in stdout.

    `umask` is as for subprocess.run: -1 leaves it as it is. Raises subprocess.TimeoutExpired after `seconds`.
    """
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=seconds,
        umask=umask,
    )
