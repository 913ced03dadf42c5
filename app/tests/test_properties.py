"""Random interleavings of servers, clients, cuts, crashes and faults; the invariants hold after each step.

`Machine` is what Hypothesis drives; `World` has the invariants. Each mutant in `MUTANTS` is the code with one rule of
it broken: a test that did not reject them would prove nothing.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from psycopg.types.json import Jsonb

from longhaul.database import Connection
from longhaul.stores.directory import DirectoryStore
from longhaul.stores.interface import Entry, Sink, Store
from longhaul.stores.swift import SwiftStore
from longhaul.uploads import pieces, receiving
from longhaul.uploads.decisions import Uploads
from longhaul.uploads.epochs import Call
from longhaul.uploads.garbage import referenced
from longhaul.uploads.jobs import TASK, Jobs
from longhaul.uploads.model import Piece, Upload, parse_piece_name
from longhaul.uploads.receiving import Received, Receiver
from tests.conftest import SOAK, NewDatabase
from tests.fake_swift import KEY, USER, FakeSwift, Fault
from tests.world import Announced, Client, Ground, Kind, Outcome, Told, World

pytestmark = pytest.mark.usefixtures("small_and_immediate")

RUNS = 6
ACTIONS_IN_A_RUN = 15
EXAMPLES = 2000 if SOAK else 32
UPLOADS = 2
ACTIONS = (
    ["steps"] * 24
    + ["send"] * 10
    + ["step"] * 8
    + ["patch"] * 6
    + ["full"] * 4
    + ["end", "collect", "head"] * 3
    + ["fail"] * 3
    + ["cut"] * 2
    + ["ask", "poll", "terminate", "hand over", "crash", "one copy"]
)
"""What may happen next, as often as it stands here."""
EVENTS = {
    "pieces": 50,
    "completed": 10,
    "collected": 10,
    "TAKEN_OVER": 5,
    "DISCONNECTED": 3,
    "transact commit_pieces: FAIL": 5,
    "committed commit_pieces: FAIL": 5,
    "committed _take: FAIL": 1,
    "another file": 5,
    "CHECKSUM": 3,
    "checksum right": 5,
}
"""What must have happened in all examples together, and how often at least."""
OTHER_FILES = 0.2
CHECKSUMS = 0.3
RIGHT_CHECKSUMS = 0.6
"""How often a request is of another file; has a checksum; and, of these, one that is right."""
TROUBLES = ["none"] * 4 + ["fail", "crash", "lost", "lost", "away"]
"""While several steps are made: one fails, a server crashes, one commit's answer is lost, none is answered."""


class Immediate(Executor):
    """Runs in the caller's thread, so that the order of events is the test's alone."""

    def submit[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See Executor."""
        future: Future[T] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@pytest.fixture
def small_and_immediate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of a few bytes, hashing in place, and no minimum time for a client that is asked to leave."""
    monkeypatch.setattr(receiving, "BATCH", 50)
    monkeypatch.setattr(receiving, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(receiving, "GIVE_WAY_SECONDS", 0.0)
    monkeypatch.setattr(pieces, "hashing", Immediate())
    monkeypatch.setattr(receiving, "hashing", Immediate())
    monkeypatch.setattr("longhaul.stores.swift.hashing", Immediate())


@asynccontextmanager
async def directory_ground(conninfo: str) -> AsyncIterator[Ground]:
    """A directory in memory: what fsync is for is tested elsewhere."""
    shared = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="longhaul-store-", dir=shared if shared.is_dir() else None))

    def peek(name: str) -> bytes | None:
        return (root / name).read_bytes() if (root / name).exists() else None

    ground = Ground(conninfo, DirectoryStore(root), peek)
    try:
        yield ground
    finally:
        await ground.close()
        shutil.rmtree(root)


@asynccontextmanager
async def swift_ground(conninfo: str) -> AsyncIterator[Ground]:
    """The Swift client with two proxies of the fake."""
    async with FakeSwift() as swift:
        store = SwiftStore(swift.urls, user=USER, key=KEY, container="longhaul", patience=0)
        ground = Ground(
            conninfo,
            store,
            # What counts must outlive the loss of a storage host at any time.
            peek=lambda name: swift.cluster.durable(f"longhaul/{name}"),
            faults=swift.cluster.faults,
        )
        try:
            yield ground
        finally:
            await ground.close()


