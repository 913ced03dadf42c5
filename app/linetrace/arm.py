"""Starts traces: live ones, with a thread that sends, and direct ones for scripts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from linetrace.formatting import Formatter
from linetrace.limits import Limits, Options
from linetrace.monitor import MONITOR
from linetrace.own import OwnFiles
from linetrace.selection import Selection
from linetrace.sinks import DescriptorSink, Sink, SinkLost
from linetrace.trace import Counts, Record, Trace

if TYPE_CHECKING:
    from linetrace.drain import Drain

_live: dict[Trace, tuple[Drain, list[Sink]]] = {}


def arm(
    folders: Sequence[str | Path],
    *sinks: Sink,
    selection: Selection | None = None,
    limits: Limits | None = None,
    options: Options | None = None,
    ids: Mapping[str, str] | None = None,
    on_tick: Callable[[Counts, float], None] = lambda _counts, _seconds_left: None,
) -> Trace:
    """Start a live trace; what the parameters mean is said in `linetrace.start`. Closes the sinks at its end.

    `on_tick(counts, seconds left)` is called each second in another thread. Raises NoFreeTool, and closes the sinks.
    """
    from linetrace.drain import Drain

    trace = _new(folders, selection, limits or Limits(), options, ids)
    drain = Drain(trace, list(sinks), on_tick)
    try:
        MONITOR.add(trace)
    except BaseException:
        for sink in sinks:
            sink.close()
        raise
    for ended in [each for each, (its_drain, _) in _live.items() if its_drain.finished.is_set()]:
        del _live[ended]
    _live[trace] = (drain, list(sinks))
    drain.start()
    return trace


def wait(trace: Trace, seconds: float | None = None) -> bool:
    """Wait until a live trace has ended and all its lines were sent; False after `seconds`."""
    return trace not in _live or _live[trace][0].finished.wait(seconds)


def arm_directly(
    folders: Sequence[str | Path],
    sink: Sink,
    *,
    limits: Limits | None = None,
    options: Options | None = None,
    ids: Mapping[str, str] | None = None,
) -> Callable[[], None]:
    """Trace this process from now on, and write each line before the program goes on; nothing runs beside it.

    Returns what the program calls as its last: it writes how often lines were executed that were only counted. Child
    processes made by `os.fork` are traced too. Raises NoFreeTool.
    """
    send = sink.send

    def direct(record: Record) -> None:
        try:
            while fresh:
                for told in read(fresh.popleft()):
                    send((told,))
            trace.lost_by_sink += send((line(record),))
        except SinkLost as lost:
            trace.stop(str(lost))

    def tell(*, ended: bool) -> None:
        with contextlib.suppress(SinkLost):
            send(formatter.summary() if ended else formatter.summary()[:-1])

    def finish() -> None:
        # The end of a script needs no line of its own. It may still run code after this, at finalisation.
        if not trace.ended:
            tell(ended=trace.counts.dropped > 0)

    reader_gone = sink.reader_gone if isinstance(sink, DescriptorSink) else lambda: False
    trace = _new(folders, None, limits or Limits.of_script(), options, ids, direct=direct, reader_gone=reader_gone)
    formatter = Formatter(trace)
    fresh, read, line = trace.fresh, formatter.read, formatter.line
    MONITOR.add(trace)
    disarm = trace.on_stop

    def stopped() -> None:
        disarm()
        tell(ended=True)

    trace.on_stop = stopped
    return finish


def _new(
    folders: Sequence[str | Path],
    selection: Selection | None,
    limits: Limits,
    options: Options | None,
    ids: Mapping[str, str] | None,
    *,
    direct: Callable[[Record], None] | None = None,
    reader_gone: Callable[[], bool] = lambda: False,
) -> Trace:
    return Trace(
        OwnFiles(folders),
        selection=selection or Selection.everything(),
        limits=limits,
        options=options or Options(),
        ids=ids or {},
        direct=direct,
        reader_gone=reader_gone,
    )


def _in_child() -> None:
    """A forked child has no drain threads: live traces end in it, and do not hold its parent's connections open."""
    MONITOR.after_fork()
    live = dict(_live)
    _live.clear()
    for trace, (_, sinks) in live.items():
        trace.stop("the process was forked")
        for sink in sinks:
            sink.close()


os.register_at_fork(after_in_child=_in_child)
