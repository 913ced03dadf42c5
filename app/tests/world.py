"""Several servers over one database and one store, moved one step at a time.

A server's every transaction and every store request waits at a gate before it begins and at another after it ended. The
test opens the gates one by one, in any order, or makes the step fail, or crashes the server: then its tasks stay where
they are for ever and nothing of them is run any more, just as after a kill. Gates are never inside a transaction,
because PostgreSQL answers for what is inside.

`World.check` holds the invariants. They are looked at from outside, through a connection and a store of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import psycopg
from psycopg.rows import dict_row

from longhaul.database import CommitUnknown, Connection, Database, DatabaseUnavailable, Work
from longhaul.stores.interface import Entry, Sink, Store, StoreError
from longhaul.uploads import garbage
from longhaul.uploads.checksum import Checksum
from longhaul.uploads.decisions import Uploads
from longhaul.uploads.epochs import Receivers
from longhaul.uploads.model import Upload, UploadError
from longhaul.uploads.receiving import Budget, Disconnected, Ending, Limits, Receiver
from longhaul.uploads.sampling import sample
from tests.fake_swift import Fault

TRIES = 2
"""How often a transaction is tried while the test refuses it: time does not pass in these worlds."""


class Outcome(Enum):
    """How a gate lets a step go on."""

    GO = "as it should"
    FAIL = "with an error"


@dataclass(eq=False)
class Step:
    """A task that waits at a gate."""

    server: Server
    name: str
    gate: asyncio.Future[Outcome]


@dataclass(eq=False)
class Told:
    """What clients know about an upload; the model that the servers are compared with."""

    id: str
    key: str
    content: bytes
    other: bytes
    """Another file with the same metadata; its sender takes this upload for its own until it has compared."""
    offset: int = 0
    """Highest offset that any client was told."""
    epochs: set[int] = field(default_factory=lambda: {0})
    """Epochs of all take-overs that were answered: nothing received under a lower one may begin to count."""
    pieces: set[object] = field(default_factory=set)
    """Ids of the pieces that were seen to count."""
    asked_to_end: bool = False
    """A client sent DELETE: unless it is `ended` too, it does not know whether that was done."""
    ended: bool = False
    announced: dict[int, Announced] = field(default_factory=dict)
    """Requests with a checksum, by the epoch that they were received in."""

    def owner_of(self, stored: bytes) -> bytes | None:
        """The file whose beginning this is; None if it is neither's."""
        return next((content for content in (self.content, self.other) if content.startswith(stored)), None)


@dataclass(frozen=True)
class Announced:
    """A body whose checksum was announced: its length in bytes, and whether the checksum was its own."""

    length: int
    right: bool


class SteppedDatabase(Database):
    """Transactions with a gate on each side; also notes which of them wrote."""

    def __init__(self, ground: Ground, server: Server) -> None:
        super().__init__(ground.conninfo)
        # Shared, because connecting costs more than all else here; a crash is never inside a transaction.
        self._idle = ground.idle
        self._ground = ground
        self._server = server

    async def _acquire(self) -> Connection:
        connection = await super()._acquire()
        self._ground.opened.add(connection)
        return connection

    async def close(self) -> None:
        """Leaves the shared connections open."""
        await self.quiet()

    @property
    def running(self) -> set[asyncio.Task[Any]]:
        """Transactions under way."""
        return self._running

    async def retrying[T](self, work: Work[T], *, seconds: float) -> T:
        """See Database."""
        del seconds
        for _ in range(TRIES - 1):
            with contextlib.suppress(DatabaseUnavailable):
                return await self.transaction(work)
        return await self.transaction(work)

    async def _transaction[T](self, work: Work[T]) -> T:
        if await self._server.gate(f"transact {_title(work)}") is Outcome.FAIL:
            raise DatabaseUnavailable("refused by the test")

        async def noted(connection: Connection) -> T:
            result = await work(connection)
            cursor = await connection.execute("select pg_current_xact_id_if_assigned() is not null as wrote")
            row = await cursor.fetchone()
            assert row is not None
            self._server.world.wrote[id(result)] = (result, row["wrote"])
            return result

        result = await self._server.busy(super()._transaction(noted))
        if await self._server.gate(f"committed {_title(work)}") is Outcome.FAIL:
            raise CommitUnknown("answer lost by the test")
        return result


