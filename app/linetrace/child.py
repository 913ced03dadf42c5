"""A child process that works for a traced scope is traced too, and its lines become lines of the same traces.

The parent asks `wanted` before it starts a Python program, gives it the variables of `environment`, and hands each line
that comes back to `take`. Parent and child may be strangers with a third process between them that passes
on what `wanted` gave, and the lines. When `wanted` is None again, the parent closes its end: that disarms the child.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from linetrace import context
from linetrace.clock import monotonic

if TYPE_CHECKING:
    from linetrace.record import Line
    from linetrace.trace import Trace

_KINDS = frozenset({"line", "call", "return", "yield", "exception", "value", "count"})
"""Not `notice`: what the tracer says of itself, a program must not say."""
_LONGEST_TEXT = 500
_LONGEST_DELAY = 60.0


class Reader(Protocol):
    """A stream of lines, as of asyncio."""

    async def readline(self) -> bytes:
        """The next line."""


def wanted() -> dict[str, Any] | None:
    """How a child process is to be traced that works for the running scope: `limits` and `options` as JSON has them.

    None if no trace wants it. A trace of a function is of this process only.
    """
    traces = _takers()
    if not traces:
        return None
    options: dict[str, Any] = {}
    for trace in traces:
        for name, value in trace.options.as_json().items():
            options[name] = sorted({*options.get(name, ()), *value}) if isinstance(value, tuple) else value
    now = monotonic()
    limits = {
        "seconds": max(1.0, max(trace.deadline for trace in traces) - now),
        **{
            name: max(getattr(trace.limits, name) for trace in traces)
            for name in ("lines", "per_second", "per_location")
        },
    }
    return {"limits": limits, "options": options}


def environment(how: Mapping[str, Any], own: Sequence[str], descriptor: int) -> dict[str, str]:
    """Variables with which a Python interpreter traces its program as `how` says, own files only, to a descriptor (of
    a pipe, or better of a socket).

    The program does not see them. They replace PYTHONPATH. If tracing fails, the program runs without. Raises
    KeyError, TypeError or ValueError if `how` is not from `wanted`.
    """
    from linetrace.limits import Limits, Options
    from linetrace.script import BOOT, Plan, as_text

    plan = Plan(
        own=tuple(own),
        to=f"fd:{descriptor}",
        json=True,
        syslog={},
        ids={},
        limits=Limits.from_json(how["limits"]).as_json(),
        options=Options.from_json(how["options"]).as_json(),
    )
    return {"LINETRACE_BOOT": as_text(plan), "PYTHONPATH": BOOT}


def take(text: bytes) -> bool:
    """Take one line of JSON of a child process; returns whether lines of the running scope are wanted.

    What is not such a line is left out, whatever it holds.
    """
    traces = _takers()
    if traces and (line := _line(text)) is not None:
        scope = context.current.get()
        for trace in traces:
            trace.of_child(line, scope)
    return bool(traces)


class OtherLines:
    """The lines of a stream that do not begin with `mark`; those that do are taken, and `taken` counts them."""

    def __init__(self, reader: Reader, mark: bytes) -> None:
        self.taken = 0
        self._reader = reader
        self._mark = mark

    async def next(self) -> bytes:
        """The next line, b"" at the end of the stream."""
        while (line := await self._reader.readline()).startswith(self._mark):
            self.taken += 1
            take(line.removeprefix(self._mark))
        return line


def _takers() -> tuple[Trace, ...]:
    """The traces of this process that want all of the running scope."""
    # While it is being imported, the module is there without it.
    monitor = getattr(sys.modules.get("linetrace.monitor"), "MONITOR", None)
    if monitor is None:
        return ()
    scope = context.current.get()
    chosen = monitor.takers(scope) if scope is not None else ()
    return tuple(trace for trace in monitor.traces if trace.chooser.selection.kind == "everything" or trace in chosen)


def _line(text: bytes) -> Line | None:
    """The line that a child process wrote, which may write whatever it likes."""
    from linetrace.record import Line, printable

    now = time.time()
    try:
        values = json.loads(text)
        at, number, thread = float(values["time"]), int(values["line"]), int(values.get("thread", 0))
        since = values.get("since")
        since = None if since is None else float(since)
        kind, module, source, file = (str(values.get(name, "")) for name in ("kind", "module", "source", "file"))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    if kind not in _KINDS or not 0 <= number < 1 << 31 or not 0 <= thread < 1 << 63:
        return None
    if not now - _LONGEST_DELAY <= at <= now:  # also what is not a number
        at = now
    if since is not None and not 0 <= since < 1 << 31:
        since = None
    module, source, file = (printable(each[:_LONGEST_TEXT]) for each in (module, source, file))
    return Line(at, kind, module, number, source, file, thread, {}, since)
