"""Byte ranges of downloads (RFC 9110, 14.1.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ONE = re.compile(r"\s*bytes\s*=\s*(?:(\d+)\s*-\s*(\d*)|-\s*(\d+))\s*", re.IGNORECASE | re.ASCII)


class Unsatisfiable(Exception):
    """The range is outside of the content."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes from `start` up to, not including, `end`."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """Number of bytes."""
        return self.end - self.start


def parse_range(header: str | None, size: int) -> Span | None:
    """The range that a header asks for, of content of `size` bytes. None: all of it.

    A malformed header, or one with several ranges, is ignored, as the RFC allows. Raises Unsatisfiable.
    """
    match = _ONE.fullmatch(header or "")
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        span = Span(max(0, size - int(suffix)), size)
    else:
        if last and int(last) < int(first):
            return None
        span = Span(int(first), min(size, int(last) + 1) if last else size)
    if span.length <= 0:
        raise Unsatisfiable(header)
    return span
