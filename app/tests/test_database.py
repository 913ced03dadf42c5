"""Commits that are cancelled, lost or not replicated, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest

from longhaul.database import CommitUnknown, Connection, Database, DatabaseUnavailable
from longhaul.uploads.decisions import Uploads
from longhaul.uploads.garbage import referenced
from ops.throwaway_postgresql import ThrowawayPostgresql, throwaway_postgresql

SLOW_COMMIT = """
create table note (text text);
create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.5); return null; end $$;
create constraint trigger slow after insert on note deferrable initially deferred for each row execute function slow();
"""


def notes(conninfo: str) -> list[str]:
    with psycopg.connect(conninfo) as connection:
        return [row[0] for row in connection.execute("select text from note order by 1")]


@pytest.fixture
def slow(conninfo: str) -> str:
    """A database in which a COMMIT that inserted a note takes half a second."""
    with psycopg.connect(conninfo) as connection:
        connection.execute(SLOW_COMMIT)
    return conninfo


async def insert(connection: Connection) -> str:
    await connection.execute("insert into note values ('kept')")
    return "returned"


def test_a_cancelled_caller_does_not_cancel_the_commit(slow: str) -> None:
    async def test() -> None:
        database = Database(slow)
        caller = asyncio.create_task(database.transaction(insert))
        await asyncio.sleep(0.2)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert notes(slow) == [], "the commit is still under way"
        await database.close()
        assert notes(slow) == ["kept"]

    asyncio.run(test())


def test_the_end_of_the_process_sends_no_cancel_request(slow: str) -> None:
    """asyncio.run cancels every task, the transaction's own too: then the connection is dropped, and that is all."""

    async def test() -> None:
        caller = asyncio.create_task(Database(slow).transaction(insert))
        await asyncio.sleep(0.2)
        caller.cancel()

    asyncio.run(test())
    with psycopg.connect(slow) as connection:
        for _ in range(50):
            if connection.execute("select count(*) from note").fetchone() == (1,):
                return
            connection.commit()
            connection.execute("select pg_sleep(0.05)")
    pytest.fail("the commit was cancelled")


def test_psycopg_would_have_cancelled_it(slow: str) -> None:
    """What the test above guards against does happen without the guard."""

    async def test() -> None:
        connection = await psycopg.AsyncConnection.connect(slow)
        await connection.execute("insert into note values ('lost')")
        commit = asyncio.create_task(connection.commit())
        await asyncio.sleep(0.2)
        commit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await commit
        await connection.close()

    asyncio.run(test())
    assert notes(slow) == []


def test_a_connection_lost_in_commit_is_unknown_and_before_it_is_not(slow: str) -> None:
    async def break_connections(after: float) -> None:
        await asyncio.sleep(after)
        async with await psycopg.AsyncConnection.connect(slow, autocommit=True) as admin:
            await admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'victim'"
            )

    async def long_statement(connection: Connection) -> None:
        await connection.execute("select pg_sleep(1)")

    async def test() -> None:
        database = Database(slow, name="victim")
        breaking = asyncio.create_task(break_connections(0.2))
        with pytest.raises(CommitUnknown):
            await database.transaction(insert)
        await breaking
        breaking = asyncio.create_task(break_connections(0.2))
        with pytest.raises(DatabaseUnavailable) as caught:
            await database.transaction(long_statement)
        assert not isinstance(caught.value, CommitUnknown)
        await breaking
        assert await database.transaction(insert) == "returned", "it connects again"
        await database.close()

    asyncio.run(test())


def test_errors_of_the_work_roll_back_and_come_through(slow: str) -> None:
    async def fail(connection: Connection) -> None:
        await insert(connection)
        raise KeyError("mine")

    async def test() -> None:
        database = Database(slow, connections=1)
        for _ in range(3):
            with pytest.raises(KeyError):
                await database.transaction(fail)
        with pytest.raises(psycopg.errors.UndefinedTable):
            await database.transaction(lambda connection: connection.execute("select * from nothing"))
        await database.transaction(insert)
        await database.close()

    asyncio.run(test())
    assert notes(slow) == ["kept"]


