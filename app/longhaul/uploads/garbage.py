"""Deleting what can never count.

An object in the store is deleted if no record refers to it and its epoch is below its upload's: then it can no longer
be committed. No list of begun pieces is needed, so none can be forgotten, and no piece that counts is at risk.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from longhaul import logs
from longhaul.database import Connection
from longhaul.stores.interface import Entry, Store
from longhaul.uploads.decisions import Uploads
from longhaul.uploads.model import PIECES, Piece, parse_piece_name
from longhaul.uploads.rows import one

log = logs.get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What a sweep did: numbers of uploads and objects, and bytes."""

    expired: int
    deleted: int
    deleted_bytes: int


async def sweep(uploads: Uploads, store: Store, *, keep_days: float) -> Swept:
    """Expire abandoned uploads. Delete their pieces after `keep_days`, and all other garbage at once.

    May run on any host, and several times at the same time. Raises DatabaseUnavailable, StoreError.
    """
    expired = 0
    while ended := await uploads.expire():
        expired += len(ended)
    while old := await _retired(uploads, timedelta(days=keep_days)):
        # Now no record refers to them, and their upload's epoch was raised when they were retired.
        await _forget(uploads, old)
    deleted = deleted_bytes = 0
    async for upload_id, entries in _by_upload(store):
        for entry in await collect(uploads, store, upload_id, entries):
            deleted += 1
            deleted_bytes += entry.size
    swept = Swept(expired=expired, deleted=deleted, deleted_bytes=deleted_bytes)
    log.info("swept", extra={"expired": expired, "deleted": deleted, "deleted_bytes": deleted_bytes})
    return swept


async def collect(uploads: Uploads, store: Store, upload_id: str, entries: list[Entry]) -> list[Entry]:
    """Delete the listed objects of an upload that can never count, and return them.

    The objects were listed before the epoch is read here. If an object's epoch is over by then, and the object is not
    recorded by then, it can never be recorded.
    """
    parsed = [(entry, *parse_piece_name(entry.name)[1:]) for entry in entries]
    known = await referenced(uploads, upload_id, [piece_id for _, _, piece_id in parsed])
    if known is None:
        # Without its row it is unknown which epochs are over. A row is committed before anything is stored, so this
        # store belongs to another database, or the database was restored to a time before the upload.
        log.warning("objects of an unknown upload are kept", extra={"upload_id": upload_id, "objects": len(entries)})
        return []
    epoch, recorded = known
    garbage = []
    for entry, piece_epoch, piece_id in parsed:
        if piece_epoch < epoch and piece_id not in recorded:
            await store.delete(entry.name)
            garbage.append(entry)
            log.info("garbage deleted", extra={"upload_id": upload_id, "object": entry.name, "size": entry.size})
    return garbage


async def referenced(
    uploads: Uploads, upload_id: str, pieces: Collection[uuid.UUID]
) -> tuple[int, set[uuid.UUID]] | None:
    """The epoch of an upload, and which of `pieces` are recorded, live or retired. None if there is no such upload.

    Pieces are deleted because of this epoch, so it must survive the loss of the primary. The row lock is a write: it
    makes the commit wait for the replicas. An update would do that too, but would show the upload as changed.
    """

    async def work(connection: Connection) -> tuple[int, set[uuid.UUID]] | None:
        upload = await one(connection, "select * from uploads where id = %s for no key update", upload_id)
        if upload is None:
            return None
        cursor = await connection.execute("select id from pieces where id = any(%s)", (list(pieces),))
        return upload.epoch, {row["id"] for row in await cursor.fetchall()}

    return await uploads.database.retrying(work, seconds=uploads.patience)


async def _retired(uploads: Uploads, keep: timedelta, limit: int = 1000) -> list[Piece]:
    """Pieces that were retired longer than `keep` ago."""

    async def work(connection: Connection) -> Sequence[dict[str, Any]]:
        cursor = await connection.execute(
            "select * from pieces where retired_at < now() - %s order by retired_at limit %s", (keep, limit)
        )
        return await cursor.fetchall()

    return [Piece.from_row(row) for row in await uploads.database.retrying(work, seconds=uploads.patience)]


async def _forget(uploads: Uploads, pieces: Collection[Piece]) -> None:
    """Remove the records of retired pieces; their objects are then unreferenced, under an old epoch."""

    async def work(connection: Connection) -> None:
        await connection.execute(
            "delete from pieces where id = any(%s) and retired_at is not null", ([piece.id for piece in pieces],)
        )

    await uploads.database.retrying(work, seconds=uploads.patience)


async def _by_upload(store: Store) -> AsyncIterator[tuple[str, list[Entry]]]:
    """All pieces in the store, one upload at a time."""
    entries: list[Entry] = []
    current = ""
    async for entry in store.list(PIECES):
        upload_id = parse_piece_name(entry.name)[0]
        if upload_id != current and entries:
            yield current, entries
            entries = []
        current = upload_id
        entries.append(entry)
    if entries:
        yield current, entries
