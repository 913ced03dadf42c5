"""Provides a Python with the packages that a commit locks: each commit is built with its own tools, not the newest."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

from ops.errors import Exit, Failure
from ops.paths import CACHE, tool
from ops.progress import quietly

STAMP = ".requirements.sha256"
"""A file in a virtual environment: output of sha256sum for the lock that was installed there (`inv` writes it)."""


def python_for(lock: Path) -> str:
    """The interpreter of a virtual environment with exactly the packages of a lock: the running one if it has them.

    Otherwise makes one, once for each lock. Raises Failure if a package cannot be installed.
    """
    wanted = f"{hashlib.sha256(lock.read_bytes()).hexdigest()}  -\n"
    if _has(Path(sys.prefix), wanted):
        return sys.executable
    made = CACHE / "tools" / wanted[:16]
    if not _has(made, wanted):
        shutil.rmtree(made, ignore_errors=True)
        failure = Failure(
            "The tools that the commit locks could not be installed; the reason is above.",
            "Is the package registry reachable? Run this again.",
            Exit.UNAVAILABLE,
        )
        quietly([sys.executable, "-m", "venv", str(made)], "making an environment for the commit's tools", failure)
        quietly(
            [tool("uv"), "pip", "sync", "--quiet", "--require-hashes", str(lock)],
            "installing the tools that the commit locks (once for each lock)",
            failure,
            variables={"VIRTUAL_ENV": str(made)},
        )
        (made / STAMP).write_text(wanted)
    return str(made / "bin" / "python")


def _has(environment: Path, wanted: str) -> bool:
    stamp = environment / STAMP
    return stamp.is_file() and stamp.read_text() == wanted