def test_waiting_for_a_database_that_comes_back() -> None:
    with throwaway_postgresql() as server:
        server.sql("create table note (text text)", "alter table note owner to longhaul", database="longhaul")

        async def test() -> None:
            database = Database(server.conninfo)
            await database.transaction(insert)
            await asyncio.to_thread(server.stop, kill=True)
            with pytest.raises(DatabaseUnavailable):
                await database.transaction(insert)
            waiting = asyncio.create_task(database.retrying(insert, seconds=60))
            await asyncio.sleep(0.3)
            server.start()
            assert await waiting == "returned"
            await database.close()

        asyncio.run(test())
        assert notes(server.conninfo) == ["kept", "kept"]


class TestUnreplicated:
    """A primary whose replica is away: what it shows may vanish with it, so no client may be told."""

    @pytest.fixture
    def uploads(self, postgresql: ThrowawayPostgresql, conninfo: str) -> Iterator[Uploads]:
        yield Uploads(Database(conninfo, name="unreplicated"), server="web1", days=1)
        self.replica(postgresql, here=True)

    @staticmethod
    def replica(server: ThrowawayPostgresql, *, here: bool) -> None:
        """Commits wait for a replica that does not exist, or for none."""
        value = "" if here else "ghost"
        server.sql(f"alter system set synchronous_standby_names = '{value}'", "select pg_reload_conf()")

    @staticmethod
    def cancel_waiting(server: ThrowawayPostgresql) -> None:
        """Somebody cancels the waiting: the server then says that it committed, with a warning."""
        server.sql("select pg_cancel_backend(pid) from pg_stat_activity where application_name = 'unreplicated'")

    def test_a_visible_commit_is_not_told(self, postgresql: ThrowawayPostgresql, uploads: Uploads) -> None:
        async def test() -> None:
            upload = await uploads.create(owner="tester", size=10)
            await asyncio.to_thread(self.replica, postgresql, here=False)
            await asyncio.sleep(0.3)
            taking = asyncio.create_task(uploads.take_over(upload.id, upload.key))
            await asyncio.sleep(0.5)
            assert not taking.done()
            self.cancel_waiting(postgresql)
            await asyncio.sleep(0.3)
            assert (await uploads.get(upload.id)).epoch > upload.epoch, "now it can be seen"
            assert not taking.done(), "and is still not told"
            telling = asyncio.create_task(uploads.take_over(upload.id, upload.key))
            await asyncio.sleep(0.3)
            assert not telling.done(), "nor by another request that reads it"
            await asyncio.to_thread(self.replica, postgresql, here=True)
            first, second = await taking, await telling
            assert {first.epoch, second.epoch} == {2, 3}, "run again once after the unknown outcome"
            await uploads.database.close()

        asyncio.run(test())

    def test_nothing_is_deleted_on_the_strength_of_it(self, postgresql: ThrowawayPostgresql, uploads: Uploads) -> None:
        async def test() -> None:
            upload = await uploads.create(owner="tester", size=10)
            await asyncio.to_thread(self.replica, postgresql, here=False)
            await asyncio.sleep(0.3)
            asking = asyncio.create_task(referenced(uploads, upload.id, []))
            await asyncio.sleep(0.5)
            assert not asking.done(), "the epoch that it sees is not known to survive"
            await asyncio.to_thread(self.replica, postgresql, here=True)
            assert await asking == (upload.epoch, set())
            await uploads.database.close()

        asyncio.run(test())

    def test_the_warning_makes_the_outcome_unknown(self, postgresql: ThrowawayPostgresql, uploads: Uploads) -> None:
        async def test() -> None:
            upload = await uploads.create(owner="tester", size=10)
            await asyncio.to_thread(self.replica, postgresql, here=False)
            await asyncio.sleep(0.3)

            async def touch(connection: Connection) -> None:
                await connection.execute("update uploads set filename = 'x' where id = %s", (upload.id,))

            touching = asyncio.create_task(uploads.database.transaction(touch))
            await asyncio.sleep(0.3)
            self.cancel_waiting(postgresql)
            with pytest.raises(CommitUnknown, match="replication"):
                await touching
            await asyncio.to_thread(self.replica, postgresql, here=True)
            await uploads.database.close()

        asyncio.run(test())
