"""Deleting what can never count.

An object in the store is deleted when no record refers to it and its epoch is below its upload's: nothing can commit it
any more. That needs no list of what was begun, so nothing is ever forgotten, and nothing that counts is at risk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

from longhaul import logs
from longhaul.stores.interface import Entry, Store
from longhaul.uploads.core import Uploads
from longhaul.uploads.model import PIECES, parse_piece_name

log = logs.get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What a sweep did: numbers of uploads and objects, and bytes."""

    expired: int
    deleted: int
    deleted_bytes: int


async def sweep(uploads: Uploads, store: Store, *, keep_days: float) -> Swept:
    """Expire abandoned uploads, and delete their pieces after `keep_days` and all other garbage at once.

    May run anywhere and any number of times at once. Raises DatabaseUnavailable, StoreError.
    """
    expired = 0
    while ended := await uploads.expire():
        expired += len(ended)
    while old := await uploads.retired(timedelta(days=keep_days)):
        # Now nothing refers to them, and their upload's epoch was raised when they were retired.
        await uploads.forget(old)
    deleted = deleted_bytes = 0
    async for upload_id, entries in _by_upload(store):
        for entry in await collect(uploads, store, upload_id, entries):
            deleted += 1
            deleted_bytes += entry.size
    swept = Swept(expired=expired, deleted=deleted, deleted_bytes=deleted_bytes)
    log.info("swept", extra={"expired": expired, "deleted": deleted, "deleted_bytes": deleted_bytes})
    return swept


async def collect(uploads: Uploads, store: Store, upload_id: str, entries: list[Entry]) -> list[Entry]:
    """Delete those of an upload's listed objects that can never count, and return them.

    The listing was taken before the epoch is read here. An object listed with an epoch that is over by then, and not
    recorded by then, can be recorded never more.
    """
    parsed = [(entry, *parse_piece_name(entry.name)[1:]) for entry in entries]
    known = await uploads.referenced(upload_id, [piece_id for _, _, piece_id in parsed])
    if known is None:
        # Without its row nobody can say which epoch is over. Creation commits before anything is stored, so this is a
        # store that belongs to another database, or a database restored to before the upload.
        log.warning("objects of an unknown upload are kept", extra={"upload_id": upload_id, "objects": len(entries)})
        return []
    epoch, referenced = known
    garbage = []
    for entry, piece_epoch, piece_id in parsed:
        if piece_epoch < epoch and piece_id not in referenced:
            await store.delete(entry.name)
            garbage.append(entry)
            log.info("garbage deleted", extra={"upload_id": upload_id, "object": entry.name, "size": entry.size})
    return garbage


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
