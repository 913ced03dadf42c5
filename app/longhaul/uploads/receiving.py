"""The bytes of one connection become pieces that count.

A receiver is one task. It waits for bytes. Between two waits it checks what is due: it was told to leave, a piece was
open for long enough, or the client is silent. Bytes are collected in memory up to a batch, then the batch is appended
to the open piece. So a fast client's piece is one long request to the store, and a slow client's piece is sent whole
when its time is over. A request to the store never waits for a slow client.

If the sender announced a checksum of the body, nothing counts before the whole body has arrived and matches. Its pieces
are stored meanwhile. They count together at the end, or never.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from longhaul import logs
from longhaul.database import DatabaseUnavailable
from longhaul.settings import Settings
from longhaul.stores.content import hashing
from longhaul.stores.interface import Store, StoreError
from longhaul.uploads.checksum import Checksum
from longhaul.uploads.decisions import Uploads
from longhaul.uploads.epochs import Call, Receivers
from longhaul.uploads.model import Piece, State, TakenOver, TooLarge, Upload
from longhaul.uploads.pieces import PieceWriter

log = logs.get(__name__)

BATCH = 1 << 20
"""Bytes that go to the store at once. Smaller batches cost more switches of threads, larger ones more memory."""
TURN_SECONDS = 1.0
"""A client that is asked to leave may still send until it has had this much time. Else two clients that take an upload
from each other as fast as they can would store almost nothing."""
GIVE_WAY_SECONDS = 0.5
"""A client that had to leave gets its answer only after this time, so that it does not come back at once. The process
that waits looks ten times a second, and must find the upload free."""
IDLE_BYTES = 1024
"""A client that sends less than this in the idle time is silent."""


class Disconnected(Exception):
    """The client's connection ended in the middle of the body."""


type Source = Callable[[], Awaitable[bytes]]
"""Waits for the next bytes; b"" at the end of the body. Raises Disconnected. Loses nothing if it is cancelled."""


class Ending(Enum):
    """Why a receiver ended. In every case, the bytes up to `Received.offset` are committed."""

    COMPLETE = "the body ended"
    DISCONNECTED = "the client closed the connection"
    IDLE = "the client was silent for too long"
    ASKED = "another connection wants the upload"
    TAKEN_OVER = "another connection took the upload"
    HANDED_OVER = "this server is about to stop"
    TOO_LARGE = "more bytes arrived than were announced"
    CHECKSUM = "the body does not have the announced checksum"
    STORE = "the file store is away"
    DATABASE = "the database is away"


@dataclass(frozen=True, slots=True)
class Received:
    """How a receiver ended, and the offset that it committed under its epoch."""

    ending: Ending
    offset: int
    upload: Upload


