"""The live feed: the changes that this process polls (`Receivers.subscribe`) are sent to the open pages.

Each connection first gets all uploads that its page shows (`all`), then each one that changes (`one`). So nothing is
remembered between connections, and a browser may reconnect to any server. Server-sent events:
https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from longhaul import logs
from longhaul.services import Services
from longhaul.uploads.model import State, Upload
from longhaul.web.views import view

log = logs.get(__name__)

HEARTBEAT_SECONDS = 10.0
"""Longest time without a line: keeps proxies from closing the connection. Silent uploads are noticed this often."""
LIFE_SECONDS = 600.0
"""A connection ends after this time, and the browser makes a new one. So sessions are checked again, and connections
are spread over the web hosts again after one of them was drained."""
RECONNECT_MS = 2000
SHOWN = 200
"""Rows on a page."""


class Feed:
    """All live connections of this process."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._connections: set[_Connection] = set()
        services.receivers.subscribe(self._changed)

    def _changed(self, uploads: list[Upload]) -> None:
        for connection in self._connections:
            connection.take(uploads)

    async def events(self, owner: str, only: str | None = None) -> AsyncIterator[bytes]:
        """Event stream of the owner's uploads, or of `only` one. Raises DatabaseUnavailable, NotFound at its start."""
        connection = _Connection(owner, only)
        # If this server stops, browsers reconnect to another one.
        closing = asyncio.create_task(self._services.receivers.closing.wait())
        closing.add_done_callback(lambda _: connection.wake.set())
        # Before reading the current state, so that no change falls between the two.
        self._connections.add(connection)
        try:
            if only is None:
                uploads = await self._services.uploads.list(owner, SHOWN)
            else:
                uploads = [await self._services.uploads.get(only)]
            ends_at = time.monotonic() + LIFE_SECONDS
            yield f"retry: {RECONNECT_MS}\n\n".encode() + connection.everything(uploads)
            while not closing.done() and time.monotonic() < ends_at:
                try:
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await connection.wake.wait()
                except TimeoutError:
                    yield b": still here\n\n"
                connection.wake.clear()
                for event in connection.news():
                    yield event
        finally:
            self._connections.discard(connection)
            closing.cancel()


class _Connection:
    """What one page has been told. Keeps at most one waiting change per upload, even if the browser reads slowly."""

    def __init__(self, owner: str, only: str | None) -> None:
        self.wake = asyncio.Event()
        self._owner = owner
        self._only = only
        self._waiting: dict[str, Upload] = {}
        self._receiving: dict[str, Upload] = {}
        self._told: dict[str, tuple[int, bytes]] = {}

    def take(self, uploads: list[Upload]) -> None:
        for upload in uploads:
            if upload.owner == self._owner and self._only in (None, upload.id):
                self._waiting[upload.id] = upload
                self.wake.set()

    def everything(self, uploads: list[Upload]) -> bytes:
        for upload in uploads:
            self._remember(upload)
        return _event("all", b"[" + b",".join(self._told[upload.id][1] for upload in uploads) + b"]")

    def news(self) -> list[bytes]:
        """An event for each upload whose view differs from the last one sent."""
        waiting, self._waiting = self._waiting, {}
        events: list[bytes] = []
        # If nothing arrives, the row does not change, but after a while its view does.
        for upload in [*waiting.values(), *self._receiving.values()]:
            version, text = self._told.get(upload.id, (-1, b""))
            if upload.version >= version and self._remember(upload) != text:
                events.append(_event("one", self._told[upload.id][1]))
        return events

    def _remember(self, upload: Upload) -> bytes:
        text = json.dumps(view(upload, datetime.now(UTC)).as_json(), ensure_ascii=False).encode()
        self._told[upload.id] = (upload.version, text)
        if upload.state is State.RECEIVING:
            self._receiving[upload.id] = upload
        else:
            self._receiving.pop(upload.id, None)
        return text


def _event(name: str, data: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
