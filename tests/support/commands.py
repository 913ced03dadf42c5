"""Commands that tests run as a person would at the root: nobody answers, and all that is said is one text."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

from ops.paths import ROOT


def run(*command: str, seconds: float, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command with additional environment variables; its exit code, and its output with its errors in stdout.

    Raises subprocess.TimeoutExpired after `seconds`.
    """
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=seconds,
    )