def _title(work: object) -> str:
    return getattr(work, "__qualname__", "?").split(".")[-3]


class SteppedStore:
    """A store whose requests have a gate on each side."""

    def __init__(self, store: Store, server: Server) -> None:
        self._store = store
        self._server = server

    def sink(self, name: str) -> Sink:
        return SteppedSink(self._store.sink(name), self._server)

    def read(self, name: str, start: int, length: int) -> AsyncIterator[bytes]:
        return self._store.read(name, start, length)

    async def list(self, prefix: str) -> AsyncIterator[Entry]:
        entries = await self._server.busy(_all(self._store.list(prefix)))
        await self._server.gate("listed")
        for entry in entries:
            yield entry

    async def delete(self, name: str) -> None:
        await self._server.gate("delete")
        await self._server.busy(self._store.delete(name))

    async def close(self) -> None:
        await self._store.close()


class SteppedSink:
    """See SteppedStore."""

    def __init__(self, sink: Sink, server: Server) -> None:
        self._sink = sink
        self._server = server

    async def write(self, data: bytes) -> None:
        await self._around("write", self._sink.write(data))

    async def close(self) -> None:
        await self._around("store", self._sink.close())

    async def abort(self) -> None:
        await self._server.busy(self._sink.abort())

    async def _around(self, name: str, request: Coroutine[Any, Any, None]) -> None:
        try:
            if await self._server.gate(f"begin {name}") is Outcome.FAIL:
                raise StoreError("refused by the test")
            await self._server.busy(request)
            if await self._server.gate(f"did {name}") is Outcome.FAIL:
                raise StoreError("answer lost by the test")
        finally:
            request.close()


@dataclass(frozen=True)
class Kind:
    """What a server is made of; tests replace parts to see that mistakes are found."""

    uploads: type[Uploads] = Uploads
    receiver: type[Receiver] = Receiver
    compares: bool = True
    """Whether senders compare their file with what the server has before they go on."""
    collect: Callable[[Uploads, Store, str, list[Entry]], Awaitable[list[Entry]]] = garbage.collect


class Server:
    """One process of the application, without its HTTP."""

    def __init__(self, world: World, name: str, kind: Kind) -> None:
        self.world = world
        self.name = name
        self.kind = kind
        self.dead = False
        self.database = SteppedDatabase(world.ground, self)
        self.store = SteppedStore(world.ground.store, self)
        self.uploads = kind.uploads(self.database, server=name, days=1)
        self.receivers = Receivers(self.uploads, poll_seconds=1)
        self.budget = Budget(256)

    async def gate(self, name: str) -> Outcome:
        """Wait until the test lets this step go on."""
        step = Step(self, name, asyncio.get_running_loop().create_future())
        self.world.steps.append(step)
        try:
            return await step.gate
        finally:
            self.world.steps.remove(step)

    async def busy[T](self, work: Coroutine[Any, Any, T]) -> T:
        """Run something that takes real time; the world is quiet when nothing of this kind runs."""
        self.world.running += 1
        try:
            return await work
        finally:
            self.world.running -= 1


@dataclass(eq=False)
class Client:
    """A connection that sends bytes of its file from `position` to `end`.

    `queue` holds what has arrived of them: b"" is their end, None a cut.
    """

    server: Server
    told: Told
    position: int
    content: bytes
    end: int
    announced: Announced | None = None
    queue: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    receiver: Receiver | None = None
    ended: bool = False

    async def read(self) -> bytes:
        """See receiving.Source."""
        data = await self.queue.get()
        if data is None:
            raise Disconnected
        return data

    def checksum(self) -> Checksum | None:
        """What is announced of the body: its own, or another one's."""
        if self.announced is None:
            return None
        body = self.content[self.end - self.announced.length : self.end]
        return Checksum("sha256", hashlib.sha256(body if self.announced.right else body + b"!").digest())


