"""Writing pieces into the store, and reading the content of an upload from its pieces."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence

from longhaul.stores.content import Digests, hashing, read_verified
from longhaul.stores.interface import Sink, Store
from longhaul.uploads.model import Piece, piece_name


class PieceWriter:
    """One piece being stored. It counts once `Uploads.commit_pieces` was given what `close` returns."""

    def __init__(self, store: Store, *, upload_id: str, epoch: int, start: int) -> None:
        """Choose a new id. `start` is the offset of the first byte in the upload."""
        self.id = uuid.uuid4()
        self.start = start
        self._upload_id = upload_id
        self._epoch = epoch
        self._digests = Digests()
        self._name = piece_name(upload_id, epoch, start, self.id)
        self._sink: Sink = store.sink(self._name)

    @property
    def length(self) -> int:
        """Bytes written so far."""
        return self._digests.length

    async def write(self, data: bytes) -> None:
        """Append. Raises StoreError; then only `abort` may follow."""
        await asyncio.get_running_loop().run_in_executor(hashing, self._digests.update, data)
        await self._sink.write(data)

    async def close(self) -> Piece:
        """Return the piece once it is durable. Raises StoreError."""
        await self._sink.close()
        return Piece(
            id=self.id,
            upload_id=self._upload_id,
            start=self.start,
            length=self.length,
            epoch=self._epoch,
            digests=self._digests.value(),
            name=self._name,
        )

    async def abort(self) -> None:
        """Discard the piece. What is left of it in the store is garbage."""
        await self._sink.abort()


async def read_content(
    store: Store, pieces: Sequence[Piece], start: int = 0, length: int | None = None
) -> AsyncIterator[bytes]:
    """Bytes `start` to `start + length` of an upload in verified parts of at most 1 MiB.

    `pieces` are its counted pieces in order. Raises StoreError (Corrupt, ObjectMissing) as `read_verified` does.
    """
    end = (pieces[-1].end if pieces else 0) if length is None else start + length
    for piece in pieces:
        first, last = max(start, piece.start), min(end, piece.end)
        if first < last:
            parts = read_verified(
                store,
                piece.name,
                size=piece.length,
                digests=piece.digests,
                start=first - piece.start,
                length=last - first,
            )
            async for part in parts:
                yield part
