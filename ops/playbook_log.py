"""Log files of playbooks: one for each run, with all that Ansible says."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from ops.paths import CACHE

LOGS = CACHE / "logs"
KEPT = 200
"""A deployment to ten hosts makes ten."""


def create(name: str) -> Path:
    """A new empty log file named by time and `name`, for the owner alone: differences of files stand in it.

    The oldest ones are removed, so that KEPT are left.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    path = LOGS / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{name}.log"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    for old in sorted(LOGS.glob("*.log"))[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


class Follower:
    """Reads the lines of a file that another process writes, as far as they are there."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._rest = b""

    def lines(self) -> list[str]:
        """The lines that are complete and were not read yet."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def close(self) -> None:
        """Stop reading."""
        self._file.close()
