"""Which files are the program's own: those in the named folders, without libraries that are installed in them."""

from __future__ import annotations

import os
from collections.abc import Iterable

_LIBRARY_FOLDERS = frozenset({"site-packages", "dist-packages"})
_TRACER = os.path.dirname(os.path.abspath(__file__)) + os.sep  # noqa: PTH100, PTH120  # pathlib is slow to import
_STDLIB = os.path.dirname(os.path.realpath(os.__file__)) + os.sep  # noqa: PTH120
_MOST_REMEMBERED = 10_000


class OwnFiles:
    """Decides by the file name of a code object. `folders` may also name single files.

    A named folder inside of a library folder is own (a release is installed in `site-packages`). Files without `.py`
    are own only if they are named: compiled templates carry their template's name and line numbers of their own.
    """

    def __init__(self, folders: Iterable[str | os.PathLike[str]]) -> None:
        named = [os.path.realpath(folder) for folder in folders]
        self.folders = tuple(named)
        self._files = frozenset(path for path in named if not os.path.isdir(path))  # noqa: PTH112
        self._prefixes = tuple(path.rstrip(os.sep) + os.sep for path in named if path not in self._files)
        # The standard library is left out unless a folder inside of it, or itself, was named.
        named_inside = any(prefix.startswith(_STDLIB) for prefix in self._prefixes)
        self._not_own = (_TRACER,) if named_inside else (_TRACER, _STDLIB)
        try:
            self._start = os.getcwd()  # noqa: PTH109
        except FileNotFoundError:  # it was removed
            self._start = os.sep
        self._known: dict[str, bool] = {}

    def __contains__(self, filename: str) -> bool:
        known = self._known.get(filename)
        if known is None:
            known = self._decide(filename)
            if len(self._known) < _MOST_REMEMBERED:
                self._known[filename] = known
        return known

    def _decide(self, filename: str) -> bool:
        if filename.startswith("<"):
            return False
        # As it is written first: a folder may be named by a link, and the code object may have the link or its target.
        path = os.path.normpath(os.path.join(self._start, filename))  # noqa: PTH118
        return self._lies_within(path) or self._lies_within(os.path.realpath(path))

    def _lies_within(self, path: str) -> bool:
        if path in self._files:
            return True
        if not path.endswith((".py", ".pyw")) or path.startswith(self._not_own):
            return False
        return any(
            path.startswith(prefix) and _LIBRARY_FOLDERS.isdisjoint(path[len(prefix) :].split(os.sep))  # noqa: PTH206
            for prefix in self._prefixes
        )


def in_library(path: str) -> bool:
    """Whether a path lies in the standard library or among installed packages."""
    return path.startswith(_STDLIB) or not _LIBRARY_FOLDERS.isdisjoint(path.split(os.sep))  # noqa: PTH206
