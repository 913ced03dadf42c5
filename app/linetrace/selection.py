"""What a trace shows: everything, what has given ids, the next matching request, one function, or marked scopes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Any, Literal, get_args

from linetrace.context import Scope

Kind = Literal["everything", "ids", "next", "function", "marked"]


class SelectionError(ValueError):
    """A selection that makes no sense. The text says what to write instead."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Made by the class methods. `method`, `path`, `user` and `function` are patterns as of fnmatch; "" is any."""

    kind: Kind
    ids: Mapping[str, str] = field(default_factory=dict)
    method: str = ""
    path: str = ""
    user: str = ""
    follow: str = ""
    function: str = ""

    @classmethod
    def everything(cls) -> Selection:
        """All own code of the process."""
        return cls("everything")

    @classmethod
    def of(cls, **ids: str | int) -> Selection:
        """What works for these ids, all of them: `of(request="a1b2")`, `of(upload="u7")`. Raises SelectionError."""
        if not ids:
            raise SelectionError("a selection by ids names at least one: request, job, upload or user")
        return cls("ids", {name: str(value) for name, value in ids.items()})

    @classmethod
    def next(cls, *, method: str = "", path: str = "", user: str = "", follow: str = "") -> Selection:
        """The next request that matches. With `follow` (the name of an id, `upload`) also all later work of any kind
        that has the same id as that request.
        """
        return cls("next", method=method, path=path, user=user, follow=follow)

    @classmethod
    def of_function(cls, pattern: str) -> Selection:
        """The functions whose `module.qualified.name`, or qualified name alone, matches. Raises SelectionError."""
        if not pattern:
            raise SelectionError("a function is named as module.function or module.Class.method; * stands for anything")
        return cls("function", function=pattern)

    @classmethod
    def marked(cls) -> Selection:
        """Only scopes that an entry point marks for this trace (a request with a token)."""
        return cls("marked")

    @classmethod
    def from_json(cls, values: object) -> Selection:
        """The selection of a message. Raises SelectionError."""
        if not isinstance(values, dict) or values.get("kind") not in get_args(Kind):
            raise SelectionError(f"a selection has one of these kinds: {', '.join(get_args(Kind))}")
        unknown = set(values) - set(cls.__slots__)
        if unknown:
            raise SelectionError(f"a selection has no {', '.join(sorted(map(str, unknown)))}")
        ids = values.get("ids", {})
        named = {name: value for name, value in values.items() if name != "ids"}
        if not isinstance(ids, dict) or not all(
            isinstance(text, str) for text in [*ids, *ids.values(), *named.values()]
        ):
            raise SelectionError("the values of a selection are texts")
        if named["kind"] == "ids":
            cls.of(**ids)
        if named["kind"] == "function":
            cls.of_function(named.get("function", ""))
        return cls(**named, ids=ids)

    def as_json(self) -> dict[str, Any]:
        """The selection as a message holds it, without what is empty."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in values.items() if value}


class Chooser:
    """Applies a selection to scopes and functions, and remembers the request that was chosen. Not thread-safe."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.chosen: Scope | None = None
        self.followed = ""
        self._method = _matcher(selection.method.upper())
        self._path = _matcher(selection.path)
        self._user = _matcher(selection.user)
        self._function = _matcher(selection.function)

    @property
    def by_scope(self) -> bool:
        """Whether the selection is about scopes, so that code of no scope is never shown."""
        return self.selection.kind in ("ids", "next", "marked")

    def wants_code(self, module: str, name: str) -> bool:
        """Whether the code object is selected whoever runs it: by its own name or that of a function around it."""
        if self.selection.kind != "function":
            return self.selection.kind == "everything"
        parts = name.split(".<locals>.")
        outer = [".<locals>.".join(parts[: count + 1]) for count in range(len(parts))]
        return any(self._function(text) for name in outer for text in (name, f"{module}.{name}"))

    def wants(self, scope: Scope) -> bool:
        """Whether lines of the scope are shown as things are now."""
        selection = self.selection
        if selection.kind == "ids":
            return all(scope.ids.get(name) == value for name, value in selection.ids.items())
        if selection.kind != "next":
            return False
        if self.followed and scope.ids.get(selection.follow) == self.followed:
            return True
        return self.chosen is not None and self.chosen is scope.outermost

    def offer(self, scope: Scope, *, begins: bool) -> None:
        """Choose the request of this scope if it is the next that matches.

        A request that began before the trace is not the next one, unless its user, who is known later, is asked for.
        """
        selection = self.selection
        if selection.kind != "next" or self.chosen or self.followed or not (begins or selection.user):
            return
        request = scope.outermost
        matches = request.method and self._method(request.method) and self._path(request.path)
        if matches and self._user(scope.ids.get("user", "")):
            self.chosen = request

    def follow_other(self, value: str) -> None:
        """Take this value of the followed id: the next request has come to another process."""
        if value != self.followed:
            self.chosen, self.followed = None, value

    def follow(self, scope: Scope) -> bool:
        """Take the followed id from a scope of the chosen request; whether this widens the selection."""
        known = scope.ids.get(self.selection.follow, "")
        if self.followed or not known or self.chosen is None or self.chosen is not scope.outermost:
            return False
        self.followed = known
        return True

    def ends_with(self, scope: Scope) -> bool:
        """Whether nothing is expected to follow after this request or job; an upload ends with its job."""
        selection = self.selection
        is_job = not scope.method
        if selection.kind == "next":
            if self.followed:
                return is_job and self.wants(scope)
            return scope is self.chosen
        if selection.kind != "ids" or not self.wants(scope):
            return False
        return bool({"job", "upload"} & set(selection.ids)) if is_job else "request" in selection.ids


class _matcher:  # noqa: N801  # used like a function
    def __init__(self, pattern: str) -> None:
        self._match = re.compile(translate(pattern)).match if pattern else None

    def __call__(self, text: str) -> bool:
        return self._match is None or self._match(text) is not None
