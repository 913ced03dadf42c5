"""One trace: takes what the monitor sees, within its limits, and passes it on to be formatted and sent.

What runs in the threads of the program is short: it counts, and appends a tuple to a queue. drain.py does the rest.
A script's trace is *direct* instead: each line is written before the program goes on, so none is lost however it ends.
"""

from __future__ import annotations

import sys
from _thread import get_ident
from collections import deque
from collections.abc import Callable, Mapping
from itertools import count
from types import CodeType, FrameType
from typing import TYPE_CHECKING, NamedTuple

from linetrace.changes import Changes
from linetrace.clock import monotonic
from linetrace.context import Scope
from linetrace.limits import QUEUED_RECORDS, Limits, Options
from linetrace.own import OwnFiles
from linetrace.selection import Chooser, Selection
from linetrace.values import Shower, any_of

if TYPE_CHECKING:
    from linetrace.record import Line
    from linetrace.sources import Source

_getframe = sys._getframe
_DEEPEST = 500
LOOK_SECONDS = 0.5
CO_VARARGS, CO_VARKEYWORDS = 0x4, 0x8  # as in inspect, which takes long to import
_SLOTS = count()


class CodeState:
    """What is known of one code object of the program's own files."""

    __slots__ = (
        "always",
        "code",
        "file",
        "foreign",
        "lit",
        "locations",
        "module",
        "name",
        "patience",
        "scoped",
        "source",
    )

    def __init__(self, code: CodeType, module: str) -> None:
        self.code = code
        self.module = module
        self.file = code.co_filename
        self.name = code.co_qualname
        self.always: tuple[Trace, ...] = ()
        """Traces that take its lines whoever runs it."""
        self.scoped: tuple[Trace, ...] = ()
        """Traces that take its lines in the scopes that they have selected."""
        self.lit = False
        """Whether line events are on."""
        self.foreign = 0
        self.patience = 1
        self.locations: dict[int, dict[int | str, count[int]]] = {}
        """By slot of the trace, and line number (or another event's name): how often it was executed."""
        self.source: Source | None = None


type Record = tuple[float, str, CodeState | Line | None, int, int, Scope | None, str]
"""What is queued: time, kind, code (None for what the tracer says of itself), line, thread, scope, text.

Instead of code: the line of a child process.
"""


class Counts(NamedTuple):
    """Of a trace so far: lines shown, and lines not shown by reason."""

    lines: int
    over_rate: int
    queue_full: int
    sink: int
    repeated: int

    @property
    def dropped(self) -> int:
        """Lines that would have been shown if the tracer had been faster."""
        return self.over_rate + self.queue_full + self.sink


def so_far(counter: count[int]) -> int:
    """What `next` of the counter would give: its state without changing it."""
    return int(repr(counter)[6:-1])


def _parameters(code: CodeType) -> tuple[str, ...]:
    """Names of the parameters of a function, in the order in which its code has them."""
    stars = bool(code.co_flags & CO_VARARGS) + bool(code.co_flags & CO_VARKEYWORDS)
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + stars]


