"""Shows a trace while it runs: its lines on standard output, and a counter below them on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from functools import lru_cache

from rich.console import Console
from rich.syntax import Syntax

from ops.console import console
from ops.trace.recording import HostLine, clock, id_of, printable, text_of, took
from ops.trace.session import Progress

REDRAW_SECONDS = 0.2
SAID_SECONDS = 10.0
"""Between two counters where there is no terminal."""
ID_LENGTH = 8
"""Letters of an id that are shown where there is colour, for people."""
HOST_COLOURS = (36, 33, 35, 32, 34, 31)
"""ANSI colours of hosts, in the order in which they appear."""
DIM, BOLD_RED, RESET = "\x1b[2m", "\x1b[1;31m", "\x1b[0m"


@lru_cache(maxsize=20_000)
def _coloured_source(source: str) -> str:
    terminal = Console(force_terminal=True, color_system="standard", soft_wrap=True, width=len(source) + 1)
    with terminal.capture() as written:
        terminal.print(Syntax("", "python", theme="ansi_dark").highlight(source), end="")
    return written.get().rstrip("\n")


class TraceDisplay:
    """Used as `with`; at its end the counter is gone. Colours only where standard output is a terminal."""

    def __init__(self) -> None:
        self._coloured = sys.stdout.isatty()
        # Without a terminal behind standard output, the counter would stand amid other things.
        self._counts = self._coloured and console.is_terminal and not console.is_dumb_terminal
        self._hosts: dict[str, int] = {}
        self._drawn = False
        self._draw_at = 0.0
        self._say_at = time.monotonic() + SAID_SECONDS

    def __enter__(self) -> TraceDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def show(self, lines: Iterable[HostLine]) -> None:
        """Print lines."""
        self._clear()
        sys.stdout.write("".join(f"{self._text(line)}\n" for line in lines))
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """Print a message that is no line."""
        self._clear()
        console.print(printable(text), markup=False)

    def tick(self, progress: Progress) -> None:
        """Show the state: on a terminal below the lines, elsewhere now and then on standard error."""
        now = time.monotonic()
        dropped = f", {progress.dropped:,} dropped" if progress.dropped else ""
        text = (
            f"{progress.lines:,} lines{dropped}, {progress.hosts} hosts armed, "
            f"{progress.seconds_left:.0f} s left, Ctrl-C ends"
        )
        if self._counts and now >= self._draw_at:
            self._clear()
            sys.stdout.write(f"{DIM}{text[: console.width - 1]}{RESET}")
            sys.stdout.flush()
            self._drawn, self._draw_at = True, now + REDRAW_SECONDS
        elif not self._counts and now >= self._say_at:
            self._say_at = now + SAID_SECONDS
            console.print(text, markup=False)

    def _clear(self) -> None:
        if self._drawn:
            sys.stdout.write("\r\x1b[K")
            self._drawn = False

    def _text(self, line: HostLine) -> str:
        if not self._coloured:
            return text_of(line)
        colour = self._hosts.setdefault(line["host"], HOST_COLOURS[len(self._hosts) % len(HOST_COLOURS)])
        source = printable(line["source"])
        if line["kind"] == "line":
            source = _coloured_source(source)
        else:
            source = f"{BOLD_RED if line['kind'] == 'exception' else DIM}{source}{RESET}"
        return (
            f"{DIM}{clock(line)}{RESET} \x1b[{colour}m{line['host']}{RESET} {id_of(line)[:ID_LENGTH]:<{ID_LENGTH}} "
            f"{DIM}{printable(line['module'])}:{line['line']}:{RESET} {source}{DIM}{took(line)}{RESET}"
        )
