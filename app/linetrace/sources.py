"""The source text of traced files: each is read once, early, and not again when the program or an editor changes it."""

from __future__ import annotations

import io
import os
from tokenize import detect_encoding
from types import CodeType

from linetrace import clock

_open, _fstat = io.open, os.fstat

LARGEST = 2_000_000
"""Bytes of one file. Larger ones are generated; their lines are shown without source."""
LARGEST_SUM = 3_000_000
"""Bytes of all files that are kept. Beyond it the file that was read first is dropped."""


class Source:
    """The lines of one file as they were read. `late` tells that the file is newer than this process."""

    __slots__ = ("late", "lines", "size")

    def __init__(self, filename: str) -> None:
        self.lines: list[str] = []
        self.late = False
        self.size = 0
        try:
            with _open(filename, "rb") as file:
                status = _fstat(file.fileno())
                if status.st_size > LARGEST:
                    return
                content = file.read()
        except (OSError, ValueError):
            return
        self.late = status.st_mtime > clock.PROCESS_BEGAN
        self.size = len(content)
        self.lines = _lines(content)

    def line(self, number: int) -> str:
        """The line with this number, counted from 1, without its end; "" if there is none."""
        return self.lines[number - 1] if 0 < number <= len(self.lines) else ""

    def has(self, code: CodeType) -> bool:
        """Whether compiling the source as it was read gives this code. Takes as long as the file is long."""
        try:
            module = compile("\n".join(self.lines), code.co_filename, "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            return False
        waiting = [module]
        while waiting:
            each = waiting.pop()
            if each.co_name == code.co_name and each == code:
                return True
            waiting += [constant for constant in each.co_consts if type(constant) is CodeType]
        return False


def _lines(content: bytes) -> list[str]:
    """The lines of a Python file, decoded as its declaration says."""
    try:
        encoding, _ = detect_encoding(io.BytesIO(content).readline)
        text = io.TextIOWrapper(io.BytesIO(content), encoding, errors="replace").read()
    except (SyntaxError, LookupError):
        text = content.decode("utf-8", errors="replace")
    # Not splitlines(): form feeds and other separators do not end a line for Python.
    return [line.rstrip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]


class Sources:
    """Sources by file name, bounded in memory."""

    def __init__(self) -> None:
        self._kept: dict[str, Source] = {}
        self._size = 0

    def get(self, filename: str, *, again: bool = False) -> Source:
        """The source of a file; with `again` as it is now, because its module is executed anew."""
        source = self._kept.get(filename)
        if source is not None and not again:
            return source
        if source is not None:
            self._size -= source.size
            del self._kept[filename]
        source = Source(filename)
        self._kept[filename] = source
        self._size += source.size
        while self._size > LARGEST_SUM and len(self._kept) > 1:
            first = next(iter(self._kept))
            self._size -= self._kept.pop(first).size
        return source
