"""Times of records: taken from the monotonic clock, shown as wall-clock time."""

from __future__ import annotations

import time

monotonic = time.monotonic


def _process_began() -> float:
    """When this process began, in seconds since 1970; see proc(5), /proc/PID/stat, field 22."""
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:  # noqa: PTH123
            ticks = int(file.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime", encoding="ascii") as file:  # noqa: PTH123
            uptime = float(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return time.time()
    return time.time() - uptime + ticks / 100  # the kernel's USER_HZ is 100 on all platforms of ours


PROCESS_BEGAN = _process_began()


def offset() -> float:
    """What to add to a time of `monotonic` to get seconds since 1970. Taken once a trace, so that times only grow."""
    return time.time() - monotonic()