class Trace:
    """See the module. `stop` ends it from any thread; `ended` then has the reason, and is "" before."""

    def __init__(
        self,
        files: OwnFiles,
        *,
        selection: Selection,
        limits: Limits,
        options: Options,
        ids: Mapping[str, str],
        direct: Callable[[Record], None] | None = None,
        reader_gone: Callable[[], bool] = lambda: False,
    ) -> None:
        """`direct` writes each record at once; `reader_gone` then says whether nobody can read what it writes."""
        self.files = files
        self.direct = direct
        self._reader_gone = reader_gone
        self._look_at = 0.0
        self.limits = limits
        self.options = options
        self.ids = dict(ids)
        self.chooser = Chooser(selection)
        self.about: Mapping[str, str] = {}
        """Who asked for it, and why."""
        self.ended = ""
        self.began = monotonic()
        self.deadline = self.began + limits.seconds
        self.slot = next(_SLOTS)
        self.queue: deque[Record] = deque()
        self.fresh: deque[CodeState] = deque()
        """Code seen for the first time, whose source is to be read."""
        self.modules: dict[str, str] = {}
        """By file: the module, for the summary."""
        self.lost_by_sink = 0
        self.on_stop: Callable[[], None] = lambda: None
        """Takes the trace out of the monitor; set by the monitor."""
        self._shower = Shower(options.allow_repr, options.secrets)
        self._changes = Changes(options.values, self._shower) if options.values else None
        self._taken, self._over_rate, self._queue_full, self._repeated = count(), count(), count(), count()
        self._locations: dict[str, dict[int | str, count[int]]] = {}
        self._ids_shown: set[tuple[tuple[str, str], ...]] = set()
        self._take = self._make_take()
        self.line = self._make_line()

    def emit(self, record: Record) -> None:
        """Pass on what counts as no line of its own."""
        if self.direct is not None:
            self.direct(record)
        elif len(self.queue) < QUEUED_RECORDS:
            self.queue.append(record)

    def saw(self, state: CodeState) -> None:
        """The code object is seen for the first time."""
        state.locations[self.slot] = self._locations.setdefault(state.file, {})
        self.modules[state.file] = state.module
        self.fresh.append(state)

    def stop(self, reason: str) -> None:
        """End the trace. The first reason stays."""
        if not self.ended:
            self.ended = reason
            self.on_stop()

    @property
    def counts(self) -> Counts:
        """See Counts."""
        over_rate, queue_full = so_far(self._over_rate), so_far(self._queue_full)
        lines = min(so_far(self._taken), self.limits.lines) - over_rate - queue_full - self.lost_by_sink
        return Counts(max(0, lines), over_rate, queue_full, self.lost_by_sink, so_far(self._repeated))

    def hidden(self) -> dict[tuple[str, int], int]:
        """(file, line) -> how often it was executed without being shown, for locations beyond their limit."""
        allowed = self.limits.per_location
        return {
            (file, number): so_far(counter) - 1 - allowed
            for file, numbers in list(self._locations.items())
            for number, counter in list(numbers.items())
            if type(number) is int and so_far(counter) - 1 > allowed
        }

    # --- Called in the threads of the program, by the monitor -------------------------------------------------------

    def _make_line(self) -> Callable[[CodeState, int, Scope | None], None]:
        """The function that takes a line of the frame two below. Most of the time of a trace is spent here."""
        slot, changes, counted = self.slot, self._changes, self._counted
        per_location = self.limits.per_location

        def line(state: CodeState, number: int, scope: Scope | None) -> None:
            places = state.locations[slot]
            counter = places.get(number)
            if counter is None:
                counter = places.setdefault(number, count(1))
            times = next(counter)
            if times > per_location:
                counted(times, state, number, scope)
                return
            if changes is not None:
                self._values(state, changes.at(_getframe(2), number), scope)
            take("line", state, number, scope, "")

        take = self._take
        return line

    def call(self, state: CodeState, scope: Scope | None) -> None:
        """The frame two below starts."""
        frame = _getframe(2)
        if self._changes is not None:
            self._changes.begin(frame)
        if self.options.calls and self._allowed(state, "call"):
            names = _parameters(state.code)
            arguments = self._shower.arguments(names, frame.f_locals) if names else ""
            text = f"-> {state.name}({arguments}) depth {self._depth(frame)}"
            self._take("call", state, state.code.co_firstlineno, scope, text)

    def leave(self, state: CodeState, scope: Scope | None, kind: str, value: object) -> None:
        """The frame two below returns or yields."""
        frame = _getframe(2)
        number = frame.f_lineno or state.code.co_firstlineno
        if not self._allowed(state, f"{kind} {number}"):
            return
        if self._changes is not None and kind == "return":
            self._values(state, self._changes.end(frame), scope)
        if self.options.returns:
            shown = self._shower.named(state.name.rpartition(".")[2], value)
            self._take(kind, state, number, scope, f"{'<-' if kind == 'return' else '<~'} {state.name} = {shown}")

    def fails(self, state: CodeState, scope: Scope | None, error: BaseException) -> None:
        """An exception is raised in the frame two below, or arrives there."""
        number = _getframe(2).f_lineno or state.code.co_firstlineno
        if self._allowed(state, f"exception {number}"):
            self._take("exception", state, number, scope, f"!! {self._shower.exception(error)}")

    def of_child(self, line: Line, scope: Scope | None) -> None:
        """Take a line that a child process has executed for the scope, unless it was for another trace's options."""
        options = self.options
        shown = {
            "call": options.calls,
            "return": options.returns,
            "yield": options.returns,
            "exception": options.exceptions,
            "value": any_of(options.values)(line.text.removeprefix("== ").partition(" = ")[0]),
        }
        if shown.get(line.kind, True):
            told = line if options.timing else line._replace(since=None)
            self._take(line.kind, told, line.number, scope, line.text)

    def knows(self, scope: Scope) -> None:
        """A selected scope has these ids: shown once."""
        key = tuple(scope.ids.items())
        if key and key not in self._ids_shown:
            if len(self._ids_shown) >= 1_000:
                self._ids_shown.clear()
            self._ids_shown.add(key)
            text = "## " + " ".join(f"{name}={value!r}" for name, value in key)
            self.emit((monotonic(), "ids", None, 0, get_ident(), scope, text))

    def _allowed(self, state: CodeState, place: str) -> bool:
        """Count an event other than a line at its place; whether it is shown."""
        places = state.locations[self.slot]
        counter = places.get(place)
        if counter is None:
            counter = places.setdefault(place, count(1))
        times = next(counter)
        if times > self.limits.per_location:
            next(self._repeated)
            return False
        return True

    def _counted(self, times: int, state: CodeState, number: int, scope: Scope | None) -> None:
        """A line beyond the limit of its location: said once."""
        next(self._repeated)
        if self.direct is not None and times % 16 == 0:
            self._look()
        if times == self.limits.per_location + 1 and not self.ended:
            text = f"## shown {times - 1:,} times, from now on only counted"
            self.emit((monotonic(), "count", state, number, get_ident(), scope, text))

    def _look(self) -> None:
        """End a direct trace, which has no thread of its own, in time, though it shows nothing now."""
        now = monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        if now >= self.deadline:
            self.stop(f"its {self.limits.seconds:g} s are over")
        elif self._reader_gone():
            self.stop("nobody reads its lines any more")

    def _values(self, state: CodeState, changed: object, scope: Scope | None) -> None:
        for number, text in changed:  # type: ignore[attr-defined]  # an iterator of Changes
            self._take("value", state, number, scope, f"== {text}")

    def _make_take(self) -> Callable[[str, CodeState | Line, int, Scope | None, str], None]:
        """The function that passes on what is shown, within the limits: kind, code, line, scope and text."""
        limits, queue, append, deadline = self.limits, self.queue, self.queue.append, self.deadline
        taken, queue_full, over_rate = self._taken, self._queue_full, self._over_rate
        last, per_second, bound, direct = limits.lines - 1, limits.per_second, QUEUED_RECORDS, self.direct
        window_ends, window = self.began + 1.0, count()

        def take(kind: str, state: CodeState | Line, number: int, scope: Scope | None, text: str) -> None:
            nonlocal window_ends, window
            if self.ended:
                return
            now = monotonic()
            if now >= deadline:
                self.stop(f"its {limits.seconds:g} s are over")
                return
            number_of_all = next(taken)
            if number_of_all > last:
                return  # another thread has taken the last
            if now >= window_ends:
                window_ends, window = now + 1.0, count()
            if next(window) >= per_second:
                next(over_rate)
            elif direct is not None:
                direct((now, kind, state, number, get_ident(), scope, text))
            elif len(queue) < bound:
                append((now, kind, state, number, get_ident(), scope, text))
            else:
                next(queue_full)
            if number_of_all == last:
                self.stop(f"it has shown {limits.lines:,} lines")

        return take

    def _depth(self, frame: FrameType | None) -> int:
        """How many frames of own files are on the stack, at most _DEEPEST."""
        depth = 0
        while frame is not None and depth < _DEEPEST:
            depth += frame.f_code.co_filename in self.files
            frame = frame.f_back
        return depth
