"""A child process that works for a traced scope is traced too, and its lines become lines of the same traces.

The parent asks `wanted` before it starts a Python program, gives it the variables of `environment`, and hands each line
that comes through the pipe to `take`. Parent and child may be strangers with a third process between them that passes
on what `wanted` gave, and the lines. When `wanted` is None again, the parent closes the pipe: that disarms the child.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from linetrace import context
from linetrace.clock import monotonic

if TYPE_CHECKING:
    from linetrace.trace import Trace

_KINDS = frozenset({"line", "call", "return", "yield", "exception", "value", "count", "notice"})
_LONGEST_TEXT = 10_000


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
    """Variables with which a Python interpreter traces its program as `how` says, own files only, to a descriptor.

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


def _takers() -> tuple[Trace, ...]:
    """The traces of this process that want all of the running scope."""
    imported = sys.modules.get("linetrace.monitor")
    if imported is None:
        return ()
    scope = context.current.get()
    monitor = imported.MONITOR
    chosen = monitor.takers(scope) if scope is not None else ()
    return tuple(trace for trace in monitor.traces if trace.chooser.selection.kind == "everything" or trace in chosen)


def _line(text: bytes) -> Any:
    from linetrace.record import Line

    try:
        values = json.loads(text)
        time, kind, module = float(values["time"]), values["kind"], str(values["module"])[:200]
        number, file, since = int(values["line"]), str(values.get("file", "")), values.get("since")
        thread = int(values.get("thread", 0))
        since = None if since is None else float(since)
        source = str(values["source"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    if kind not in _KINDS:
        return None
    return Line(time, kind, module, number, source[:_LONGEST_TEXT], file[:4_096], thread, {}, since)
