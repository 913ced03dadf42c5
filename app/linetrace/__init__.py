"""A line tracer for running Python programs: `module:lineno: source` for each line that one request or job executes.

    python -m linetrace script.py                  # a script, traced from its first line
    python -m linetrace attach SOCKET --seconds 5  # a running process that listens

A program that serves requests listens, and says what its code works for:

    linetrace.listen("/run/app", "web", folders=["/srv/app"])
    with linetrace.request("GET", "/files/7", request="a1b2", user="ann"):
        ...

Importing this module imports nothing else: names are found when they are first used. The tracer itself is imported when
something is traced for the first time.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing.TYPE_CHECKING without typing
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from linetrace.context import add, bound, job, request
    from linetrace.limits import Limits, Options
    from linetrace.listener import Listener, listen
    from linetrace.selection import Selection
    from linetrace.trace import Trace

__all__ = ["Limits", "Listener", "Options", "Selection", "Trace", "add", "bound", "job", "listen", "request", "start"]

_WHERE = {
    "Limits": "limits",
    "Listener": "listener",
    "Options": "limits",
    "Selection": "selection",
    "Trace": "trace",
    "add": "context",
    "bound": "context",
    "job": "context",
    "listen": "listener",
    "request": "context",
}


def start(
    folders: Sequence[str | Path],
    to: str = "syslog",
    *,
    selection: Selection | None = None,
    limits: Limits | None = None,
    options: Options | None = None,
    ids: Mapping[str, str] | None = None,
) -> Trace:
    """Trace this process from now on: for an entry point that has no middleware.

    `folders` hold the files whose lines are shown. `to` names a sink as `linetrace.sinks.open_sink` takes it. `ids`
    stand on each line. Everything is traced unless a selection is given. The trace ends at its limits or by its
    `stop(reason)`. Raises NoFreeTool if other tools hold the places of `sys.monitoring` that a tracer may take, and
    SinkError if the sink cannot be opened.
    """
    from linetrace.arm import arm
    from linetrace.sinks import open_sink

    return arm(folders, open_sink(to), selection=selection, limits=limits, options=options, ids=ids)


def __getattr__(name: str) -> object:
    """Import a public name at its first use (PEP 562)."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value: object = getattr(importlib.import_module(f"linetrace.{_WHERE[name]}"), name)
    globals()[name] = value
    return value
