"""The thread of a live trace: formats what is queued and sends it, reports drops, and ends the trace in time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from linetrace.clock import monotonic
from linetrace.formatting import Formatter
from linetrace.monitor import MONITOR
from linetrace.record import Line
from linetrace.sinks import Sink, SinkLost
from linetrace.trace import Counts, Trace

PAUSE_SECONDS = 0.005
"""Between two batches, so that the program's threads get the interpreter."""
IDLE_SECONDS = 0.02
BATCH = 500
"""Lines at a time: 100,000 lines a second with the pause above, if sending took no time."""
REPORT_SECONDS = 1.0


class Drain:
    """`start` begins; `finished` is set when everything was sent and the sinks are closed.

    `on_tick` is called each second and at the end with the counts and the seconds left.
    """

    def __init__(self, trace: Trace, sinks: list[Sink], on_tick: Callable[[Counts, float], None]) -> None:
        self.finished = threading.Event()
        self._trace = trace
        self._sinks = sinks
        self._on_tick = on_tick
        self._formatter = Formatter(trace)
        self._reported = 0
        self._report_at = 0.0
        self._thread = threading.Thread(target=self._run, name="linetrace", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def _run(self) -> None:
        trace = self._trace
        try:
            while not trace.ended:
                sent = self._batch()
                if monotonic() >= trace.deadline:
                    trace.stop(f"its {trace.limits.seconds:g} s are over")
                threading.Event().wait(PAUSE_SECONDS if sent >= BATCH else IDLE_SECONDS)
            while self._batch():
                pass
            self._send(self._formatter.summary())
        except SinkLost as lost:
            trace.stop(str(lost))
        except Exception as error:  # noqa: BLE001  # the program must go on, whatever is wrong here
            trace.stop(f"the tracer failed: {type(error).__name__}: {error}")
            with suppress(Exception):
                self._send(self._formatter.summary())
        finally:
            trace.queue.clear()
            with suppress(Exception):
                self._on_tick(trace.counts, 0.0)
            for sink in self._sinks:
                sink.close()
            self.finished.set()

    def _batch(self) -> int:
        """Send up to BATCH records; returns how many. Raises SinkLost."""
        trace, formatter = self._trace, self._formatter
        lines: list[Line] = []
        while trace.fresh:
            lines += formatter.read(trace.fresh.popleft())
        records = 0
        while trace.queue and records < BATCH:
            lines.append(formatter.line(trace.queue.popleft()))
            records += 1
        now = monotonic()
        if now >= self._report_at:
            self._report_at = now + REPORT_SECONDS
            lines += self._drops()
            MONITOR.discover()
            self._on_tick(trace.counts, max(0.0, trace.deadline - now))
        if lines:
            self._send(lines)
        return records

    def _drops(self) -> list[Line]:
        dropped = self._trace.counts.dropped
        more, self._reported = dropped - self._reported, dropped
        return [self._formatter.notice(f"{more:,} lines dropped in the last second")] if more > 0 else []

    def _send(self, lines: list[Line]) -> None:
        for sink in self._sinks:
            self._trace.lost_by_sink += sink.send(lines)
