"""One line of a trace: as text `module:lineno: source`, and as a JSON object.

| kind | its text after `module:lineno:` |
|---|---|
| line | the source, with its indentation |
| call | `-> name(a=1) depth 2` |
| return, yield | `<- name = 42`, `<~ name = 42` |
| exception | `!! ValueError('no')` |
| value | `== name = 42`: the value that the line before gave it |
| count | `## shown 100 times, from now on only counted`; at the end `## 900 times more, not shown` |
| ids | `## request='a1' user='ann'`: what a selected piece of work is called; the module is `linetrace`, the line 0 |
| notice | `## ` and what the tracer says of itself; the module is `linetrace`, the line 0 |
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple


class Line(NamedTuple):
    """A line of a trace. `time` is in seconds since 1970, `since` in seconds since the line before of the same thread
    and scope (None: not asked for, or the first), `thread` is the thread's identifier, `ids` are those of the scope.
    """

    time: float
    kind: str
    module: str
    number: int
    text: str
    file: str = ""
    thread: int = 0
    ids: Mapping[str, str] = {}
    since: float | None = None


def notice(time: float, text: str, ids: Mapping[str, str]) -> Line:
    """What the tracer says of itself, as a line of the trace."""
    return Line(time, "notice", "linetrace", 0, f"## {text}", ids=ids)


_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with line ends, other control characters and lone surrogates escaped: a terminal shows it as it is."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def as_text(line: Line) -> str:
    """`module:lineno: source`, without a line end."""
    text = f"{line.module}:{line.number}: {line.text}"
    return text if line.since is None else f"{text}  [+{duration(line.since)}]"


def as_json(line: Line) -> str:
    """A JSON object in one line; `type` is `line` for all kinds, `kind` tells them apart."""
    values: dict[str, object] = {
        "type": "line",
        "time": round(line.time, 6),
        "kind": line.kind,
        "module": line.module,
        "line": line.number,
        "source": line.text,
    }
    if line.file:
        values["file"] = line.file
    if line.thread:
        values["thread"] = line.thread
    if line.since is not None:
        values["since"] = round(line.since, 7)
    if line.ids:
        values["ids"] = dict(line.ids)
    return json.dumps(values, ensure_ascii=True)


def duration(seconds: float) -> str:
    """A duration in the unit that suits it: `1.23 s`, `4.56 ms`, `7 us`."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    if seconds >= 0.001:
        return f"{seconds * 1000:.2f} ms"
    return f"{seconds * 1_000_000:.0f} us"
