"""WSGI middleware: gives each request a scope, so that it can be traced by its id, method, path, user or a token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from linetrace.context import Scope
from linetrace.entry import Entry, enter, finish, leave


class LineTrace:
    """Put it around a WSGI application (PEP 3333). The parameters are those of entry.Entry."""

    def __init__(
        self,
        app: Callable[..., Iterable[bytes]],
        folders: Sequence[str | Path] = (),
        *,
        token_key: bytes | None = None,
        environment: str = "",
        to: str = "syslog",
    ) -> None:
        self._app = app
        self._entry = Entry(folders, token_key=token_key, environment=environment, to=to)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request."""

        def header(name: str) -> str | None:
            value = environ.get(f"HTTP_{name.upper().replace('-', '_')}")
            return value if isinstance(value, str) else None

        path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
        scope = self._entry.scope(environ.get("REQUEST_METHOD", ""), path, header)
        token = enter(scope, begins=True)
        try:
            body = self._app(environ, start_response)
        except BaseException:
            leave(token)
            finish(scope)
            raise
        leave(token)
        # Servers treat lists and their own file wrappers in special ways, and these run no code of the program.
        if type(body) in (list, tuple) or isinstance(body, environ.get("wsgi.file_wrapper") or ()):
            finish(scope)
            return body
        return Steps(body, scope)


class Steps:
    """A body whose parts are made in the scope of its request, which ends with it."""

    def __init__(self, body: Iterable[bytes], scope: Scope) -> None:
        self._body = body
        self._scope = scope
        self._parts: Iterator[bytes] | None = None

    def __iter__(self) -> Steps:
        return self

    def __next__(self) -> bytes:
        token = enter(self._scope)
        try:
            if self._parts is None:
                self._parts = iter(self._body)
            return next(self._parts)
        finally:
            leave(token)

    def close(self) -> None:
        """The server calls this at the end, also if the client went away (PEP 3333)."""
        token = enter(self._scope)
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            leave(token)
            finish(self._scope)
