"""When pieces are closed, and what a receiver does when it is told something. Times are real and short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from longhaul.database import Database
from longhaul.stores.directory import DirectoryStore
from longhaul.stores.interface import Sink
from longhaul.uploads import receiving, takeover
from longhaul.uploads.decisions import Uploads
from longhaul.uploads.epochs import Call, Receivers
from longhaul.uploads.model import Gone, NotFound, State, TakenOver, Upload, WrongOffset
from longhaul.uploads.pieces import PieceWriter, read_content
from longhaul.uploads.receiving import Budget, Disconnected, Ending, Limits, Received, Receiver
from tests.support import until

MIB = 1 << 20

pytestmark = pytest.mark.usefixtures("no_minimum_turn")


@pytest.fixture
def no_minimum_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(receiving, "GIVE_WAY_SECONDS", 0.0)


@dataclass
class Process:
    """One process of the application."""

    uploads: Uploads
    store: DirectoryStore
    receivers: Receivers
    budget: Budget

    async def content(self, upload: Upload) -> bytes:
        """What counts of an upload."""
        pieces = await self.uploads.pieces(upload.id)
        return b"".join([part async for part in read_content(self.store, pieces)])


@dataclass
class Sender:
    """A client's connection; `feed(None)` cuts it."""

    queue: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)

    def feed(self, data: bytes | None) -> None:
        self.queue.put_nowait(data)

    async def read(self) -> bytes:
        if (data := await self.queue.get()) is None:
            raise Disconnected
        return data


@asynccontextmanager
async def process(conninfo: str, root: Path, name: str = "web1", buffer: int = 8 * MIB) -> AsyncIterator[Process]:
    uploads = Uploads(Database(conninfo), server=name, days=1, patience=5)
    try:
        yield Process(uploads, DirectoryStore(root), Receivers(uploads, poll_seconds=0.1), Budget(buffer))
    finally:
        await uploads.database.close()


NO_LIMITS = Limits(piece_bytes=1 << 40, piece_seconds=1e9, idle_seconds=1e9)


async def begin(where: Process, size: int, limits: Limits = NO_LIMITS) -> tuple[Upload, Sender, asyncio.Task[Received]]:
    """Create an upload and receive it."""
    upload = await where.uploads.create(owner="tester", size=size)
    sender, task = await go_on(where, upload, limits)
    return upload, sender, task


async def go_on(
    where: Process, upload: Upload, limits: Limits = NO_LIMITS, *, offset: int | None = None
) -> tuple[Sender, asyncio.Task[Received]]:
    """Receive more of an upload, which must stand at `offset`."""
    taken = await takeover.take(where.uploads, where.receivers, upload.id, upload.key, offset=offset, receive=True)
    sender = Sender()
    receiver = Receiver(
        taken,
        sender.read,
        uploads=where.uploads,
        store=where.store,
        receivers=where.receivers,
        budget=where.budget,
        limits=limits,
    )
    task = asyncio.create_task(receiver.run())
    await asyncio.sleep(0)
    return sender, task


def on_process(conninfo: str, root: Path, test: Callable[[Process], Awaitable[None]], buffer: int = 8 * MIB) -> None:
    async def run() -> None:
        async with asyncio.timeout(30), process(conninfo, root, buffer=buffer) as where:
            await test(where)

    asyncio.run(run())


