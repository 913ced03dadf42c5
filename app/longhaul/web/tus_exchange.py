"""One request of the tus protocol and its answer, on the bare ASGI interface. The body is read as it arrives. A request
ends with an answer, a refusal, or a connection that is closed without an answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from longhaul import logs
from longhaul.uploads.receiving import Disconnected, Source

log = logs.get(__name__)

VERSION = "1.0.0"
ABORT = "longhaul.abort"
"""ASGI extension: a function that closes the connection at once, without an answer (see `server.Protocol`)."""
LINGER_SECONDS = 2.0
"""If the connection is closed while the client still sends the body, the client loses the answer. So the rest of the
body is read and thrown away for this time."""


class Refusal(Exception):
    """An error answer. Its text tells the client what to do."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers or {}


class Silence(Exception):
    """The connection is to be closed without an answer."""


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.headers = Headers(scope=scope)
        self.request_id: str | None = scope.get("state", {}).get("request_id")
        self._receive = receive
        self._send = send
        self._body_ended = self.headers.get("content-length", "0") == "0" and ("transfer-encoding" not in self.headers)

    def body(self) -> Source:
        """The request's body."""

        async def read() -> bytes:
            while not self._body_ended:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                self._body_ended = not message.get("more_body", False)
                if data := message.get("body", b""):
                    return bytes(data)
            return b""

        return read

    async def answer(
        self, status: int, headers: dict[str, str] | None = None, text: str = "", *, linger: bool = True
    ) -> None:
        """Send an answer. If the body has not ended, read on for LINGER_SECONDS, so that the answer is not lost."""
        body = f"{text}\n".encode() if text else b""
        fields = {"Tus-Resumable": VERSION, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        fields |= headers or {}
        if status != HTTPStatus.NO_CONTENT:
            fields["Content-Length"] = str(len(body))
        if body:
            fields["Content-Type"] = "text/plain; charset=utf-8"
        linger = linger and not self._body_ended
        if not self._body_ended:
            fields["Connection"] = "close"
        start: Message = {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in fields.items()],
        }
        await self._send(start)
        if self.scope["method"] == "HEAD":
            body = b""
        if linger:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
            await self._discard()
            body = b""
        await self._send({"type": "http.response.body", "body": body})

    async def refuse(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        """Answer with an error."""
        log.info("refused", extra={"status": status, "reason": text})
        # A client that misses a 423 sees a network error, and does the same then.
        await self.answer(status, headers, text, linger=status != HTTPStatus.LOCKED)

    async def close(self) -> None:
        """Close the connection without an answer."""
        if not self.abort():
            await self.answer(423, {}, "this cannot be done now: try again in a minute")
            return
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def abort(self) -> bool:
        """Close the connection at once. Returns whether that is possible here."""
        abort: Callable[[], None] | None = self.scope.get("extensions", {}).get(ABORT)
        if abort is not None:
            abort()
        return abort is not None

    async def _discard(self) -> None:
        if self.headers.get("expect", "").lower() == "100-continue":
            return  # the client waits for "100 Continue" before it sends the body
        deadline = time.monotonic() + LINGER_SECONDS
        read = self.body()
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while await read() and time.monotonic() < deadline:
                    pass
        except (TimeoutError, Disconnected):
            pass
