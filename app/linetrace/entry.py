"""What the entry points of web applications share (asgi.py, wsgi.py, django.py): scopes of requests, and tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from linetrace import context
from linetrace.context import Scope

if TYPE_CHECKING:
    from linetrace.trace import Trace

HEADER = "x-linetrace"
"""The header of a token. As in tokens.py, which is imported only when a request has it."""
REQUEST_ID = "x-request-id"
MOST_TOKENS = 4
"""Requests with a token that are traced at the same time."""
_LONGEST_ID = 128

log = logging.getLogger("linetrace")


class Entry:
    """Begins and ends the scopes of requests.

    `folders`, `token_key`, `environment` and `to` are for requests that ask by a token to be traced: whose lines, the
    key that tokens are signed with (None: none are taken), the environment that they must be for, and the sink.
    """

    def __init__(
        self,
        folders: Sequence[str | Path] = (),
        *,
        token_key: bytes | None = None,
        environment: str = "",
        to: str = "syslog",
    ) -> None:
        self._folders = folders
        self._token_key = token_key
        self._environment = environment
        self._to = to
        self._traces: list[Trace] = []

    def scope(
        self, method: str, path: str, header: Callable[[str], str | None], request_id: str | None = None
    ) -> Scope:
        """The scope of a request that begins. `header` gives a header by its name in lower case.

        The id of the request is its header `x-request-id` unless it is given.
        """
        given = request_id or (header(REQUEST_ID) or "")[:_LONGEST_ID]
        scope = Scope({"request": given} if given else {}, method=method, path=path)
        if self._token_key is not None and (token := header(HEADER)) is not None:
            self._trace_by_token(scope, token, self._token_key)
        return scope

    def _trace_by_token(self, scope: Scope, token: str, key: bytes) -> None:
        """Start a trace of this request alone. What goes wrong is logged; the request is served in any case."""
        from linetrace import tokens
        from linetrace.arm import arm
        from linetrace.selection import Selection
        from linetrace.sinks import open_sink

        try:
            grant = tokens.check(key, self._environment, token)
        except (tokens.TokenRefused, ValueError) as refused:  # ValueError: the key is too short
            log.warning("token refused: %s", refused, extra=scope.ids)
            return
        self._traces = [trace for trace in self._traces if not trace.ended]
        if len(self._traces) >= MOST_TOKENS:
            log.warning("not traced: %d requests with tokens are being traced", MOST_TOKENS, extra=scope.ids)
            return
        try:
            trace = arm(self._folders, open_sink(self._to), selection=Selection.marked())
        except Exception as error:  # noqa: BLE001  # the request must be served
            log.warning("not traced: %s", error, extra=scope.ids)
            return
        trace.about = {"by": grant.by, "reason": "token"}
        self._traces.append(trace)
        scope.marks = (trace,)
        log.info("trace armed", extra={**scope.ids, **trace.about})


enter, leave, finish = context.enter, context.leave, context.finish
