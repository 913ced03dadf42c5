"""The sweep: what is deleted, what is kept, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import psycopg

from longhaul.database import Database
from longhaul.stores.directory import DirectoryStore
from longhaul.uploads.decisions import Uploads
from longhaul.uploads.garbage import Swept, sweep
from longhaul.uploads.model import Piece, State, Upload
from longhaul.uploads.pieces import PieceWriter


async def stored(uploads: Uploads, store: DirectoryStore, upload: Upload, data: bytes) -> Piece:
    """Take the upload over and store a piece that does not count yet."""
    taken = await uploads.take_over(upload.id, upload.key, receiver="me")
    writer = PieceWriter(store, upload_id=upload.id, epoch=taken.epoch, start=taken.offset)
    await writer.write(data)
    return await writer.close()


def on_store(conninfo: str, root: Path, test: Callable[[Uploads, DirectoryStore], Awaitable[None]]) -> None:
    async def run() -> None:
        uploads, store = Uploads(Database(conninfo), server="worker1", days=1), DirectoryStore(root)
        await test(uploads, store)
        await uploads.database.close()
        await store.close()

    asyncio.run(run())


async def names(store: DirectoryStore) -> set[str]:
    return {entry.name async for entry in store.list("")}


def test_only_what_can_never_count_is_deleted(conninfo: str, store_root: Path) -> None:
    async def test(uploads: Uploads, store: DirectoryStore) -> None:
        upload = await uploads.create(owner="tester", size=100)
        counted = await stored(uploads, store, upload, b"counted")
        await uploads.commit_pieces([counted])
        stale = await stored(uploads, store, upload, b"stale")
        present = await stored(uploads, store, upload, b"present")
        other = store.sink("results/u/a/b")
        await other.write(b"a result")
        await other.close()
        assert await sweep(uploads, store, keep_days=0) == Swept(expired=0, deleted=1, deleted_bytes=5)
        assert await names(store) == {counted.name, present.name, "results/u/a/b"}
        await uploads.commit_pieces([present])
        assert stale.name not in await names(store)
        await sweep(uploads, store, keep_days=0)
        assert await names(store) == {counted.name, present.name, "results/u/a/b"}

    on_store(conninfo, store_root, test)


def test_pieces_of_ended_uploads_are_kept_for_backups(conninfo: str, store_root: Path) -> None:
    async def test(uploads: Uploads, store: DirectoryStore) -> None:
        upload = await uploads.create(owner="tester", size=100)
        piece = await stored(uploads, store, upload, b"counted")
        await uploads.commit_pieces([piece])
        await uploads.terminate(upload.id)
        assert await uploads.pieces(upload.id) == []
        await sweep(uploads, store, keep_days=1)
        assert await names(store) == {piece.name}
        await sweep(uploads, store, keep_days=0)
        assert await names(store) == set()

    on_store(conninfo, store_root, test)


def test_abandoned_uploads_expire_and_finished_ones_do_not(conninfo: str, store_root: Path) -> None:
    async def test(uploads: Uploads, store: DirectoryStore) -> None:
        abandoned = await uploads.create(owner="tester", size=100)
        alive = await uploads.create(owner="tester", size=100)
        finished = await uploads.create(owner="tester", size=0)
        with psycopg.connect(conninfo) as connection:
            connection.execute(
                "update uploads set expires_at = now() - interval '1 second' where id = any(%s)",
                ([abandoned.id, finished.id],),
            )
        assert (await sweep(uploads, store, keep_days=1)).expired == 1
        states = [(await uploads.get(upload.id)).state for upload in (abandoned, alive, finished)]
        assert states == [State.EXPIRED, State.RECEIVING, State.QUEUED]

    on_store(conninfo, store_root, test)


def test_a_sweep_shows_no_upload_as_changed(conninfo: str, store_root: Path) -> None:
    """Else an abandoned upload would look alive, and every open page would be told of every upload."""

    async def test(uploads: Uploads, store: DirectoryStore) -> None:
        upload = await uploads.create(owner="tester", size=100)
        await uploads.commit_pieces([await stored(uploads, store, upload, b"counted")])
        await stored(uploads, store, upload, b"present")
        before = await uploads.get(upload.id)
        await sweep(uploads, store, keep_days=0)
        assert await uploads.get(upload.id) == before

    on_store(conninfo, store_root, test)


def test_objects_of_an_unknown_upload_are_kept(conninfo: str, store_root: Path) -> None:
    """As after a restore to a time before the upload was created: nobody can say what they are."""

    async def test(uploads: Uploads, store: DirectoryStore) -> None:
        upload = await uploads.create(owner="tester", size=100)
        piece = await stored(uploads, store, upload, b"stored")
        with psycopg.connect(conninfo) as connection:
            connection.execute("delete from uploads where id = %s", (upload.id,))
        assert (await sweep(uploads, store, keep_days=0)).deleted == 0
        assert await names(store) == {piece.name}

    on_store(conninfo, store_root, test)
