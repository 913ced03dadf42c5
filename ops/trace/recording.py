"""A recorded trace: what was traced, the sources of the files, and the lines of all hosts; as JSON and as text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from ops.errors import Exit, Failure

IDS = ("job", "upload", "request")
"""The first of these that a line has stands on it in the text form."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


class About(TypedDict):
    """What was traced. `began` is ISO 8601 with a zone, `ended` says why it ended, `dropped` counts lines lost."""

    environment: str
    what: str
    by: str
    reason: str
    began: str
    seconds: float
    ended: str
    lines: int
    dropped: int
    hosts: list[str]


class HostLine(TypedDict):
    """A line as linetrace writes it (app/linetrace/record.py), and the host and process that executed it.

    `time` is in seconds since 1970, `since` in seconds since the line before of the same thread and scope.
    """

    time: float
    host: str
    process: str
    kind: str
    module: str
    line: int
    source: str
    file: NotRequired[str]
    thread: NotRequired[int]
    ids: NotRequired[Mapping[str, str]]
    since: NotRequired[float]


@dataclass(frozen=True)
class Recording:
    """A recorded trace. `sources` are the texts of the files by path; lines of one process are in their order."""

    about: About
    sources: Mapping[str, str]
    lines: Sequence[HostLine]

    def as_json(self) -> str:
        """The recording as one JSON object, ASCII only."""
        values = {"about": self.about, "sources": dict(self.sources), "lines": list(self.lines)}
        return json.dumps(values, ensure_ascii=True, separators=(",", ":"))

    def write(self, path: Path) -> None:
        """Write the JSON into a file that only its owner may read: values of a running site are in it."""
        path.touch(mode=0o600)
        path.write_text(self.as_json() + "\n", encoding="ascii")

    @property
    def by_time(self) -> list[HostLine]:
        """The lines of all hosts in the order of time."""
        return sorted(self.lines, key=lambda line: line["time"])

    @property
    def zone(self) -> tzinfo:
        """The zone of `began`."""
        return datetime.fromisoformat(self.about["began"]).tzinfo or UTC


def read(path: Path) -> Recording:
    """The recording in a file that `Recording.write` made. Raises Failure."""
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        recording = Recording(values["about"], values["sources"], values["lines"])
        missing = About.__required_keys__ - set(recording.about)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure(f"{path} is not a recorded trace: {error!r}", code=Exit.BAD_INPUT) from error
    if missing:
        raise Failure(f"{path} is not a recorded trace: {', '.join(sorted(missing))} missing", code=Exit.BAD_INPUT)
    return recording


def as_text(recording: Recording) -> str:
    """One line each: `HH:MM:SS.mmm host id module:line: source`, in the zone of `began`; `-` if there is no id."""
    zone = recording.zone
    return "".join(f"{text_of(line, zone)}\n" for line in recording.by_time)


def text_of(line: HostLine, zone: tzinfo | None = None) -> str:
    """One line as text, see `as_text`; without a zone in that of this machine."""
    place = f"{line['module']}:{line['line']}"
    return printable(f"{clock(line, zone)} {line['host']} {id_of(line)} {place}: {line['source']}{took(line)}")


def clock(line: HostLine, zone: tzinfo | None = None) -> str:
    """The time of day of a line, with milliseconds; without a zone in that of this machine."""
    time = datetime.fromtimestamp(line["time"], zone)
    return f"{time:%H:%M:%S}.{time.microsecond // 1000:03}"


def id_of(line: HostLine) -> str:
    """The id that tells a reader most, or `-`."""
    ids = line.get("ids", {})
    return next((ids[name] for name in IDS if name in ids), "-")


def took(line: HostLine) -> str:
    """The time since the line before, if it was asked for."""
    return f"  [+{line['since'] * 1000:.2f} ms]" if "since" in line else ""


def printable(text: str) -> str:
    """The text with line ends, other control characters and lone surrogates escaped: a terminal shows it as it is."""
    escaped = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
    return escaped.encode("utf-8", "backslashreplace").decode("utf-8")