@dataclass
class Ground:
    """What outlives a world, so that many worlds are cheap: a database, a store, and looking at both from outside."""

    conninfo: str
    store: Store
    peek: Callable[[str], bytes | None]
    """Content of an object, or None; not through the store that is tested."""
    faults: list[Fault] = field(default_factory=list)
    """What the store's servers are about to do wrong, if it has servers."""
    idle: list[Connection] = field(default_factory=list)
    opened: set[Connection] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.observer = psycopg.connect(self.conninfo, autocommit=True, row_factory=dict_row)

    async def close(self) -> None:
        """Let go of all connections."""
        self.observer.close()
        for connection in self.opened:
            await connection.close()
        await self.store.close()


class World:
    """Servers, clients and what they were told."""

    def __init__(self, ground: Ground, kind: Kind, servers: int = 2) -> None:
        self.ground = ground
        self.kind = kind
        self.steps: list[Step] = []
        self.running = 0
        self.wrote: dict[int, tuple[object, bool]] = {}
        self.uploads: list[Told] = []
        self.clients: list[Client] = []
        self.epochs: dict[str, int] = {}
        self.known_epochs: dict[str, int] = {}
        self.problems: list[str] = []
        self.happened: Counter[str] = Counter()
        self.gone = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._dead: list[Server] = []
        self.servers = [Server(self, f"web{number}", self.kind) for number in range(1, servers + 1)]
        self._seed = random.Random(7)  # noqa: S311  # content of files

    # --- Moving ------------------------------------------------------------------------------------------------------

    def start(self, server: Server, work: Coroutine[Any, Any, None]) -> None:
        """Begin a request at a server."""

        async def guarded() -> None:
            try:
                await work
            except (UploadError, DatabaseUnavailable, StoreError):
                pass  # the client is told to ask again, and learns no offset
            except Exception as error:  # noqa: BLE001  # shown by `check`
                self.problems.append(f"{server.name}: {error!r}")

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settle(self) -> None:
        """Run until every task waits at a gate, for a client, or has ended."""
        calm = 0
        deadline = time.monotonic() + 20
        while calm < 10:
            if time.monotonic() > deadline:
                raise RuntimeError(f"this never settles: {[str(task) for task in asyncio.all_tasks()]}")
            await asyncio.sleep(0 if not self.running else 0.0005)
            calm = 0 if self.running else calm + 1

    def waiting(self) -> list[Step]:
        """Steps of living servers, longest waiting first."""
        return [step for step in self.steps if not step.server.dead]

    async def go(self, step: Step, outcome: Outcome = Outcome.GO) -> None:
        """Open a gate."""
        self.gone += 1
        self.happened[f"{step.name}: {outcome.name}"] += 1
        if not step.gate.done():
            step.gate.set_result(outcome)
        await self.settle()

    async def drain(self) -> None:
        """Open all gates until nothing waits any more."""
        for _ in range(2000):
            waiting = self.waiting()
            if not waiting:
                return
            await self.go(waiting[0])
        raise AssertionError(f"this never ends: {[step.name for step in self.waiting()]}")

    def crash(self, server: Server) -> Server:
        """Kill it and start another process in its place. Its connections break."""
        server.dead = True
        self._dead.append(server)
        self.clients = [client for client in self.clients if client.server is not server]
        fresh = Server(self, server.name, self.kind)
        self.servers[self.servers.index(server)] = fresh
        return fresh

    async def close(self) -> None:
        """End all tasks, the dead ones' too."""
        databases = [server.database for server in [*self.servers, *self._dead]]
        # Nobody cancels a transaction together with the request that wanted it.
        for tasks in (self._tasks, *(database.running for database in databases)):
            ending = set(tasks)
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)

    # --- What clients do ---------------------------------------------------------------------------------------------

    async def create(self, server: Server, size: int) -> None:
        """POST."""
        content = self._seed.randbytes(size)
        # Begins and ends like the first and differs here and there: what has bytes of both is neither.
        other = bytearray(content)
        for position in range(60, size - 1, 97):
            other[position] ^= 1
        upload = await server.uploads.create(owner="tester", size=size)
        if not server.dead:
            self.uploads.append(Told(upload.id, upload.key, content, bytes(other)))

    async def head(self, server: Server, told: Told) -> None:
        """HEAD."""
        before = told.offset
        upload = await server.uploads.take_over(told.id, told.key)
        server.receivers.taken(upload)
        self.tell(server, told, upload, before)

    async def ask(self, server: Server, told: Told) -> None:
        """The polite beginning of a take-over."""
        before = told.offset
        upload = await server.uploads.ask(told.id, told.key)
        server.receivers.taken(upload)
        if upload.asked_epoch is None:
            self.tell(server, told, upload, before)

    async def patch(self, client: Client) -> None:
        """PATCH at the client's position, if its file is the one that the upload began with."""
        server, told, before = client.server, client.told, client.told.offset
        offset = client.position  # before bytes of the body arrive, and move it
        try:
            if server.kind.compares and offset > 0 and not await self.is_same(client):
                self.happened["another file"] += 1
                return
            taken = await server.uploads.take_over(told.id, told.key, receiver=server.receivers.process, offset=offset)
            server.receivers.taken(taken)
            self.taken(server, told, taken)
            if client.announced is not None and not server.dead:
                told.announced[taken.epoch] = client.announced
            client.receiver = server.kind.receiver(
                taken,
                client.read,
                uploads=server.uploads,
                store=server.store,
                receivers=server.receivers,
                budget=server.budget,
                limits=Limits(piece_bytes=150, piece_seconds=1e9, idle_seconds=1e9),
                checksum=client.checksum(),
            )
            result = await client.receiver.run()
            self.happened[result.ending.name] += 1
            proven = client.announced is not None and result.ending is Ending.COMPLETE
            self.happened["checksum right"] += proven and result.offset > taken.offset
            self.happened["advanced"] += result.offset > taken.offset
            self.happened["completed"] += result.upload.completed_at is not None and result.offset > taken.offset
        finally:
            client.ended = True
        if result.ending is Ending.COMPLETE:
            self.tell_offset(server, told, result.offset, before)

    async def is_same(self, client: Client) -> bool:
        """What a sender finds when it compares its file with a sample of what the server has."""
        _, blocks = await sample(client.server.uploads, client.told.id, client.told.key)
        return all(
            hashlib.sha256(client.content[block.start : block.start + block.length]).hexdigest() == block.sha256
            for block in blocks
        )

    async def terminate(self, server: Server, told: Told) -> None:
        """DELETE."""
        told.asked_to_end = True
        upload = await server.uploads.terminate(told.id, told.key)
        server.receivers.taken(upload)
        told.ended = True

    async def collect(self, server: Server) -> None:
        """Garbage collection, also of pieces that were kept for backups."""
        for told in self.uploads:
            entries = [entry async for entry in server.store.list(f"uploads/{told.id}/")]
            collected = await server.kind.collect(server.uploads, server.store, told.id, entries)
            self.happened["collected"] += len(collected)

    def tell(self, server: Server, told: Told, upload: Upload, before: int) -> None:
        """An offset goes to a client: only from a transaction that wrote, and never less than before."""
        if server.dead:
            return
        _, wrote = self.wrote.get(id(upload), (None, False))
        if not wrote:
            self.problems.append(f"offset {upload.offset} was told from a transaction that wrote nothing")
        self.taken(server, told, upload)
        self.tell_offset(server, told, upload.offset, before)

    def taken(self, server: Server, told: Told, upload: Upload) -> None:
        """A take-over was answered."""
        if not server.dead:
            if upload.epoch in told.epochs:
                self.problems.append(f"epoch {upload.epoch} was given twice")
            told.epochs.add(upload.epoch)

    def tell_offset(self, server: Server, told: Told, offset: int, before: int) -> None:
        """See `tell`; `before` is what clients knew when this request began."""
        if server.dead:
            return
        if offset < before:
            self.problems.append(f"offset went back from {before} to {offset}")
        told.offset = max(told.offset, offset)

    # --- What must hold ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise AssertionError if an invariant does not hold now."""
        assert not self.problems, self.problems
        if not self.uploads:
            return
        ids = [told.id for told in self.uploads]
        # One statement, so that it sees one moment; the world is quiet anyway.
        rows = {
            row["id"]: row for row in self.ground.observer.execute("select * from uploads where id = any(%s)", (ids,))
        }
        pieces: dict[str, list[dict[str, Any]]] = {upload_id: [] for upload_id in ids}
        for row in self.ground.observer.execute(
            "select * from pieces where upload_id = any(%s) order by start", (ids,)
        ):
            pieces[row["upload_id"]].append(row)
        jobs = dict.fromkeys(ids, 0)
        for row in self.ground.observer.execute(
            "select args->>'upload_id' as id, count(*) as count from procrastinate_jobs group by 1"
        ):
            if row["id"] in jobs:
                jobs[row["id"]] = row["count"]
        for told in self.uploads:
            self._check_upload(told, rows[told.id], pieces[told.id], jobs[told.id])

    def _check_upload(self, told: Told, row: dict[str, Any], pieces: list[dict[str, Any]], jobs: int) -> None:
        assert row["offset"] >= told.offset, f"{told.offset} bytes were acknowledged, {row['offset']} are left"
        assert row["epoch"] >= self.epochs.get(told.id, 0), "the epoch went back"
        self.epochs[told.id] = row["epoch"]
        end, whole = 0, b""
        for piece in pieces:
            assert piece["start"] == end, f"piece at {piece['start']}, the one before it ends at {end}"
            end += piece["length"]
            if piece["id"] not in told.pieces:
                told.pieces.add(piece["id"])
                self.happened["pieces"] += 1
                assert piece["epoch"] >= self.known_epochs.get(told.id, 0), "a piece of a stale connection counts"
            stored = self.ground.peek(piece["name"])
            assert stored is not None, f"{piece['name']} counts, and is not in the store"
            whole += stored
            assert told.owner_of(whole) is not None, f"bytes {piece['start']} to {end} make it nobody's file"
        for epoch, announced in told.announced.items():
            length = sum(piece["length"] for piece in pieces if piece["epoch"] == epoch)
            assert length in (0, announced.length if announced.right else 0), f"{length} bytes of {announced} count"
        self.known_epochs[told.id] = max(told.epochs)
        assert row["offset"] == end, f"offset {row['offset']}, pieces up to {end}"
        complete = row["completed_at"] is not None
        assert complete == (
            end == len(told.content) and row["state"] not in ("receiving", "terminated", "expired")
        ) or (row["state"] == "terminated"), f"state {row['state']} at {end} of {len(told.content)}"
        assert jobs == int(complete), f"{jobs} jobs, complete: {complete}"

    async def finish(self) -> None:
        """Let a patient client end every upload through a new server, and look at the result."""
        for server in list(self.servers):
            self.crash(server)
        server = self.servers[0]
        for told in self.uploads:
            if told.ended:
                continue
            self.start(server, self.head(server, told))
            await self.settle()
            await self.drain()
            rows = self.ground.observer.execute(
                "select name from pieces where upload_id = %s and retired_at is null order by start", (told.id,)
            )
            content = told.owner_of(b"".join(self.ground.peek(row["name"]) or b"" for row in rows))
            assert content is not None
            client = Client(server, told, told.offset, content, len(content))
            client.queue.put_nowait(content[told.offset :] or b"")
            client.queue.put_nowait(b"")
            self.start(server, self.patch(client))
            await self.settle()
            await self.drain()
            self.check()
            row = self.ground.observer.execute("select state from uploads where id = %s", (told.id,)).fetchone()
            assert row is not None
            fate = "terminated" if told.asked_to_end and row["state"] == "terminated" else "queued"
            assert row["state"] == fate or told.offset < len(told.content), f"complete, and {row['state']}"
            assert told.offset == len(told.content) or row["state"] == "terminated", f"stopped at {told.offset}"


async def _all(entries: AsyncIterator[Entry]) -> list[Entry]:
    return [entry async for entry in entries]
