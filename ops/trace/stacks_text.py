"""Stacks as text: our own lines in full, those of libraries counted, and what most likely hangs first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePath
from textwrap import wrap
from typing import Any

from ops.trace.stacks import Answer, Position, Rank, SharedStack, shared_stacks

MOST_NAMED = 12
"""Of the threads or tasks with one stack."""
BOLD, BRIGHT, DIM, RED, RESET = "\x1b[1m", "\x1b[1;33m", "\x1b[2m", "\x1b[1;31m", "\x1b[0m"
INDENT = "    "
COLUMNS = 120
"""Where the output is not a terminal, lists are broken here. Nothing else is."""
_LIBRARY = re.compile(r"^.*/(?:site-packages|dist-packages|python3\.\d+)/(?=[^/])")
_OURS = re.compile(r"^/opt/longhaul/(?:releases/[^/]+|shipments/[^/]+|current)/")


@dataclass(frozen=True)
class Look:
    """How stacks are shown: `everything`, or only what tells most; for a terminal `coloured`, in so many `columns`."""

    everything: bool = False
    coloured: bool = False
    columns: int = 0

    def line(self, text: str, colour: str = "") -> str:
        """A line, cut at the edge of a terminal, which no name that a process has made up can control."""
        text = "".join(letter if letter.isprintable() else "?" for letter in text)
        if self.columns and len(text) > self.columns:
            text = text[: self.columns - 1] + "…"
        return f"{colour}{text}{RESET}" if self.coloured and colour else text


def text(answers: Mapping[str, Answer], look: Look) -> Iterator[str]:
    """The lines for the answers of hosts."""
    for host, answer in answers.items():
        for service in answer["services"]:
            if service["state"] != "active":
                yield look.line(f"{host} {service['name']} is {service['state']}", RED)
        if not answer["processes"]:
            yield look.line(f"{host}: none of these processes runs", DIM)
        for process in answer["processes"]:
            yield from of_process(host, process, look)


def of_process(host: str, process: Mapping[str, Any], look: Look) -> Iterator[str]:
    """The lines for a process."""
    about = [f"process {process['pid']}"]
    about += [f"Python {process['python']}"] if process.get("python") else []
    about += [] if process["state"][:1] in "RS" else [process["state"]]
    about += [count(len(process[kind]), kind[:-1]) for kind in ("threads", "tasks") if process.get(kind)]
    yield look.line(f"{host} {process['service']}: {process['program']}, {', '.join(about)}", BOLD)
    if why := process.get("why"):
        yield look.line(f"  {why}: read from outside", RED)
    if "error" in process:
        yield look.line(f"  {process['error']}", DIM)
        yield ""
        return
    for problem in process["problems"]:
        yield look.line(f"  could not be read: {problem}", RED)
    for shared in shared_stacks(process):
        yield from of_shared(shared, look)
    if process["tasks_left_out"]:
        yield look.line(f"  {count(process['tasks_left_out'], 'more task')}, left out", DIM)
    yield ""


def of_shared(shared: SharedStack, look: Look) -> Iterator[str]:
    """The lines for the threads or tasks with one stack, the innermost frame first."""
    pale = DIM if shared.rank > Rank.OWN else ""
    what = f" {shared.what}" if shared.what else ""
    if len(shared.who) == 1:
        yield look.line(f"  {shared.kind} {shared.who[0]}{what}", pale or BOLD)
    else:
        yield look.line(f"  {count(len(shared.who), shared.kind)}{what}", pale or BOLD)
        yield from (look.line(line, pale) for line in named(shared.who, look))
    if shared.rank == Rank.IDLE and not look.everything:
        return
    highlight = pale or BRIGHT
    for own, frames in groupby(shared.stack, key=lambda frame: frame.own):
        if not own and not look.everything:
            yield look.line(f"{INDENT}{collapsed(list(frames))}", DIM)
            continue
        for frame in frames:
            position = f"{INDENT}{short(frame.file)}:{frame.line} {frame.function}"
            yield look.line(f"{position}: {frame.source}" if frame.source else position, highlight if own else DIM)
            highlight = pale if own else highlight  # only the innermost of our own lines
    if shared.left_out:
        yield look.line(f"{INDENT}… {count(shared.left_out, 'outer frame')}, left out", DIM)


def named(who: Sequence[str], look: Look) -> list[str]:
    """The names and ids of several threads or tasks, in lines that are not cut."""
    shown = who if look.everything else who[:MOST_NAMED]
    more = f"; and {len(who) - len(shown)} more" if len(who) > len(shown) else ""
    width = (look.columns or COLUMNS) - len(INDENT)
    wrapped = wrap("; ".join(shown) + more, width, break_long_words=False, break_on_hyphens=False)
    return [f"{INDENT}{line}" for line in wrapped]


def collapsed(frames: Sequence[Position]) -> str:
    """Frames of libraries, the innermost first, in one line that says how many there are and where the innermost is."""
    libraries = dict.fromkeys(library(frame.file) for frame in frames)
    return f"… {count(len(frames), 'frame')} of {', '.join(libraries)}: {frames[0].function}"


def short(file: str) -> str:
    """A path without the folders that say nothing: those of a release, of installed packages, of Python."""
    return _OURS.sub("", _LIBRARY.sub("", file))


def library(file: str) -> str:
    """The package or module that a file belongs to."""
    known = short(file)
    name = PurePath(known).name if known.startswith("/") else known.partition("/")[0]
    return name.removeprefix("<frozen ").removesuffix(">").removesuffix(".py")


def count(number: int, name: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"
