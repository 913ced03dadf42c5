"""Transactions on PostgreSQL that survive failovers, and say so when an outcome is unknown.

Callers rely on this:

- A transaction runs in a task of its own. Cancelling the caller does not touch it, and no cancel request is ever sent
  to the server: a cancelled COMMIT that waits for its replica would be visible and could still be lost.
- A COMMIT has no time-out. If the connection breaks while it is under way, or the server says that it only committed
  locally, `CommitUnknown` is raised: connect again and ask.
- A connection is held only inside `transaction`; the function given to it must await nothing but the database.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
from psycopg import errors, pq, waiting
from psycopg.rows import DictRow, dict_row

from longhaul import logs
from longhaul.settings import Settings

log = logs.get(__name__)

type Connection = psycopg.AsyncConnection[DictRow]
type Work[T] = Callable[[Connection], Awaitable[T]]


class DatabaseUnavailable(Exception):
    """The database cannot be reached now; nothing was committed. Try again."""


class CommitUnknown(DatabaseUnavailable):
    """The connection ended during COMMIT, or the commit is not replicated. Connect again and ask if it happened."""


class _Uncancelled(psycopg.AsyncConnection[Any]):
    """A connection that closes itself when a wait is interrupted. psycopg's own asks the server to cancel."""

    async def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return await waiting.wait_async(gen, self.pgconn.socket, interval=interval, timeout=timeout)
        except (asyncio.CancelledError, KeyboardInterrupt):
            self.pgconn.finish()
            raise


class Database:
    """A bounded set of connections to the primary, opened on demand."""

    def __init__(self, conninfo: str, *, password: str | None = None, name: str = "longhaul", connections: int = 8):
        """`conninfo` as libpq takes it; `name` shows in pg_stat_activity; at most `connections` are open."""
        self._conninfo = conninfo
        self._options: dict[str, Any] = {"application_name": name}
        if password:
            self._options["password"] = password
        self._idle: list[Connection] = []
        self._places = asyncio.Semaphore(connections)
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False

    @classmethod
    def from_settings(cls, settings: Settings, *, connections: int = 8) -> Database:
        """As the settings say; the password comes from the credential `database-password` if there is one."""
        return cls(
            settings.database,
            password=settings.credential("database-password"),
            name=f"longhaul:{settings.server}",
            connections=connections,
        )

    async def transaction[T](self, work: Work[T]) -> T:
        """Run `work` in one transaction and commit it.

        Returns what `work` returned, after a synchronous commit. If `work` raises, the transaction is rolled back and
        the error is raised here; a lost or refused connection is raised as DatabaseUnavailable. Raises CommitUnknown if
        the outcome of COMMIT is unknown. If the caller is cancelled, the transaction still runs to its end.
        """
        task = asyncio.create_task(self._transaction(work))
        self._running.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    async def retrying[T](self, work: Work[T], *, seconds: float) -> T:
        """Like `transaction`, but try for up to `seconds` while the database is away.

        `work` must be idempotent: it may run again after a commit whose outcome is unknown. Raises
        DatabaseUnavailable after the last try. A running COMMIT is waited for, even after that time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        pause = 0.05
        while True:
            try:
                return await self.transaction(work)
            except DatabaseUnavailable as error:
                if (left := deadline - loop.time()) <= 0:
                    raise
                log.warning("database is away, trying again", extra={"error": str(error), "pause": pause})
            # Random, so that not all waiting processes come back at the same moment.
            await asyncio.sleep(min(left, pause * random.uniform(0.5, 1.0)))  # noqa: S311  # spreads
            pause = min(1.0, pause * 2)

    async def quiet(self) -> None:
        """Wait until no transaction is running."""
        while self._running:
            await asyncio.wait(set(self._running))

    async def close(self) -> None:
        """Wait for running transactions, then close all connections."""
        self._closed = True
        await self.quiet()
        await self._drop_idle()

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # If the caller is gone, this is the only trace of the error.
            log.debug("transaction failed", extra={"error": str(error)})

    async def _transaction[T](self, work: Work[T]) -> T:
        async with self._places:
            connection = await self._acquire()
            try:
                return await self._run(connection, work)
            finally:
                await self._release(connection)

    async def _run[T](self, connection: Connection, work: Work[T]) -> T:
        try:
            result = await work(connection)
        except (psycopg.OperationalError, errors.ReadOnlySqlTransaction) as error:
            await self._give_up(connection)
            raise DatabaseUnavailable(str(error)) from error
        except BaseException as error:
            # A library that was given the connection wraps its errors in errors of its own.
            lost = connection.closed and isinstance(error, Exception)
            await self._give_up(connection)
            if lost:
                raise DatabaseUnavailable(str(error)) from error
            raise
        warnings: list[str] = []

        def note(diagnostic: psycopg.errors.Diagnostic) -> None:
            if diagnostic.severity_nonlocalized == "WARNING":
                warnings.append(diagnostic.message_primary or "warning without text")

        connection.add_notice_handler(note)
        try:
            await connection.commit()
        except psycopg.OperationalError as error:
            await self._give_up(connection)
            raise CommitUnknown(str(error)) from error
        except BaseException:
            await self._give_up(connection)
            raise
        finally:
            connection.remove_notice_handler(note)
        if warnings:
            # "committed locally, but might not have been replicated"
            await self._give_up(connection)
            raise CommitUnknown("; ".join(warnings))
        return result

    async def _acquire(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        try:
            return await _Uncancelled.connect(self._conninfo, row_factory=dict_row, **self._options)
        except psycopg.OperationalError as error:
            raise DatabaseUnavailable(str(error)) from error

    async def _release(self, connection: Connection) -> None:
        usable = not connection.closed and connection.info.transaction_status == pq.TransactionStatus.IDLE
        if usable and not self._closed:
            self._idle.append(connection)
        else:
            await connection.close()

    async def _give_up(self, connection: Connection) -> None:
        """Roll back if possible. If the connection is lost, close the idle ones too: they are probably lost as well."""
        try:
            if not connection.closed and connection.info.transaction_status != pq.TransactionStatus.ACTIVE:
                await connection.rollback()
        except psycopg.Error as error:
            log.debug("rollback failed", extra={"error": str(error)})
        if connection.closed:
            await self._drop_idle()

    async def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()


logging.getLogger("psycopg").setLevel(logging.ERROR)