class Budget:
    """Bytes that all receivers of the process hold in memory before they are in the store."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[Receiver, int] = {}
        self._total = 0
        self._room = asyncio.Event()
        self._room.set()

    def set(self, receiver: Receiver, held: int) -> None:
        """The receiver now holds this many bytes. Over the limit, the one that holds most must close its piece."""
        self._total += held - self._held.pop(receiver, 0)
        if held:
            self._held[receiver] = held
        if self._total <= self._limit:
            self._room.set()
            return
        self._room.clear()
        max(self._held, key=self._held.__getitem__).call(Call.FULL)

    async def room(self) -> None:
        """Wait until more may be read."""
        await self._room.wait()


@dataclass(frozen=True, slots=True)
class Limits:
    """When pieces are closed: size in bytes, times in seconds."""

    piece_bytes: int
    piece_seconds: float
    idle_seconds: float

    @classmethod
    def from_settings(cls, settings: Settings) -> Limits:
        """As the settings say."""
        return cls(settings.piece_bytes, settings.piece_seconds, settings.idle_seconds)


class Receiver:
    """Receives under the epoch of `upload`, which was taken over before."""

    def __init__(
        self,
        upload: Upload,
        source: Source,
        *,
        uploads: Uploads,
        store: Store,
        receivers: Receivers,
        budget: Budget,
        limits: Limits,
        checksum: Checksum | None = None,
    ) -> None:
        self.upload_id = upload.id
        self.epoch = upload.epoch
        self._upload = upload
        self._source = source
        self._uploads = uploads
        self._store = store
        self._receivers = receivers
        self._budget = budget
        self._limits = limits
        self._checksum = checksum
        self._committed = self._position = upload.offset
        self._piece: PieceWriter | None = None
        self._stored: list[tuple[Piece, float]] = []  # with the seconds that it took
        self._buffer = bytearray()
        self._calls: set[Call] = set()
        self._wait: asyncio.Timeout | None = None
        self._storing = False
        self._clock = asyncio.get_running_loop().time
        self._began = self._window_began = self._piece_began = self._clock()
        self._window_bytes = 0

    def call(self, what: Call) -> None:
        """Note what was told. Acts at once while waiting for bytes; only STALE interrupts the storing of a piece."""
        self._calls.add(what)
        waits = self._wait is not None and not self._wait.expired()
        if self._wait is not None and waits and (what is Call.STALE or not self._storing):
            self._wait.reschedule(self._clock())

    async def run(self) -> Received:
        """Receive until the body or the connection ends, or until the receiver has to leave."""
        self._receivers.add(self)
        try:
            ending = await self._receive()
        except TakenOver:
            ending = Ending.TAKEN_OVER
        except TooLarge:
            ending = Ending.TOO_LARGE
        except StoreError as error:
            log.warning("piece was not stored", extra={"error": str(error), "start": self._committed})
            ending = Ending.STORE
        except DatabaseUnavailable as error:
            log.warning("piece was not committed", extra={"error": str(error), "start": self._committed})
            ending = Ending.DATABASE
        finally:
            self._receivers.remove(self)
            self._buffer.clear()
            self._budget.set(self, 0)
            if self._piece is not None:
                await self._piece.abort()
        if self._upload.receiver is not None and ending not in (Ending.DATABASE, Ending.TAKEN_OVER):
            await self._leave()
        if ending is Ending.ASKED:
            await asyncio.sleep(GIVE_WAY_SECONDS)
        log.info("receiving ended", extra={"ending": ending.value, "offset": self._committed, "epoch": self.epoch})
        return Received(ending, self._committed, self._upload)

    # --- Waiting -----------------------------------------------------------------------------------------------------

    async def _receive(self) -> Ending:
        while True:
            if (ending := self._called_off()) is not None:
                if ending is not Ending.TAKEN_OVER:
                    await self._keep_what_came()
                return ending
            if self._piece_is_due():
                await self._finish_piece()
            try:
                async with asyncio.timeout_at(self._next_look()) as self._wait:
                    await self._budget.room()
                    data = await self._source()
            except TimeoutError:
                continue
            except Disconnected:
                await self._keep_what_came()
                return Ending.DISCONNECTED
            finally:
                self._wait = None
            if not data:
                return await self._complete()
            await self._take(data)

    def _called_off(self) -> Ending | None:
        now = self._clock()
        if Call.STALE in self._calls:
            return Ending.TAKEN_OVER
        if Call.HAND_OVER in self._calls:
            return Ending.HANDED_OVER
        if Call.ASKED in self._calls and now >= self._began + TURN_SECONDS:
            return Ending.ASKED
        if now >= self._window_began + self._limits.idle_seconds:
            if self._window_bytes < IDLE_BYTES:
                return Ending.IDLE
            self._window_began, self._window_bytes = now, 0
        return None

    def _piece_is_due(self) -> bool:
        if not self._pending:
            self._calls.discard(Call.FULL)
            return False
        # The piece that completes the upload waits for the end of the body: more bytes would be too many.
        full = self._pending >= self._limits.piece_bytes and self._position + self._pending < self._upload.size
        return full or Call.FULL in self._calls or self._clock() >= self._piece_began + self._limits.piece_seconds

    def _next_look(self) -> float:
        looks = [self._window_began + self._limits.idle_seconds]
        if self._pending:
            looks.append(self._piece_began + self._limits.piece_seconds)
        if Call.ASKED in self._calls:
            looks.append(self._began + TURN_SECONDS)
        return min(looks)

    # --- Storing -----------------------------------------------------------------------------------------------------

    @property
    def _pending(self) -> int:
        """Bytes received that are not in a stored piece yet."""
        return len(self._buffer) + (self._piece.length if self._piece is not None else 0)

    async def _take(self, data: bytes) -> None:
        now = self._clock()
        if not self._pending:
            self._piece_began = now
        self._window_bytes += len(data)
        if self._position + self._pending + len(data) > self._upload.size:
            raise TooLarge(f"more than the announced {self._upload.size} bytes were sent: create a new upload")
        self._buffer += data
        self._budget.set(self, len(self._buffer))
        if len(self._buffer) >= BATCH:
            await self._interruptible(self._flush)

    async def _flush(self) -> None:
        """Append the collected bytes to the piece."""
        if self._piece is None:
            self._piece = PieceWriter(self._store, upload_id=self.upload_id, epoch=self.epoch, start=self._position)
        batch = bytes(self._buffer)
        if self._checksum is not None:
            await asyncio.get_running_loop().run_in_executor(hashing, self._checksum.update, batch)
        await self._piece.write(batch)
        self._buffer.clear()
        self._calls.discard(Call.FULL)
        self._budget.set(self, 0)

    async def _complete(self) -> Ending:
        """The body has ended."""
        if self._checksum is None:
            await self._finish_piece(leaving=True)
            return Ending.COMPLETE
        await self._store_piece()
        if not self._checksum.matches():
            return Ending.CHECKSUM
        await self._count(leaving=True)
        return Ending.COMPLETE

    async def _keep_what_came(self) -> None:
        """The body has not ended. What has arrived counts, unless there is a checksum of the whole body."""
        if self._checksum is None:
            await self._finish_piece(leaving=True)

    async def _finish_piece(self, *, leaving: bool = False) -> None:
        """Store what was received, and make it count unless a checksum must be compared first."""
        await self._store_piece()
        if self._checksum is None:
            await self._count(leaving=leaving)

    async def _store_piece(self) -> None:
        """Store what was received."""
        if not self._pending:
            return
        if self._buffer:
            await self._interruptible(self._flush)
        assert self._piece is not None, "something is pending, and it is not in the buffer"
        writer = self._piece
        began = self._clock()
        piece = await self._interruptible(writer.close)
        self._piece = None
        self._stored.append((piece, self._clock() - began))
        self._position = piece.end

    async def _count(self, *, leaving: bool) -> None:
        """Make the stored pieces count."""
        if not self._stored:
            return
        began = self._clock()
        self._upload = await self._uploads.commit_pieces([piece for piece, _ in self._stored], leaving=leaving)
        for piece, seconds in self._stored:
            log.info(
                "piece committed",
                extra={
                    "start": piece.start,
                    "length": piece.length,
                    "epoch": piece.epoch,
                    "store_seconds": round(seconds, 3),
                    "commit_seconds": round(self._clock() - began, 3),
                },
            )
        self._stored.clear()
        self._committed = self._position
        if self._upload.state is State.QUEUED:
            log.info("upload complete", extra={"size": self._upload.size})

    async def _interruptible[T](self, storing: Callable[[], Awaitable[T]]) -> T:
        """Wait for the store until the epoch is over. Raises TakenOver then."""
        over = TakenOver(f"upload {self.upload_id} was taken over while a piece was stored")
        if Call.STALE in self._calls:
            raise over
        self._storing = True
        try:
            async with asyncio.timeout(None) as self._wait:
                return await storing()
        except TimeoutError:
            if Call.STALE in self._calls:
                raise over from None
            raise
        finally:
            self._storing = False
            self._wait = None

    async def _leave(self) -> None:
        try:
            await self._uploads.leave(self.upload_id, self.epoch)
        except DatabaseUnavailable as error:
            log.info("could not record that the receiver left", extra={"error": str(error)})
