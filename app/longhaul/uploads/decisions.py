"""The transactions that decide about uploads. Every rule on what counts is in this module, and in no other.

1. A piece counts when `commit_pieces` moves the offset: only under the epoch it was received in, only at its own start.
2. Taking an upload over raises its epoch. From then on nothing of an older epoch can count.
3. A transaction that tells an offset also writes: only a synchronous commit proves that what was read is on a quorum.
4. Each transaction may run twice: if the outcome of its commit is unknown, it is run again.
5. The sender says once what the whole content is (`expect`). An upload with other content never becomes done.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from psycopg.types.json import Jsonb

from longhaul.database import Connection, Database
from longhaul.uploads.jobs import Jobs
from longhaul.uploads.model import (
    MISMATCH,
    Mismatch,
    NotFound,
    Piece,
    State,
    TakenOver,
    Upload,
    WrongOffset,
    new_key,
    new_upload_id,
)
from longhaul.uploads.rows import changed, locked, one, several


class Uploads:
    """Uploads as recorded in the database. Sizes and offsets in bytes."""

    def __init__(self, database: Database, *, server: str, days: float, patience: float = 60.0) -> None:
        """`server` is this host's name; an upload expires `days` after its last piece; transactions wait up to
        `patience` seconds for an unreachable database."""
        self.database = database
        self.server = server
        self.patience = patience
        self._life = timedelta(days=days)
        self.jobs = Jobs()

    async def create(
        self,
        *,
        owner: str,
        size: int,
        filename: str = "",
        content_type: str = "",
        metadata: dict[str, str] | None = None,
        request_id: str | None = None,
        expected_sha256: str | None = None,
    ) -> Upload:
        """Record a new upload and return it. An empty one is complete at once. Raises DatabaseUnavailable.

        `expected_sha256`: see `expect`, if the sender knows it already.
        """
        upload_id, key = new_upload_id(), new_key()

        async def work(connection: Connection) -> Upload:
            await connection.execute(
                "insert into uploads (id, key, owner, filename, content_type, metadata, size, server, request_id,"
                " expected_sha256, expires_at) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, now() + %s)"
                " on conflict (id) do nothing",
                (
                    upload_id,
                    key,
                    owner,
                    filename,
                    content_type,
                    Jsonb(metadata or {}),
                    size,
                    self.server,
                    request_id,
                    expected_sha256,
                    self._life,
                ),
            )
            if size == 0:
                completed = await one(
                    connection,
                    "update uploads set state = 'queued', completed_at = now(), epoch = epoch + 1"
                    " where id = %s and state = 'receiving' returning *",
                    upload_id,
                )
                if completed is not None:
                    await self.jobs.add(connection, completed)
            upload = await one(connection, "select * from uploads where id = %s", upload_id)
            assert upload is not None, "inserted in this transaction or in an earlier try"
            return upload

        return await self.database.retrying(work, seconds=self.patience)

    async def ask(self, upload_id: str, key: str, *, receiver: str | None = None, offset: int | None = None) -> Upload:
        """Take the upload over if no process receives it. Else ask that process to store what it has and leave.

        The epoch was raised if `asked_epoch` of the result is None. Parameters and errors as for `take_over`.
        """
        return await self._take(upload_id, key, receiver, offset, polite=True)

    async def take_over(
        self, upload_id: str, key: str, *, receiver: str | None = None, offset: int | None = None
    ) -> Upload:
        """Raise the epoch, and return the upload with an offset that may be told.

        `receiver` names the process that will receive under this epoch. With `offset`, the upload is only taken over if
        its offset is the same. Raises WrongOffset, NotFound, Gone, DatabaseUnavailable.
        """
        return await self._take(upload_id, key, receiver, offset, polite=False)

    async def _take(
        self, upload_id: str, key: str, receiver: str | None, offset: int | None, *, polite: bool
    ) -> Upload:
        async def work(connection: Connection) -> Upload:
            current = await locked(connection, upload_id, key)
            if offset is not None and current.offset != offset:
                raise WrongOffset(f"the upload's offset is not {offset}: ask for it with HEAD and continue from there")
            if polite and current.receiver is not None:
                asked = await one(
                    connection, "update uploads set asked_epoch = epoch where id = %s returning *", upload_id
                )
                assert asked is not None, "the row is locked"
                return asked
            return await self._raise_epoch(connection, current, receiver)

        return await self.database.retrying(work, seconds=self.patience)

    async def _raise_epoch(self, connection: Connection, current: Upload, receiver: str | None) -> Upload:
        taken = await one(
            connection,
            "update uploads set epoch = epoch + 1, asked_epoch = null, receiver = %s, server = %s where id = %s"
            " returning *",
            receiver,
            self.server,
            current.id,
        )
        assert taken is not None, "the row is locked"
        return taken

    async def commit_pieces(self, pieces: Sequence[Piece], *, leaving: bool = False) -> Upload:
        """Make stored pieces of one epoch count, all together. Each begins where the one before ends.

        The pieces that complete the upload also queue its processing. Idempotent by piece id. `leaving`: the receiver
        ends with these pieces. Raises TakenOver if the upload was taken over or ended, DatabaseUnavailable
        if it could not be learnt whether the pieces count.
        """

        async def work(connection: Connection) -> Upload:
            moved = await self._advance(connection, pieces, leaving=leaving)
            if moved is None:
                return await self._counted_before(connection, pieces[0])
            for piece in pieces:
                await connection.execute(
                    "insert into pieces (id, upload_id, start, length, epoch, digests, name)"
                    " values (%s, %s, %s, %s, %s, %s, %s)",
                    (piece.id, piece.upload_id, piece.start, piece.length, piece.epoch, piece.digests, piece.name),
                )
            if moved.state is State.QUEUED:
                await self.jobs.add(connection, moved)
            return moved

        return await self.database.retrying(work, seconds=self.patience)

    async def _advance(self, connection: Connection, pieces: Sequence[Piece], *, leaving: bool) -> Upload | None:
        """Move the offset over the pieces if their epoch is still the upload's. Complete the upload at its end."""
        first, last = pieces[0], pieces[-1]
        return await one(
            connection,
            'update uploads set "offset" = %(end)s, expires_at = now() + %(life)s,'
            " receiver = case when %(leaving)s or %(end)s = size then null else receiver end,"
            # Raised here too: pieces of this epoch that do not count by now are garbage.
            " epoch = case when %(end)s = size then epoch + 1 else epoch end,"
            " state = case when %(end)s = size then 'queued' else state end,"
            " completed_at = case when %(end)s = size then now() end"
            " where id = %(id)s and epoch = %(epoch)s and \"offset\" = %(start)s and state = 'receiving' returning *",
            end=last.end,
            life=self._life,
            leaving=leaving,
            id=first.upload_id,
            epoch=first.epoch,
            start=first.start,
        )

    async def _counted_before(self, connection: Connection, piece: Piece) -> Upload:
        """The upload, if an earlier try made this piece count. The write proves that it is on a quorum."""
        upload = await one(
            connection,
            "update uploads set server = server where id = %s and exists (select from pieces where id = %s)"
            " returning *",
            piece.upload_id,
            piece.id,
        )
        if upload is None:
            raise TakenOver(f"upload {piece.upload_id} was taken over by another connection or has ended")
        return upload

    async def expect(self, upload_id: str, key: str, sha256: str) -> Upload:
        """Record the sender's SHA-256 of the whole content, in hexadecimal, before or after the content has arrived.

        If the upload is done and its content is something else, it fails and its results are withdrawn. Raises Mismatch
        then, and if the sender said something else before. Raises NotFound, Gone, DatabaseUnavailable.
        """

        async def work(connection: Connection) -> Upload:
            current = await locked(connection, upload_id, key)
            if current.expected_sha256 is not None:
                # The write proves that what was read is on a quorum.
                return await changed(connection, upload_id, expected_sha256=current.expected_sha256)
            if current.state is not State.DONE or current.sha256 == sha256:
                return await changed(connection, upload_id, expected_sha256=sha256)
            await connection.execute(
                "update attempts set state = 'failed', error = %s where id = %s", (MISMATCH, current.attempt_id)
            )
            await connection.execute("delete from results where attempt_id = %s", (current.attempt_id,))
            return await changed(
                connection, upload_id, expected_sha256=sha256, state=State.FAILED, error=MISMATCH, attempt_id=None
            )

        upload = await self.database.retrying(work, seconds=self.patience)
        if upload.expected_sha256 != sha256:
            raise Mismatch(
                f"this upload was begun with a file whose SHA-256 is {upload.expected_sha256}. The SHA-256 of this file"
                f" is {sha256}: create a new upload for it"
            )
        if upload.is_mismatched:
            raise Mismatch(MISMATCH)
        return upload

    async def leave(self, upload_id: str, epoch: int) -> None:
        """Record that the receiver of this epoch has left, so that nobody waits for it. Nothing depends on this."""

        async def work(connection: Connection) -> None:
            await connection.execute(
                "update uploads set receiver = null where id = %s and epoch = %s and receiver is not null",
                (upload_id, epoch),
            )

        await self.database.transaction(work)

    async def process_again(self, upload_id: str) -> Upload | None:
        """Queue the processing of a failed upload again. None if it has not failed, or if its content is not what was
        sent: then it would only fail again.
        """

        async def work(connection: Connection) -> Upload | None:
            upload = await one(
                connection,
                "update uploads set state = 'queued', error = null, progress = null, finished_at = null"
                " where id = %s and state = 'failed' and (sha256 = expected_sha256) is not false returning *",
                upload_id,
            )
            if upload is not None:
                await self.jobs.add(connection, upload)
            return upload

        return await self.database.transaction(work)

    async def terminate(self, upload_id: str, key: str | None = None) -> Upload:
        """Delete the upload for good. A client gives its key, the owner none. Raises NotFound, Gone."""

        async def work(connection: Connection) -> Upload:
            await locked(connection, upload_id, key)
            return await _end(connection, upload_id, State.TERMINATED)

        return await self.database.retrying(work, seconds=self.patience)

    async def expire(self, limit: int = 100) -> list[Upload]:
        """End up to `limit` unfinished uploads that have expired, and return them."""

        async def work(connection: Connection) -> list[Upload]:
            cursor = await connection.execute(
                "select id from uploads where state = 'receiving' and expires_at < now() order by expires_at limit %s"
                " for update skip locked",
                (limit,),
            )
            return [await _end(connection, row["id"], State.EXPIRED) for row in await cursor.fetchall()]

        return await self.database.retrying(work, seconds=self.patience)

    async def get(self, upload_id: str) -> Upload:
        """The row as it is visible now. Never tell its offset to an upload client. Raises NotFound."""

        async def work(connection: Connection) -> Upload:
            upload = await one(connection, "select * from uploads where id = %s", upload_id)
            if upload is None:
                raise NotFound(f"there is no upload {upload_id}")
            return upload

        return await self.database.transaction(work)

    async def pieces(self, upload_id: str) -> list[Piece]:
        """The pieces that count, in order."""

        async def work(connection: Connection) -> Sequence[dict[str, Any]]:
            cursor = await connection.execute(
                "select * from pieces where upload_id = %s and retired_at is null order by start", (upload_id,)
            )
            return await cursor.fetchall()

        return [Piece.from_row(row) for row in await self.database.transaction(work)]

    async def watched(self, received: Collection[str], changed_since: datetime | None) -> list[Upload]:
        """The uploads `received` here, and those that changed since then (None: only the former)."""

        async def work(connection: Connection) -> list[Upload]:
            return await several(
                connection,
                "select * from uploads where id = any(%s) or updated_at > %s",
                list(received),
                changed_since,
            )

        return await self.database.transaction(work)

    async def list(self, owner: str, limit: int = 200) -> list[Upload]:
        """The owner's uploads that were not deleted, newest first."""

        async def work(connection: Connection) -> list[Upload]:
            return await several(
                connection,
                "select * from uploads where owner = %s and state <> 'terminated' order by created_at desc limit %s",
                owner,
                limit,
            )

        return await self.database.transaction(work)


async def _end(connection: Connection, upload_id: str, state: State) -> Upload:
    await connection.execute(
        "update pieces set retired_at = now() where upload_id = %s and retired_at is null", (upload_id,)
    )
    upload = await one(
        connection,
        "update uploads set state = %s, epoch = epoch + 1, receiver = null, asked_epoch = null, finished_at = now()"
        " where id = %s returning *",
        state,
        upload_id,
    )
    assert upload is not None, "the row is locked"
    return upload
