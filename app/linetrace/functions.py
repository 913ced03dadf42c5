"""Finds the functions of a program by name, so that a misspelt one is noticed when a trace is armed."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from linetrace.own import OwnFiles
from linetrace.selection import Chooser

_MOST = 20_000


def names(files: OwnFiles) -> Iterator[tuple[str, str]]:
    """(module, qualified name) of each function that imported modules of own files define. Calls none of their code."""
    seen: set[int] = set()
    for module in list(sys.modules.values()):
        if type(module) is not ModuleType or not isinstance(module.__dict__.get("__file__"), str):
            continue
        if module.__dict__["__file__"] not in files or not isinstance(module.__dict__.get("__name__"), str):
            continue
        for value in list(module.__dict__.values()):
            for code in _codes(value, seen):
                if len(seen) > _MOST:
                    return
                if code.co_filename in files:
                    yield module.__dict__["__name__"], code.co_qualname


def matching(chooser: Chooser, files: OwnFiles) -> list[str]:
    """`module.name` of the functions that a selection by function selects, sorted."""
    return sorted({f"{module}.{name}" for module, name in names(files) if chooser.wants_code(module, name)})


def near(pattern: str, files: OwnFiles) -> list[str]:
    """Up to three functions whose names are like the pattern."""
    known = sorted({f"{module}.{name}" for module, name in names(files)})
    by_end = [name for name in known if name.rpartition(".")[2] == pattern.rpartition(".")[2]]
    # As much of each name as was given: the module in front would make all of them unlike a short pattern.
    parts = pattern.count(".") + 1
    ends: dict[str, str] = {}
    for name in known:
        ends.setdefault(".".join(name.split(".")[-parts:]), name)
    similar = [ends[end] for end in difflib.get_close_matches(pattern, ends, n=3)]
    return list(dict.fromkeys((*by_end, *similar)))[:3]


def _codes(value: Any, seen: set[int]) -> Iterator[CodeType]:
    """The code of a function, of what a decorator hides, of the functions of a class, and of those nested inside."""
    if id(value) in seen:
        return
    kind = type(value)
    if kind is FunctionType:
        seen.add(id(value))
        yield from _nested(value.__code__)
        if "__wrapped__" in value.__dict__:
            yield from _codes(value.__dict__["__wrapped__"], seen)
    elif kind in (staticmethod, classmethod):
        yield from _codes(value.__func__, seen)
    elif kind is property:
        for part in (value.fget, value.fset, value.fdel):
            yield from _codes(part, seen)
    elif isinstance(value, type):
        seen.add(id(value))
        for each in list(type.__dict__["__dict__"].__get__(value).values()):
            yield from _codes(each, seen)


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if type(constant) is CodeType:
            yield from _nested(constant)
