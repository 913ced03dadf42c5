"""Notices which local variables of a frame have changed since its last line."""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType, FrameType

from linetrace.values import Shower, any_of

_MOST_FRAMES = 500
_MOST_NAMES = 50
_OPTIMIZED = 0x1  # inspect.CO_OPTIMIZED: the code of a function, whose locals are not a dictionary


class Changes:
    """Remembers the texts of the variables whose names match one of the patterns, for the frames that run.

    On Python 3.12 reading the locals of a function also refreshes a dictionary that the program got from `locals()`.
    Since 3.13 (PEP 667) it does not.
    """

    def __init__(self, patterns: tuple[str, ...], shower: Shower) -> None:
        self._wanted = any_of(patterns)
        self._shower = shower
        self._frames: dict[int, tuple[list[int], dict[str, str]]] = {}
        self._names: dict[int, tuple[CodeType, tuple[str, ...]]] = {}

    def begin(self, frame: FrameType) -> None:
        """A frame starts: what is known of one that had its address is not about it."""
        self._frames.pop(id(frame), None)

    def end(self, frame: FrameType) -> Iterator[tuple[int, str]]:
        """The last changes of a frame that returns, as `at` gives them."""
        yield from self.at(frame, 0)
        self._frames.pop(id(frame), None)

    def at(self, frame: FrameType, number: int) -> Iterator[tuple[int, str]]:
        """(line, `name = value`) of each change since the frame's last line, which made it. Now `number` begins."""
        code = frame.f_code
        names = self._names_of(code)
        if not names:
            return
        known = self._frames.get(id(frame))
        if known is None:
            if len(self._frames) >= _MOST_FRAMES:
                self._frames.pop(next(iter(self._frames)), None)
            known = self._frames[id(frame)] = ([code.co_firstlineno or number], {})
        made_at, texts = known
        values = frame.f_locals
        if not code.co_flags & _OPTIMIZED and type(values) is not dict:
            return  # the namespace of a class whose metaclass made it: reading it would run the program's code
        for name in names:
            if name in values:
                text = self._shower.named(name, values[name])
                if texts.get(name) != text:
                    texts[name] = text
                    yield made_at[0], f"{name} = {text}"
        made_at[0] = number

    def _names_of(self, code: CodeType) -> tuple[str, ...]:
        known = self._names.get(id(code))
        if known is None:
            # The names that the code of a module or class stores are among its names, with those of globals.
            names = [*code.co_varnames, *code.co_cellvars, *code.co_freevars]
            if not code.co_flags & _OPTIMIZED:
                names += code.co_names
            chosen = tuple(dict.fromkeys(name for name in names if self._wanted(name)))[:_MOST_NAMES]
            if len(self._names) >= _MOST_FRAMES:
                self._names.pop(next(iter(self._names)), None)
            known = self._names[id(code)] = (code, chosen)
        return known[1]
