"""The steps of a recorded trace in columns: what the page holds of 200,000 lines, as a few megabytes of JSON.

A step is one thing that happened: a line, a call, a return, an exception. Values belong to the step that made them.
Places (kind, file, line, text), flows (host, process, thread, ids) and texts of values stand once each, in tables.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ops.trace.recording import HostLine, Recording
from ops.trace.strands import Functions, Strand

_DEPTH = re.compile(r" depth (\d+)$")
_MARK = re.compile(r"(?:==|->|<-|<~|!!|##) ")
_NOWHERE = -1


class Table[Row: Hashable]:
    """Rows that stand once each; `of` gives the number of a row."""

    def __init__(self) -> None:
        self.rows: dict[Row, int] = {}

    def of(self, row: Row) -> int:
        """The number of the row, which is added if it is new."""
        return self.rows.setdefault(row, len(self.rows))


@dataclass
class Columns:
    """Fills the columns with lines in the order of time."""

    sources: Mapping[str, str]
    base: Mapping[Hashable, int]
    """By strand: the depth of the lines before its first call. Empty if no call was recorded."""
    files: Table[str] = field(default_factory=Table)
    places: Table[tuple[str, str, int, int, str]] = field(default_factory=Table)
    flows: Table[tuple[str, str, int, tuple[tuple[str, str], ...], int]] = field(default_factory=Table)
    texts: Table[str] = field(default_factory=Table)
    strand_numbers: Table[Hashable] = field(default_factory=Table)
    time: list[int] = field(default_factory=list)
    place: list[int] = field(default_factory=list)
    flow: list[int] = field(default_factory=list)
    depth: list[int] = field(default_factory=list)
    took: list[int] = field(default_factory=list)
    value_step: list[int] = field(default_factory=list)
    value_text: list[int] = field(default_factory=list)
    _strands: dict[Hashable, Strand] = field(default_factory=dict)
    _functions: dict[str, Functions] = field(default_factory=dict)
    _raised: dict[Hashable, str] = field(default_factory=dict)
    _last_line: dict[int, int] = field(default_factory=dict)
    _last_step: dict[Hashable, int] = field(default_factory=dict)

    def add(self, line: HostLine) -> None:
        """Add a line: as a step, or to the step that it belongs to."""
        key = strand_of(line)
        strand = self._strands.get(key)
        if strand is None:
            strand = self._strands[key] = Strand(self.base.get(key, 1), calls=bool(self.base))
        file, number, kind = line.get("file", ""), line["line"], line["kind"]
        if kind == "value":
            self._value(line, strand, key)
            return
        functions = self.functions(file)
        text = line["source"].rstrip() if kind == "line" else _MARK.sub("", line["source"], count=1)
        if kind == "call":
            told = _DEPTH.search(text)
            text = _DEPTH.sub("", text)
            strand.enter(int(told[1]) if told else strand.depth + 1, _name(text, "("), file, number, functions)
        elif file:
            if kind == "exception" and self._raised.get(key) == text:
                strand.unwind()  # it passes on to the function that called
            strand.move(file, number, functions)
        self._raised[key] = text if kind == "exception" else ""
        step = self._step(line, text, strand, key)
        if kind in ("line", "call"):
            strand.note(file, number, step)
        if kind == "line":
            self._time_of_line_before(line, step)
        elif kind in ("return", "yield"):
            strand.leave(_name(text, " = "))

    def functions(self, file: str) -> Functions:
        """The functions of a file; none if its source is not known."""
        if file not in self._functions:
            self._functions[file] = Functions(self.sources.get(file, ""))
        return self._functions[file]

    def _step(self, line: HostLine, text: str, strand: Strand, key: Hashable) -> int:
        """Add a step; returns its number."""
        step = len(self.time)
        file = line.get("file", "")
        place = (line["kind"], line["module"], self.files.of(file) if file else _NOWHERE, line["line"], text)
        flow = (*_flow(line), self.strand_numbers.of(key))
        self.time.append(round(line["time"] * 1_000_000))
        self.place.append(self.places.of(place))
        self.flow.append(self.flows.of(flow))
        self.depth.append(max(1, strand.depth))
        self.took.append(_NOWHERE)
        self._last_step[key] = step
        return step

    def _value(self, line: HostLine, strand: Strand, key: Hashable) -> None:
        """Add a value to the step that made it.

        Arguments have the first line of their function. Nothing has executed it: the call has its step, or the values
        get one of their own.
        """
        file, number = line.get("file", ""), line["line"]
        step = strand.step_at(file, number)
        if step is None or (self.functions(file).begins_at(number) and step != self._last_step[key]):
            lines = self.sources.get(file, "").split("\n")
            step = self._step(line, lines[number - 1].rstrip() if number <= len(lines) else "", strand, key)
            strand.note(file, number, step)
        self.value_step.append(step)
        self.value_text.append(self.texts.of(_MARK.sub("", line["source"], count=1)))

    def _time_of_line_before(self, line: HostLine, step: int) -> None:
        """Fill how long the line before took, of the same thread and scope: until this one."""
        flow = self.flow[step]
        before = self._last_line.get(flow)
        self._last_line[flow] = step
        if before is not None:
            since = line.get("since")
            between = (self.time[step] - self.time[before]) * 10
            self.took[before] = max(0, between if since is None else round(since * 10_000_000))


def columns(recording: Recording) -> dict[str, Any]:
    """All that the page holds, as values that JSON knows.

    A place is [kind, module, file, line, text]; its file is -1 if there is none. `steps.time` is in microseconds since
    the step before (the first: since 1970), `steps.took` in tenths of a microsecond, -1 if unknown. `steps.depth` is
    empty if no call was recorded. `values.step` and `values.text` are pairs.
    """
    lines = recording.by_time
    sources = {path: text.removeprefix("\ufeff") for path, text in recording.sources.items()}
    made = Columns(sources, _bases(lines))
    for line in lines:
        made.add(line)
    for path in sources:
        made.files.of(path)
    offset = recording.zone.utcoffset(None)
    return {
        "about": recording.about,
        "zone_minutes": int(offset.total_seconds() // 60) if offset else 0,
        "files": [
            {"path": path, "source": sources.get(path), "functions": made.functions(path).all}
            for path in made.files.rows
        ],
        "places": [list(place) for place in made.places.rows],
        "flows": [
            {"host": host, "process": process, "thread": thread, "ids": dict(ids), "strand": strand}
            for host, process, thread, ids, strand in made.flows.rows
        ],
        "steps": {
            "time": _differences(made.time),
            "place": made.place,
            "flow": made.flow,
            "depth": made.depth if made.base else [],
            "took": made.took,
        },
        "values": {"step": made.value_step, "text": made.value_text, "texts": list(made.texts.rows)},
    }


def strand_of(line: HostLine) -> Hashable:
    """What tells the strands apart: ids that are added while a request runs do not begin another."""
    ids = line.get("ids", {})
    return line["host"], line["process"], line.get("thread", 0), ids.get("request"), ids.get("job")


def _flow(line: HostLine) -> tuple[str, str, int, tuple[tuple[str, str], ...]]:
    return line["host"], line["process"], line.get("thread", 0), tuple(line.get("ids", {}).items())


def _bases(lines: list[HostLine]) -> dict[Hashable, int]:
    """By strand: one less than the depth of its first call."""
    bases: dict[Hashable, int] = {}
    for line in lines:
        if line["kind"] == "call" and (told := _DEPTH.search(line["source"])):
            bases.setdefault(strand_of(line), max(1, int(told[1]) - 1))
    return bases


def _name(text: str, end: str) -> str:
    """`total` of `Basket.total(self=<Basket>)`, without the names around it."""
    return text.partition(end)[0].rpartition(".")[2]


def _differences(numbers: list[int]) -> list[int]:
    return [number - before for number, before in zip(numbers, [0, *numbers], strict=False)]