def test_pieces_are_closed_when_they_are_full(conninfo: str, store_root: Path) -> None:
    async def test(where: Process) -> None:
        upload, sender, task = await begin(where, 5 * MIB, Limits(2 * MIB, 1e9, 1e9))
        for _ in range(10):
            sender.feed(bytes(MIB // 2))
        sender.feed(b"")
        result = await task
        assert (result.ending, result.offset, result.upload.state) == (Ending.COMPLETE, 5 * MIB, State.QUEUED)
        assert [piece.length for piece in await where.uploads.pieces(upload.id)] == [2 * MIB, 2 * MIB, MIB]
        assert await where.content(upload) == bytes(5 * MIB)

    on_process(conninfo, store_root, test)


def test_a_slow_clients_piece_is_closed_when_its_time_is_over(conninfo: str, store_root: Path) -> None:
    async def test(where: Process) -> None:
        upload, sender, task = await begin(where, 100, Limits(MIB, 0.3, 1e9))
        sender.feed(b"abc")

        async def counted() -> bool:
            return (await where.uploads.get(upload.id)).offset == 3

        await until(counted)
        assert not task.done()
        sender.feed(b"de")
        sender.feed(None)
        assert (await task).offset == 5

    on_process(conninfo, store_root, test)


def test_what_arrived_before_a_cut_counts(conninfo: str, store_root: Path) -> None:
    async def test(where: Process) -> None:
        upload, sender, task = await begin(where, 3 * MIB)
        sender.feed(b"x" * (2 * MIB + 7))
        sender.feed(None)
        result = await task
        assert (result.ending, result.offset) == (Ending.DISCONNECTED, 2 * MIB + 7)
        assert (await where.uploads.get(upload.id)).receiver is None

    on_process(conninfo, store_root, test)


def test_memory_over_the_budget_closes_the_largest_pieces(conninfo: str, store_root: Path) -> None:
    async def test(where: Process) -> None:
        slow = [await begin(where, MIB) for _ in range(5)]
        for count, (_, sender, _) in enumerate(slow):
            sender.feed(bytes(100 * (count + 1)))

        async def offsets() -> list[int]:
            return [(await where.uploads.get(upload.id)).offset for upload, _, _ in slow]

        # 1,500 bytes came, 1,000 may be held: 500 leave, and then there is room.
        async def room() -> bool:
            return sum(await offsets()) == 500

        await until(room)
        assert await offsets() == [0, 0, 0, 0, 500]
        for _, sender, _ in slow:
            sender.feed(None)
        await asyncio.gather(*(task for _, _, task in slow))
        assert await offsets() == [100, 200, 300, 400, 500]

    on_process(conninfo, store_root, test, buffer=1000)


def test_a_silent_client_is_dropped_and_a_slow_one_is_not(conninfo: str, store_root: Path) -> None:
    async def test(where: Process) -> None:
        limits = Limits(MIB, 1e9, 0.4)
        _, silent, dropped = await begin(where, MIB, limits)
        _, slow, kept = await begin(where, MIB, limits)
        silent.feed(b"abc")
        for _ in range(6):
            slow.feed(bytes(1024))
            await asyncio.sleep(0.2)
        assert dropped.done()
        assert (await dropped).ending is Ending.IDLE
        assert (await dropped).offset == 3
        assert not kept.done()
        slow.feed(None)
        assert (await kept).offset == 6 * 1024

    on_process(conninfo, store_root, test)


def test_more_than_announced_does_not_count(conninfo: str, store_root: Path) -> None:
    async def test(where: Process) -> None:
        upload, sender, task = await begin(where, 10, Limits(5, 1e9, 1e9))
        for data in (b"123456", b"789", b"0", b"+"):
            sender.feed(data)
        result = await task
        assert result.ending is Ending.TOO_LARGE
        now = await where.uploads.get(upload.id)
        assert (now.offset, now.state, now.receiver) == (6, State.RECEIVING, None)

    on_process(conninfo, store_root, test)


def test_hand_over_stores_and_commits_what_came(conninfo: str, store_root: Path) -> None:
    async def test(where: Process) -> None:
        uploads = [await begin(where, 3 * MIB) for _ in range(3)]
        for _, sender, _ in uploads:
            sender.feed(b"x" * (MIB + 5))
        await asyncio.sleep(0.05)
        await where.receivers.hand_over()
        for upload, _, task in uploads:
            assert (await task).ending is Ending.HANDED_OVER
            assert (await where.uploads.get(upload.id)).offset == MIB + 5
        late = await begin(where, MIB)
        assert (await late[2]).ending is Ending.HANDED_OVER

    on_process(conninfo, store_root, test)


def test_a_stale_receiver_on_another_server_is_dropped_by_the_poll(conninfo: str, store_root: Path) -> None:
    async def test(where: Process) -> None:
        async with process(conninfo, store_root, "web2") as other:
            upload, sender, task = await begin(where, MIB)
            sender.feed(b"abc")
            await asyncio.sleep(0)
            taken = await other.uploads.take_over(upload.id, upload.key)
            assert taken.offset == 0
            assert not task.done()
            await where.receivers.poll()
            assert (await task).ending is Ending.TAKEN_OVER
            assert (await other.uploads.get(upload.id)).offset == 0, "what a stale connection received cannot count"

    on_process(conninfo, store_root, test)


def test_a_stale_receiver_is_interrupted_while_it_stores(
    conninfo: str, store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stuck:
        async def write(self, data: bytes) -> None:
            await asyncio.sleep(3600)

        async def close(self) -> None:
            """Never reached."""

        async def abort(self) -> None:
            """Nothing to do."""

    def stuck(_: DirectoryStore, __: str) -> Sink:
        return Stuck()

    monkeypatch.setattr(DirectoryStore, "sink", stuck)

    async def test(where: Process) -> None:
        upload, sender, task = await begin(where, 3 * MIB)
        sender.feed(bytes(2 * MIB))
        await asyncio.sleep(0.1)
        where.receivers.taken(await where.uploads.take_over(upload.id, upload.key))
        async with asyncio.timeout(1):
            assert (await task).ending is Ending.TAKEN_OVER

    on_process(conninfo, store_root, test)


def test_asking_saves_what_the_other_connection_received(conninfo: str, store_root: Path) -> None:
    async def test(where: Process) -> None:
        async with process(conninfo, store_root, "web2") as other:
            upload, sender, task = await begin(where, MIB)
            sender.feed(b"abc")
            watching = asyncio.create_task(where.receivers.watch())
            taken = await takeover.take(other.uploads, other.receivers, upload.id, upload.key)
            assert taken.offset == 3
            assert (await task).ending is Ending.ASKED
            watching.cancel()

    on_process(conninfo, store_root, test)


def test_a_receiver_that_does_not_answer_is_not_waited_for_long(conninfo: str, store_root: Path) -> None:
    async def test(where: Process) -> None:
        async with process(conninfo, store_root, "web2") as other:
            # `where` never polls: as if it had been killed.
            upload, sender, _ = await begin(where, MIB)
            sender.feed(b"abc")
            loop = asyncio.get_running_loop()
            began = loop.time()
            taken = await takeover.take(other.uploads, other.receivers, upload.id, upload.key, patience=0.5)
            assert (taken.offset, taken.receiver) == (0, None)
            assert 0.4 < loop.time() - began < 2
            sender.feed(None)

    on_process(conninfo, store_root, test)


def test_two_clients_that_take_from_each_other_both_get_on(
    conninfo: str, store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "TURN_SECONDS", 0.2)
    monkeypatch.setattr(receiving, "GIVE_WAY_SECONDS", 0.5)
    size = 40

    async def test(where: Process) -> None:
        upload = await where.uploads.create(owner="tester", size=size)
        sent: dict[str, int] = {"one": 0, "two": 0}

        async def client(name: str) -> None:
            # As rude as a client can be: begins again at once, whenever it was put off, and sends a byte in 20 ms.
            while (now := await takeover.take(where.uploads, where.receivers, upload.id, upload.key)).offset < size:
                try:
                    sender, task = await go_on(where, upload, offset=now.offset)
                except WrongOffset:
                    continue
                for _ in range(size - now.offset):
                    sender.feed(b"x")
                    await asyncio.sleep(0.02)
                    if task.done():
                        break
                sender.feed(b"")
                sent[name] += (await task).offset - now.offset

        await asyncio.gather(client("one"), client("two"))
        # In turn: neither may have sent nearly all of it before the other's first byte counted.
        assert min(sent.values()) >= size // 4, sent
        assert await where.content(upload) == b"x" * size

    on_process(conninfo, store_root, test)


def test_subscribers_hear_of_changes_once(conninfo: str, store_root: Path) -> None:
    async def test(where: Process) -> None:
        heard: list[tuple[str, int]] = []
        end = where.receivers.subscribe(lambda rows: heard.extend((row.id, row.offset) for row in rows))
        async with process(conninfo, store_root, "web2") as other:
            upload, sender, task = await begin(other, 10)
            await where.receivers.poll()
            await where.receivers.poll()
            sender.feed(b"abc")
            sender.feed(None)
            await task
            await where.receivers.poll()
            assert heard == [(upload.id, 0), (upload.id, 3)]
            end()
            await other.uploads.terminate(upload.id, upload.key)
            await where.receivers.poll()
            assert len(heard) == 2

    on_process(conninfo, store_root, test)


def test_wrong_keys_offsets_and_ended_uploads(conninfo: str, store_root: Path) -> None:
    async def test(where: Process) -> None:
        upload = await where.uploads.create(owner="tester", size=10)
        with pytest.raises(NotFound):
            await where.uploads.take_over(upload.id, "guessed")
        with pytest.raises(NotFound):
            await where.uploads.take_over("unknown", upload.key)
        with pytest.raises(WrongOffset):
            await where.uploads.take_over(upload.id, upload.key, receiver="me", offset=5)
        assert (await where.uploads.get(upload.id)).epoch == 0, "a refused take-over takes nothing"
        await where.uploads.terminate(upload.id, upload.key)
        for again in (
            where.uploads.terminate(upload.id, upload.key),
            where.uploads.take_over(upload.id, upload.key),
            where.uploads.ask(upload.id, upload.key),
        ):
            with pytest.raises(Gone):
                await again

    on_process(conninfo, store_root, test)


def test_a_piece_of_an_ended_upload_does_not_count(conninfo: str, store_root: Path) -> None:
    async def test(where: Process) -> None:
        upload = await where.uploads.create(owner="tester", size=10)
        taken = await where.uploads.take_over(upload.id, upload.key, receiver="me")
        writer = PieceWriter(where.store, upload_id=upload.id, epoch=taken.epoch, start=0)
        await writer.write(b"0123456789")
        piece = await writer.close()
        await where.uploads.terminate(upload.id)
        with pytest.raises(TakenOver):
            await where.uploads.commit_pieces([piece])

    on_process(conninfo, store_root, test)


def test_calls_after_the_end_do_nothing(conninfo: str, store_root: Path) -> None:
    async def test(where: Process) -> None:
        upload, sender, task = await begin(where, 10)
        (live,) = where.receivers.all()
        sender.feed(b"0123456789")
        sender.feed(b"")
        await task
        assert where.receivers.all() == []
        for call in Call:
            live.call(call)
        assert (await where.uploads.get(upload.id)).state is State.QUEUED

    on_process(conninfo, store_root, test)
