"""Waits for a condition instead of for a time."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any


def until(true: Callable[[], Any], what: str = "what was waited for", seconds: float = 15, every: float = 0.2) -> Any:
    """Ask `true()` until it answers something true, and return that.

    Exceptions of connections count as no. Fails when the time is over, with the last answer or exception.
    """
    deadline = time.monotonic() + seconds
    last: object = None
    while True:
        try:
            last = true()
        except (OSError, subprocess.SubprocessError) as error:  # requests' exceptions are OSErrors
            last = error
        else:
            if last:
                return last
        assert time.monotonic() < deadline, f"{seconds:.0f} s were not enough for {what}; the last answer was {last!r}"
        time.sleep(every)
