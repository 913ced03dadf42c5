"""What the running code works for: request, job, upload and user, in a context variable that tasks inherit.

Entering and leaving costs about a microsecond while nothing is traced. A tracer that is armed is told of each scope
(`watch`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Protocol


class Scope:
    """The ids of a piece of work, and what the tracer has decided about it.

    `ids` are texts by name. `method` and `path` are those of the request, on its outermost scope. `marks` are the
    traces that a token began for it. `takers` are the traces that want the lines, valid for the tracer's `generation`;
    `foreign` is that generation if there are none.
    """

    __slots__ = ("_around", "foreign", "generation", "ids", "marks", "method", "path", "takers")

    def __init__(self, ids: dict[str, str], *, method: str = "", path: str = "", around: Scope | None = None) -> None:
        self.ids = ids
        self.method = method
        self.path = path
        self.marks: tuple[Any, ...] = ()
        self.generation = -1
        self.foreign = -1
        self.takers: tuple[Any, ...] = ()
        self._around = around

    @property
    def outermost(self) -> Scope:
        """The scope of the whole request or job that this one is in."""
        return self if self._around is None else self._around


class Watcher(Protocol):
    """What an armed tracer is told. None of these raises."""

    def begun(self, scope: Scope) -> None:
        """The running code entered the scope of a new request."""

    def changed(self, scope: Scope) -> None:
        """The running code entered the scope, or the scope that it is in got more ids."""

    def ended(self, scope: Scope) -> None:
        """The request of the scope was served, or its job has ended."""


current: ContextVar[Scope | None] = ContextVar("linetrace_scope", default=None)
_watcher: Watcher | None = None


def watch(watcher: Watcher | None) -> None:
    """Tell `watcher` of scopes from now on; None ends it."""
    global _watcher  # noqa: PLW0603  # one tracer a process: sys.monitoring is one a process too
    _watcher = watcher


def watched() -> bool:
    """Whether a tracer is armed. If not, ids that cost something to find out are not needed."""
    return _watcher is not None


def enter(scope: Scope, *, begins: bool = False) -> Token[Scope | None]:
    """Make this the scope of the running code, until `leave`; `begins` if a new request begins with it."""
    token = current.set(scope)
    if _watcher is not None:
        if begins:
            _watcher.begun(scope)
        else:
            _watcher.changed(scope)
    return token


def leave(token: Token[Scope | None]) -> None:
    """Go back to the scope before `enter`.

    Does nothing in another context than that of `enter`: frameworks end some generators elsewhere.
    """
    with suppress(ValueError):
        current.reset(token)


def finish(scope: Scope) -> None:
    """The request of the scope was served, or its job has ended: traces of it alone end."""
    if _watcher is not None:
        _watcher.ended(scope)


def texts(ids: Mapping[str, str | int | None]) -> dict[str, str]:
    """Ids as texts; those that are None are left out."""
    return {name: str(value) for name, value in ids.items() if value is not None}


class bound:  # noqa: N801  # used like a function
    """Put ids on the code inside the `with`: `with bound(job=5, upload="u7"):`.

    The ids of the scope around it stay; an id that is None is left out. Names are free; selections of the command line
    know `request`, `job`, `upload` and `user`.
    """

    __slots__ = ("_scope", "_token")

    def __init__(self, **ids: str | int | None) -> None:
        around = current.get()
        if around is None:
            self._scope = Scope(texts(ids))
        else:
            self._scope = Scope(around.ids | texts(ids), around=around.outermost)

    def __enter__(self) -> Scope:
        self._token = enter(self._scope)
        return self._scope

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        leave(self._token)


class request:  # noqa: N801  # used like a function
    """The code inside the `with` serves one request: `with request("GET", "/", request=id, user=name):`.

    A trace of "the next request" may choose it. A trace of this request alone ends with it.
    """

    __slots__ = ("_scope", "_token")

    def __init__(self, method: str, path: str, **ids: str | int | None) -> None:
        self._scope = Scope(texts(ids), method=method, path=path)

    def __enter__(self) -> Scope:
        self._token = enter(self._scope, begins=True)
        return self._scope

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        leave(self._token)
        finish(self._scope)


class job(bound):  # noqa: N801  # used like a function
    """The code inside the `with` is one whole job: `with job(job=5, upload="u7"):`.

    A trace of it ends with it, unless it ends by an exception: then it may run again.
    """

    __slots__ = ()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        leave(self._token)
        if kind is None:
            finish(self._scope)


def add(**ids: str | int | None) -> None:
    """Put more ids on the scope that the code is in and on its request, when they become known late (a user).

    Does nothing outside of any scope.
    """
    scope = current.get()
    if scope is None:
        return
    known = texts(ids)
    for each in {scope, scope.outermost}:
        each.ids = each.ids | known
        each.generation = each.foreign = -1
    if _watcher is not None:
        _watcher.changed(scope)
