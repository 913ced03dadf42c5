"""The receivers of this process, and how they learn that an upload was taken over elsewhere.

Once a second, one query reads the uploads that are received here and all rows that changed since. The database does not
notify anybody, because a NOTIFY would make commits wait for each other. This module does not decide what counts: a
receiver that never learns of its end still cannot commit.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Protocol

from longhaul import logs
from longhaul.database import DatabaseUnavailable
from longhaul.uploads.decisions import Uploads
from longhaul.uploads.model import Upload

log = logs.get(__name__)

OVERLAP = timedelta(seconds=15)
"""A changed row is read for this long: a transaction may become visible long after its `updated_at`."""


class Call(Enum):
    """What a receiver can be told."""

    STALE = "its epoch is over"
    HAND_OVER = "the process ends"
    ASKED = "another connection wants the upload"
    FULL = "the process holds too much in memory"


class Live(Protocol):
    """A receiver, as this module sees it."""

    upload_id: str
    epoch: int

    def call(self, what: Call) -> None:
        """Tell the receiver. Returns at once."""


type Subscriber = Callable[[list[Upload]], None]


class Receivers:
    """All receivers of this process."""

    def __init__(self, uploads: Uploads, *, poll_seconds: float) -> None:
        self._uploads = uploads
        self._poll_seconds = poll_seconds
        self._live: dict[str, set[Live]] = {}
        self._subscribers: set[Subscriber] = set()
        self._told: dict[str, int] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self.process = f"{uploads.server}:{secrets.token_hex(4)}"
        """Name of this process in the rows of the uploads it receives. It changes with each start."""
        self.closing = asyncio.Event()
        """Set when the process hands over. Event streams then end."""
        self.polled_at: float | None = None
        """Time of the event loop's clock at the end of the last poll that reached the database."""

    def add(self, receiver: Live) -> None:
        """Register a receiver: from now on it is told."""
        self._live.setdefault(receiver.upload_id, set()).add(receiver)
        self._empty.clear()
        if self.closing.is_set():
            receiver.call(Call.HAND_OVER)

    def remove(self, receiver: Live) -> None:
        """Remove a receiver that has ended."""
        left = self._live.get(receiver.upload_id, set())
        left.discard(receiver)
        if not left:
            self._live.pop(receiver.upload_id, None)
        if not self._live:
            self._empty.set()

    def all(self) -> list[Live]:
        """The receivers that have not ended."""
        return [receiver for group in self._live.values() for receiver in group]

    def taken(self, upload: Upload) -> None:
        """Tell the receivers of an upload that was taken over or asked for. Used by this process to save a poll."""
        for receiver in list(self._live.get(upload.id, ())):
            if receiver.epoch < upload.epoch:
                receiver.call(Call.STALE)
            elif upload.asked_epoch == receiver.epoch:
                receiver.call(Call.ASKED)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber` after each poll with the changed uploads. Returns a function that ends this."""
        self._subscribers.add(subscriber)
        return lambda: self._subscribers.discard(subscriber)

    async def poll(self) -> None:
        """Read the database once, and tell receivers and subscribers. Raises DatabaseUnavailable."""
        since = datetime.now(UTC) - OVERLAP if self._subscribers else None
        rows = await self._uploads.watched(list(self._live), since)
        for upload in rows:
            self.taken(upload)
        changed = [upload for upload in rows if self._told.get(upload.id) != upload.version]
        self._told = {upload.id: upload.version for upload in rows}
        if changed:
            for subscriber in list(self._subscribers):
                subscriber(changed)
        self.polled_at = asyncio.get_running_loop().time()

    async def watch(self) -> None:
        """Poll until cancelled."""
        while True:
            try:
                await self.poll()
            except DatabaseUnavailable as error:
                log.warning("cannot ask for changed uploads", extra={"error": str(error)})
            await asyncio.sleep(self._poll_seconds)

    async def hand_over(self) -> None:
        """Make every receiver store and commit what it has; returns when all have ended."""
        self.closing.set()
        for receiver in self.all():
            receiver.call(Call.HAND_OVER)
        await self._empty.wait()
