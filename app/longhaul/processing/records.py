"""The transactions that decide about the processing of uploads.

1. Each run of a processor is an attempt with an id of its own, under which its results are stored.
2. Beginning an attempt supersedes the one before: at most one attempt of an upload is `running`.
3. Results are published by one transaction, if it finds the attempt still running and the upload still processing. So
   a job that ran twice, because a living worker was thought dead, publishes once.
4. Each transaction may run twice, because its outcome is unknown after a lost connection. It gives the same answer.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from longhaul.database import Connection, Database
from longhaul.uploads.model import MISMATCH, Mismatch, Upload
from longhaul.uploads.results import Result

PATIENCE_SECONDS = 600.0
"""How long a worker waits for an unreachable database before it drops the attempt. Long, to keep finished results."""
INTERRUPTIONS = 10
"""How often one job may begin again after an attempt without a verdict (the worker died, or gave it back). More means
that the job itself takes its worker down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A run of a processor on `upload`, the row as it was at the beginning."""

    id: uuid.UUID
    number: int
    upload: Upload


class Attempts:
    """Attempts and results as recorded in the database."""

    def __init__(
        self, database: Database, *, worker: str, release: str = "", patience: float = PATIENCE_SECONDS
    ) -> None:
        """`worker` is this host's name and `release` what it runs. Transactions wait up to `patience` seconds for an
        unreachable database."""
        self._database = database
        self._worker = worker
        self._release = release
        self._patience = patience

    async def begin(self, upload_id: str, job_id: int) -> Attempt | None:
        """Begin a new attempt and supersede the one before. None if the upload needs no processing (any more).

        If its job was interrupted too often, the upload fails here. Raises DatabaseUnavailable.
        """
        attempt_id = uuid.uuid4()

        async def work(connection: Connection) -> Attempt | None:
            upload = await _locked(connection, upload_id)
            if upload is None or upload.state not in ("queued", "processing"):
                return None
            cursor = await connection.execute("select number from attempts where id = %s", (attempt_id,))
            if (row := await cursor.fetchone()) is not None:  # an earlier try of this call was committed
                return Attempt(id=attempt_id, number=row["number"], upload=upload)
            await connection.execute(
                "update attempts set state = 'superseded', finished_at = now()"
                " where upload_id = %s and state = 'running'",
                (upload_id,),
            )
            cursor = await connection.execute(
                "select count(*) as interrupted from attempts"
                " where upload_id = %s and job_id = %s and state = 'superseded' and error is null",
                (upload_id, job_id),
            )
            if (await _first(cursor))["interrupted"] >= INTERRUPTIONS:
                await _end(connection, upload_id, "failed", error="The processing was interrupted again and again.")
                return None
            cursor = await connection.execute(
                "insert into attempts (id, upload_id, number, job_id, worker, release)"
                " select %s, %s, coalesce(max(number), 0) + 1, %s, %s, %s from attempts where upload_id = %s"
                " returning number",
                (attempt_id, upload_id, job_id, self._worker, self._release, upload_id),
            )
            number = (await _first(cursor))["number"]
            await connection.execute(
                "update uploads set state = 'processing', error = null, progress = %s where id = %s",
                (Jsonb({"fraction": 0.0, "message": "Starting"}), upload_id),
            )
            return Attempt(id=attempt_id, number=number, upload=upload)

        return await self._database.retrying(work, seconds=self._patience)

    async def report(self, attempt: Attempt, fraction: float, message: str) -> bool:
        """Show the progress of the attempt. False if it is no longer the current one and should stop.

        Raises DatabaseUnavailable without a second try: the next report comes soon.
        """

        async def work(connection: Connection) -> bool:
            cursor = await connection.execute(
                "update uploads set progress = %s where id = %s and state = 'processing'"
                " and exists (select from attempts where id = %s and state = 'running')",
                (Jsonb({"fraction": round(fraction, 4), "message": message}), attempt.upload.id, attempt.id),
            )
            return cursor.rowcount == 1

        return await self._database.transaction(work)

    async def publish(
        self,
        attempt: Attempt,
        *,
        sha256: str,
        media_type: str | None,
        results: Sequence[Result],
        processors: str = "",
    ) -> bool:
        """Make the results visible and the upload done. False if another attempt began, or the upload was deleted.

        `processors` is the version of the scripts that made them. Raises Mismatch if the sender has said meanwhile that
        the content is something else.
        """

        async def work(connection: Connection) -> bool:
            upload = await self._current(connection, attempt)
            if upload is None:
                return await self._was_published(connection, attempt)
            if upload.expected_sha256 not in (None, sha256):
                raise Mismatch(MISMATCH)
            for result in results:
                await connection.execute(
                    "insert into results (id, upload_id, attempt_id, name, size, sha256, content_type, digests,"
                    " object_name) values (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                    (
                        result.id,
                        attempt.upload.id,
                        attempt.id,
                        result.name,
                        result.size,
                        result.sha256,
                        result.content_type,
                        result.digests,
                        result.object_name,
                    ),
                )
            await connection.execute(
                "update attempts set state = 'done', finished_at = now(), processors = %s where id = %s",
                (processors, attempt.id),
            )
            await _end(
                connection, attempt.upload.id, "done", attempt_id=attempt.id, sha256=sha256, detected_type=media_type
            )
            return True

        return await self._database.retrying(work, seconds=self._patience)

    async def fail(self, attempt: Attempt, error: str, *, sha256: str | None = None) -> bool:
        """Record that the processing failed, with a text for the user. False if the attempt is no longer current."""

        async def work(connection: Connection) -> bool:
            if await self._current(connection, attempt) is None:
                return False
            await connection.execute(
                "update attempts set state = 'failed', error = %s, finished_at = now() where id = %s",
                (error, attempt.id),
            )
            await _end(connection, attempt.upload.id, "failed", error=error, sha256=sha256)
            return True

        return await self._database.retrying(work, seconds=self._patience)

    async def give_back(self, attempt: Attempt, reason: str | None) -> bool:
        """End the attempt without a verdict: the job runs again, here or elsewhere. False if it was not current.

        Without a `reason` that the job cannot help, it counts as one of the INTERRUPTIONS.
        """

        async def work(connection: Connection) -> bool:
            if await self._current(connection, attempt) is None:
                return False
            await connection.execute(
                "update attempts set state = 'superseded', error = %s, finished_at = now() where id = %s",
                (reason, attempt.id),
            )
            await connection.execute(
                "update uploads set state = 'queued', progress = null where id = %s", (attempt.upload.id,)
            )
            return True

        return await self._database.retrying(work, seconds=self._patience)

    async def states(self, attempts: Sequence[uuid.UUID]) -> dict[uuid.UUID, str]:
        """The state of each attempt that is known."""

        async def work(connection: Connection) -> dict[uuid.UUID, str]:
            # A write: objects are deleted because of this state, and a state that was only read could be lost with
            # the primary.
            cursor = await connection.execute(
                "update attempts set state = state where id = any(%s) and state <> 'running' returning id, state",
                (list(attempts),),
            )
            states = {row["id"]: row["state"] for row in await cursor.fetchall()}
            cursor = await connection.execute(
                "select id, state from attempts where id = any(%s) and state = 'running'", (list(attempts),)
            )
            return states | {row["id"]: row["state"] for row in await cursor.fetchall()}

        return await self._database.retrying(work, seconds=self._patience)

    async def _current(self, connection: Connection, attempt: Attempt) -> Upload | None:
        """The upload's row, locked against all other decisions, if the attempt may still decide."""
        upload = await _locked(connection, attempt.upload.id)
        cursor = await connection.execute("select state from attempts where id = %s", (attempt.id,))
        row = await cursor.fetchone()
        current = upload is not None and upload.state == "processing" and row is not None and row["state"] == "running"
        return upload if current else None

    async def _was_published(self, connection: Connection, attempt: Attempt) -> bool:
        """Whether an earlier try of this publication was committed. The write proves that it is on a quorum."""
        cursor = await connection.execute(
            "update uploads set server = server where id = %s and attempt_id = %s and state = 'done'",
            (attempt.upload.id, attempt.id),
        )
        return cursor.rowcount == 1


async def _locked(connection: Connection, upload_id: str) -> Upload | None:
    cursor = await connection.execute("select * from uploads where id = %s for update", (upload_id,))
    row = await cursor.fetchone()
    return None if row is None else Upload.from_row(row)


async def _end(
    connection: Connection,
    upload_id: str,
    state: str,
    *,
    error: str | None = None,
    attempt_id: uuid.UUID | None = None,
    sha256: str | None = None,
    detected_type: str | None = None,
) -> None:
    await connection.execute(
        "update uploads set state = %s, error = %s, attempt_id = coalesce(%s, attempt_id),"
        " sha256 = coalesce(%s, sha256), detected_type = coalesce(%s, detected_type), progress = null,"
        " finished_at = now() where id = %s",
        (state, error, attempt_id, sha256, detected_type, upload_id),
    )


async def _first(cursor: Any) -> dict[str, Any]:
    row: dict[str, Any] | None = await cursor.fetchone()
    assert row is not None, "the statement always gives one row"
    return row
