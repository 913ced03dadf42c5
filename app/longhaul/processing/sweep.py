"""Deleting results that are not visible: of attempts that were superseded or failed, and of deleted uploads."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

from longhaul import logs
from longhaul.database import Connection, Database
from longhaul.processing.records import Attempts
from longhaul.stores.interface import Store
from longhaul.uploads.results import parse_result_object

log = logs.get(__name__)

BATCH = 500
"""Objects that are looked up in one query."""


async def sweep_results(database: Database, attempts: Attempts, store: Store, *, keep_days: float) -> int:
    """Delete result objects that are certainly not needed, and return their number.

    An object is deleted if its attempt has ended without publishing it: only a running attempt publishes, so no later
    transaction can refer to the object. Results of uploads that were deleted or have expired are deleted `keep_days`
    later: backups may need them until then. An object of an unknown attempt is kept and logged. Raises StoreError,
    DatabaseUnavailable.
    """
    await _end_attempts_of_gone(database)
    await _forget_gone(database, timedelta(days=keep_days))
    deleted = 0
    async for names in _batches(store):
        parsed = {name: parse_result_object(name) for name in names}
        states = await attempts.states([attempt for _, attempt, _ in parsed.values()])
        recorded = await _recorded(database, [result for _, _, result in parsed.values()])
        for name, (_, attempt, result) in parsed.items():
            state = states.get(attempt)
            if state is None:
                log.warning("result of an unknown attempt is kept", extra={"object": name})
            elif state != "running" and result not in recorded:
                await store.delete(name)
                deleted += 1
    if deleted:
        log.info("unused results deleted", extra={"count": deleted})
    return deleted


async def _batches(store: Store) -> AsyncIterator[list[str]]:
    batch: list[str] = []
    async for entry in store.list("results/"):
        batch.append(entry.name)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


async def _recorded(database: Database, results: list[uuid.UUID]) -> set[uuid.UUID]:
    async def work(connection: Connection) -> set[uuid.UUID]:
        cursor = await connection.execute("select id from results where id = any(%s)", (results,))
        return {row["id"] for row in await cursor.fetchall()}

    return await database.transaction(work)


async def _end_attempts_of_gone(database: Database) -> None:
    """End the attempts on deleted or expired uploads. They cannot publish, and nothing else ends them."""

    async def work(connection: Connection) -> None:
        await connection.execute(
            "update attempts set state = 'superseded', finished_at = now() from uploads"
            " where uploads.id = attempts.upload_id and attempts.state = 'running'"
            " and uploads.state in ('terminated', 'expired')"
        )

    await database.retrying(work, seconds=60.0)


async def _forget_gone(database: Database, keep: timedelta) -> None:
    """Remove the records of results whose uploads were deleted or expired longer than `keep` ago."""

    async def work(connection: Connection) -> int:
        cursor = await connection.execute(
            "delete from results using uploads where uploads.id = results.upload_id"
            " and uploads.state in ('terminated', 'expired') and uploads.finished_at < now() - %s",
            (keep,),
        )
        return cursor.rowcount

    count = await database.retrying(work, seconds=60.0)
    if count:
        log.info("results of deleted uploads forgotten", extra={"count": count})