GROUNDS = {"directory": directory_ground, "swift": swift_ground}


class Machine(RuleBasedStateMachine):
    """What may happen. The fields are set by the test, in a subclass."""

    runner: asyncio.Runner
    ground: Ground
    kind: Kind
    happened: Counter[str]
    """Over all examples: how receivers ended, and what was found at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.world: World
        self.checked = 0

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        """In the machine's event loop, then until all is quiet."""

        async def settled() -> None:
            await work
            await self.world.settle()

        self.runner.run(settled())

    @initialize(sizes=st.lists(st.sampled_from([3000, 900, 200]), min_size=1, max_size=UPLOADS))
    def begin(self, sizes: list[int]) -> None:
        async def build() -> None:
            self.world = World(self.ground, self.kind)
            server = self.world.servers[0]
            for size in [*sizes, 0]:
                self.world.start(server, self.world.create(server, size))
                await self.world.settle()
                await self.world.drain()

        self.runner.run(build())

    # A rule is a run of actions drawn from a seed: Hypothesis draws values that are like each other, and among these an
    # answer that is lost just when it matters would be rare. It still chooses, repeats and shrinks the runs.
    @rule(seed=st.integers(0, 2**32 - 1))
    def happen(self, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311  # the seed is what Hypothesis draws
        for _ in range(ACTIONS_IN_A_RUN):
            self.act(chance.choice(ACTIONS), chance)
            self.check()

    def act(self, action: str, chance: random.Random) -> None:
        """One action, with whatever it concerns drawn by chance."""
        waiting = self.world.waiting()
        if action in ("steps", "step", "fail") and not waiting:
            action = "send"
        if action in ("patch", "send", "end", "cut", "full", "hand over"):
            self.client_acts(action, chance)
        elif action == "steps":
            length = chance.randrange(1, 16)
            newest, trouble = chance.random() < 0.5, chance.choice(TROUBLES)
            self.steps(length, newest=newest, trouble=trouble, at=chance.randrange(length))
        elif action in ("step", "fail"):
            self.run(self.world.go(chance.choice(waiting), Outcome.GO if action == "step" else Outcome.FAIL))
        else:
            self.server_acts(action, chance)

    def client_acts(self, action: str, chance: random.Random) -> None:
        """Something arrives on a connection, or a new one is made."""
        told = chance.choice(self.world.uploads[:-1])
        count = chance.choice([1, 20, 60, 150, 300])
        clients = [client for client in self.world.clients if not client.ended]
        if action == "patch" or not clients:
            alone = all(client.told is not told for client in clients)
            if chance.random() < 0.1 or (alone and told.offset < len(told.content)):
                self.patch(chance.randrange(2), told, count, chance)
            return
        client = chance.choice(clients)
        match action:
            case "send":
                self.send_to(client, count)
            case "end" | "cut":
                self.world.clients.remove(client)
                client.queue.put_nowait(b"" if action == "end" else None)
                self.run(self.nothing())
            case "full" | "hand over":
                self.run(self.call(client, Call.FULL if action == "full" else Call.HAND_OVER))

    def server_acts(self, action: str, chance: random.Random) -> None:
        """A request without a body, or something that a server does by itself."""
        told = chance.choice(self.world.uploads[:-1])
        number = chance.randrange(2)
        server = self.world.servers[number]
        at_once = chance.random() < 0.5
        match action:
            case "head":
                self.request(number, self.world.head(server, told), at_once=at_once)
            case "ask":
                self.request(number, self.world.ask(server, told), at_once=at_once)
            case "poll":
                self.request(number, server.receivers.poll(), at_once=at_once)
            case "collect":
                self.request(number, self.world.collect(server), at_once=at_once)
            case "terminate" if chance.random() < 0.2:
                self.request(number, self.world.terminate(server, told), at_once=False)
            case "crash":
                self.world.crash(server)
            case "one copy":
                self.ground.faults.append(Fault.ONE_COPY)

    def request(self, server: int, work: Coroutine[Any, Any, None], *, at_once: bool) -> None:
        """A request arrives; `at_once`: and overtakes all that are under way."""
        self.run(self.begin_task(server, work))
        if at_once:
            self.steps(6, newest=True)

    def patch(self, server: int, told: Told, count: int, chance: random.Random) -> None:
        """A client goes on at the offset it was told; sometimes with another file, or with a checksum of its body."""
        content = told.other if chance.random() < OTHER_FILES else told.content
        end, announced = len(content), None
        if chance.random() < CHECKSUMS:
            end = min(end, told.offset + chance.choice([100, 400, 3000]))
            announced = Announced(end - told.offset, right=chance.random() < RIGHT_CHECKSUMS)
        client = Client(self.world.servers[server], told, told.offset, content, end, announced)
        self.world.clients.append(client)
        self.run(self.begin_task(server, self.world.patch(client)))
        if count % 100:
            self.steps(2)
        self.send_to(client, count)

    def send_to(self, client: Client, count: int) -> None:
        """The next bytes of the body arrive, and its end after the last of them."""
        data = client.content[client.position : min(client.end, client.position + count)]
        client.position += len(data)
        if data:
            client.queue.put_nowait(data)
        if client.position == client.end:
            client.queue.put_nowait(b"")
        self.run(self.nothing())

    def steps(self, count: int, *, newest: bool = False, trouble: str = "none", at: int = 0) -> None:
        """All tasks go on by turns; or the one that moved last goes on alone, and overtakes the others.

        `trouble` is what happens in the step number `at`, or to what is committed meanwhile.
        """
        for number in range(count):
            if not (waiting := self.world.waiting()):
                return
            step = waiting[-1 if newest else 0]
            commit = step.name.endswith("commit_pieces")
            fails = (trouble == "fail" and number == at) or (trouble == "away" and commit)
            if trouble == "lost" and step.name in ("committed commit_pieces", "committed _take"):
                fails, trouble = True, "none"
            if trouble == "crash" and number == at:
                self.world.crash(step.server)
            else:
                self.run(self.world.go(step, Outcome.FAIL if fails else Outcome.GO))
                self.check()

    @invariant()
    def check(self) -> None:
        # Only steps change anything that can be seen.
        if hasattr(self, "world") and self.checked != self.world.gone:
            self.checked = self.world.gone
            self.world.check()

    def teardown(self) -> None:
        self.ground.faults.clear()
        try:
            if hasattr(self, "world"):
                self.runner.run(self.world.drain())
                self.world.check()
                self.happened.update(self.world.happened)
                self.happened["steps"] += self.world.gone
                self.runner.run(self.world.finish())
        finally:
            if hasattr(self, "world"):
                self.runner.run(self.world.close())

    async def begin_task(self, server: int, work: Coroutine[Any, Any, None]) -> None:
        self.world.start(self.world.servers[server], work)

    async def call(self, client: Client, what: Call) -> None:
        """A piece's time is over, or the server is about to stop."""
        if client.receiver is not None and not client.ended:
            client.receiver.call(what)

    async def nothing(self) -> None:
        """Only let happen what is under way."""


@contextmanager
def machine(conninfo: str, store: str, kind: Kind) -> Iterator[type[Machine]]:
    """A machine for one test."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        ground = runner.run(stack.enter_async_context(GROUNDS[store](conninfo)))
        values = {"runner": runner, "ground": ground, "kind": kind, "happened": Counter()}
        try:
            yield type("Configured", (Machine,), values)
        finally:
            runner.run(stack.aclose())


@pytest.mark.parametrize("store", sorted(GROUNDS))
def test_whatever_happens_no_acknowledged_byte_is_lost(new_database: NewDatabase, store: str) -> None:
    with machine(new_database(), store, Kind()) as tested:
        run_state_machine_as_test(tested, settings=settings(max_examples=EXAMPLES, stateful_step_count=RUNS))
    # Examples in which nothing happens would prove nothing.
    rare = {event: tested.happened[event] for event in EVENTS if tested.happened[event] < EVENTS[event]}
    assert not rare, f"too rare to have been tested: {rare}"


# --- Broken on purpose -----------------------------------------------------------------------------------------------


class CommitsUnderAnyEpoch(Uploads):
    """A connection that was taken over may still commit."""

    async def _advance(self, connection: Connection, pieces: Sequence[Piece], *, leaving: bool) -> Upload | None:
        cursor = await connection.execute("select epoch from uploads where id = %s", (pieces[0].upload_id,))
        row = await cursor.fetchone()
        assert row is not None
        present = [replace(piece, epoch=row["epoch"]) for piece in pieces]
        return await super()._advance(connection, present, leaving=leaving)


class CommitsAtAnyOffset(Uploads):
    """The offset is set to the end of the piece, wherever it was."""

    async def _advance(self, connection: Connection, pieces: Sequence[Piece], *, leaving: bool) -> Upload | None:
        first = pieces[0]
        await connection.execute(
            "update uploads set \"offset\" = %s where id = %s and epoch = %s and state = 'receiving'",
            (first.start, first.upload_id, first.epoch),
        )
        return await super()._advance(connection, pieces, leaving=leaving)


class TellsWhatIsNotCommitted(Uploads):
    """An offset is read without a write: it may vanish with the primary that showed it."""

    async def take_over(
        self, upload_id: str, key: str, *, receiver: str | None = None, offset: int | None = None
    ) -> Upload:
        if receiver is None:
            return await self.get(upload_id)
        return await super().take_over(upload_id, key, receiver=receiver, offset=offset)


class KeepsTheEpoch(Uploads):
    """A take-over that does not raise the epoch."""

    async def _raise_epoch(self, connection: Connection, current: Upload, receiver: str | None) -> Upload:
        taken = await super()._raise_epoch(connection, current, receiver)
        await connection.execute("update uploads set epoch = %s where id = %s", (current.epoch, current.id))
        return Upload(**{name: getattr(taken, name) for name in Upload.__slots__} | {"epoch": current.epoch})


class JobsOfEmptyFiles(Jobs):
    """No job for an upload that has pieces."""

    async def add(self, connection: Connection, upload: Upload) -> None:
        if upload.size == 0:
            await super().add(connection, upload)


class QueuesLater(Uploads):
    """The job is inserted in a transaction of its own, after the one that completes the upload."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.later, self.jobs = self.jobs, JobsOfEmptyFiles()

    async def commit_pieces(self, pieces: Sequence[Piece], *, leaving: bool = False) -> Upload:
        upload = await super().commit_pieces(pieces, leaving=leaving)
        if upload.completed_at is not None:

            async def work(connection: Connection) -> None:
                await self.later.add(connection, upload)

            await self.database.retrying(work, seconds=self.patience)
        return upload


class QueuesAgain(Uploads):
    """A commit that is asked about queues the job once more."""

    async def _counted_before(self, connection: Connection, piece: Piece) -> Upload:
        upload = await super()._counted_before(connection, piece)
        if upload.completed_at is not None:
            await connection.execute(
                "insert into procrastinate_jobs (queue_name, task_name, args) values ('processing', %s, %s)",
                (TASK, Jsonb({"upload_id": upload.id})),
            )
        return upload


class SaysYesToEverything(Uploads):
    """A commit of unknown outcome is taken for a success."""

    async def commit_pieces(self, pieces: Sequence[Piece], *, leaving: bool = False) -> Upload:
        from longhaul.database import CommitUnknown, DatabaseUnavailable

        try:
            return await super().commit_pieces(pieces, leaving=leaving)
        except (CommitUnknown, DatabaseUnavailable):
            return await self.get(pieces[0].upload_id)


class CountsBeforeItIsStored(Receiver):
    """The row is committed while the piece is still on its way."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.late: list[tuple[Sink, asyncio.Task[None]]] = []

    async def run(self) -> Received:
        try:
            return await super().run()
        finally:
            for sink, closing in self.late:
                closing.cancel()
                await asyncio.wait({closing})
                await sink.abort()

    async def _interruptible(self, storing: Any) -> Any:
        if storing.__name__ != "close":
            return await super()._interruptible(storing)
        assert self._piece is not None
        writer = self._piece
        sink, writer._sink = writer._sink, _Nothing()
        piece = await writer.close()
        self.late.append((sink, asyncio.create_task(sink.close())))
        return piece


class CountsBeforeTheChecksum(Receiver):
    """The pieces of a body with a checksum count as they come."""

    async def _finish_piece(self, *, leaving: bool = False) -> None:
        await self._store_piece()
        await self._count(leaving=leaving)


class TakesAnyChecksum(Receiver):
    """What was announced is not compared."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        if self._checksum is not None:
            self._checksum.matches = lambda: True  # type: ignore[method-assign]  # broken on purpose


class KeepsHalfABody(Receiver):
    """What came of a body with a checksum counts when the connection ends before it."""

    async def _keep_what_came(self) -> None:
        await self._store_piece()
        await self._count(leaving=True)


class _Nothing:
    async def write(self, data: bytes) -> None:
        """Never called."""

    async def close(self) -> None:
        """Claims to be durable."""

    async def abort(self) -> None:
        """Nothing to give up."""


class AnswersForTheBuffer(Receiver):
    """The offset told is what was received, not what was committed."""

    async def run(self) -> Received:
        received = self._committed
        result = await super().run()
        return Received(result.ending, max(received, self.received), result.upload)

    received = 0

    async def _take(self, data: bytes) -> None:
        self.received = self._committed + self._pending + len(data)
        await super()._take(data)

    async def _finish_piece(self, *, leaving: bool = False) -> None:
        if not leaving:
            await super()._finish_piece()


async def collects_whatever_is_unknown(
    uploads: Uploads, store: Store, upload_id: str, entries: list[Entry]
) -> list[Entry]:
    """Deletes what has no row, without asking for its epoch: it may be about to get one."""
    known = await referenced(uploads, upload_id, [parse_piece_name(entry.name)[2] for entry in entries])
    assert known is not None
    garbage = [entry for entry in entries if parse_piece_name(entry.name)[2] not in known[1]]
    for entry in garbage:
        await store.delete(entry.name)
    return garbage


async def collects_what_is_old(uploads: Uploads, store: Store, upload_id: str, entries: list[Entry]) -> list[Entry]:
    """Deletes what was received under an old epoch, counted or not."""
    known = await referenced(uploads, upload_id, [parse_piece_name(entry.name)[2] for entry in entries])
    assert known is not None
    garbage = [entry for entry in entries if parse_piece_name(entry.name)[1] < known[0]]
    for entry in garbage:
        await store.delete(entry.name)
    return garbage


MUTANTS = {
    "commits under any epoch": Kind(uploads=CommitsUnderAnyEpoch),
    "commits at any offset": Kind(uploads=CommitsAtAnyOffset),
    "tells an offset without a write": Kind(uploads=TellsWhatIsNotCommitted),
    "keeps the epoch": Kind(uploads=KeepsTheEpoch),
    "queues the job later": Kind(uploads=QueuesLater),
    "queues the job again": Kind(uploads=QueuesAgain),
    "takes unknown for yes": Kind(uploads=SaysYesToEverything),
    "counts before it is stored": Kind(receiver=CountsBeforeItIsStored),
    "answers for the buffer": Kind(receiver=AnswersForTheBuffer),
    "counts before the checksum": Kind(receiver=CountsBeforeTheChecksum),
    "takes any checksum": Kind(receiver=TakesAnyChecksum),
    "keeps half a body": Kind(receiver=KeepsHalfABody),
    "goes on with another file": Kind(compares=False),
    "collects whatever is unknown": Kind(collect=collects_whatever_is_unknown),
    "collects what is old": Kind(collect=collects_what_is_old),
}


@pytest.fixture
def quick_failure() -> settings:
    """Enough examples to find a mistake; no shrinking, because nobody reads these failures."""
    return settings(
        max_examples=150,
        stateful_step_count=RUNS,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        print_blob=False,
        derandomize=True,
        database=None,
    )


@pytest.mark.parametrize("mistake", sorted(MUTANTS))
def test_a_broken_rule_is_noticed(new_database: NewDatabase, mistake: str, quick_failure: settings) -> None:
    # The machine's own assertions fail, or something that the application raises in its surprise.
    with machine(new_database(), "directory", MUTANTS[mistake]) as tested, pytest.raises(AssertionError):
        run_state_machine_as_test(tested, settings=quick_failure)
