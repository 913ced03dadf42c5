"""ASGI middleware: gives each request a scope, so that it can be traced by its id, method, path, user or a token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from linetrace.entry import Entry, enter, finish, leave

type Message = MutableMapping[str, Any]
type App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


class LineTrace:
    """Put it around an ASGI application, outside of what shall be traced. The parameters are those of entry.Entry.

    `request_id(scope)` gives the id of a request if it is not that of the header `x-request-id`. Ids that become known
    later are added with `linetrace.add(user=...)`.
    """

    def __init__(
        self,
        app: App,
        folders: Sequence[str | Path] = (),
        *,
        token_key: bytes | None = None,
        environment: str = "",
        to: str = "syslog",
        request_id: Callable[[Message], str | None] = lambda _scope: None,
    ) -> None:
        self._app = app
        self._request_id = request_id
        self._entry = Entry(folders, token_key=token_key, environment=environment, to=to)

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Serve one connection (https://asgi.readthedocs.io/en/latest/specs/www.html)."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        def header(name: str) -> str | None:
            wanted = name.encode()
            return next((value.decode("latin-1") for key, value in scope["headers"] if key == wanted), None)

        # A web socket has no method; it begins as a GET (RFC 6455, section 4.1).
        served = self._entry.scope(scope.get("method", "GET"), scope["path"], header, self._request_id(scope))
        token = enter(served, begins=True)
        try:
            await self._app(scope, receive, send)
        finally:
            leave(token)
            finish(served)
