"""Makes lines of records: reads sources, adds times and ids. A live trace does this in its drain thread."""

from __future__ import annotations

from collections.abc import Mapping

from linetrace import clock
from linetrace.record import Line, notice
from linetrace.sources import Sources
from linetrace.trace import CodeState, Record, Trace

_MOST_FLOWS = 5_000


class Formatter:
    """Formats the records of one trace, in their order."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._sources = Sources()
        self._offset = clock.offset()
        self._before: dict[tuple[int, int], float] = {}
        self._told_late: set[str] = set()

    def read(self, state: CodeState) -> list[Line]:
        """Read the source of code that was seen for the first time; a notice tells if it may not be what runs."""
        whole = state.code.co_name == "<module>"
        state.source = self._sources.get(state.file, again=whole)
        told = state.file in self._told_late
        self._told_late.add(state.file)
        if told or whole or not state.source.late or state.source.has(state.code):
            return []
        return [self.notice(f"{state.file} was changed after this process began: its lines may not be what runs")]

    def line(self, record: Record) -> Line:
        """The line of a record."""
        time, kind, state, number, thread, scope, text = record
        ids = self._ids(scope.ids if scope is not None else {})
        if isinstance(state, Line):
            return state._replace(ids={**ids, **state.ids})
        if state is None:
            return Line(time + self._offset, kind, "linetrace", 0, text, thread=thread, ids=ids)
        if kind == "line":
            if state.source is None:
                self.read(state)
            assert state.source is not None
            text = state.source.line(number)
        since = self._since(time, thread, id(scope)) if self._trace.options.timing and kind == "line" else None
        return Line(time + self._offset, kind, state.module, number, text, state.file, thread, ids, since)

    def notice(self, text: str) -> Line:
        """What the tracer says of itself now."""
        return notice(clock.monotonic() + self._offset, text, self._trace.ids)

    def summary(self) -> list[Line]:
        """The end of a trace: locations that were only counted, what was dropped, and why it ended."""
        trace = self._trace
        now = clock.monotonic() + self._offset
        lines = [
            Line(now, "count", trace.modules[file], number, f"## {more:,} times more, not shown", file, ids=trace.ids)
            for (file, number), more in sorted(trace.hidden().items())
        ]
        counts = trace.counts
        lost = ", ".join(
            f"{number:,} {what}"
            for number, what in (
                (counts.over_rate, f"over {trace.limits.per_second:,} lines a second"),
                (counts.queue_full, "because the queue was full"),
                (counts.sink, "by the output"),
            )
            if number
        )
        ended = f"ended: {trace.ended}; {counts.lines:,} lines"
        return [*lines, self.notice(f"{ended}, dropped {lost}" if lost else ended)]

    def _ids(self, ids: Mapping[str, str]) -> Mapping[str, str]:
        return {**self._trace.ids, **ids} if ids else self._trace.ids

    def _since(self, time: float, thread: int, scope: int) -> float | None:
        before = self._before.get((thread, scope))
        if before is None and len(self._before) >= _MOST_FLOWS:
            self._before.clear()
        self._before[thread, scope] = time
        return None if before is None else max(0.0, time - before)
