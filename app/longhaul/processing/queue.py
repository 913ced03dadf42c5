"""Taking jobs from the queue: Procrastinate, with guards that make its recovery from failures safe.

Procrastinate notices a dead worker by its missing heartbeat. A living worker that lost the database for a while looks
the same. So a worker keeps its jobs until the database has been reachable for `stalled_seconds`: by then a living
worker has sent a heartbeat again. If a job runs twice nevertheless, `records` publishes it once, and a run can no
longer decide about a job that was put back into the queue.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, LiteralString

from procrastinate import App, JobContext, PsycopgConnector, RetryDecision
from procrastinate.exceptions import ConnectorException, UniqueViolation
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager
from procrastinate.retry import BaseRetryStrategy
from procrastinate.utils import utcnow
from psycopg.conninfo import make_conninfo

import linetrace
from longhaul import logs
from longhaul.processing.attempt import NotNow
from longhaul.settings import Settings
from longhaul.uploads.jobs import QUEUE, TASK, queue_for

log = logs.get(__name__)

UPKEEP_QUEUE = "upkeep"
UPKEEP_TASK = "longhaul.upkeep"
FETCH_SECONDS = 1.0
"""How often a free worker asks for a job. It is not notified (see the migrations)."""
HEARTBEATS = 18
"""Heartbeats that a worker sends in `stalled_seconds`."""
REAPS = 12
"""Searches for dead workers in `stalled_seconds`."""
DECIDE_SECONDS = 60.0
"""How long a job's end is reported to the queue again and again. A failover takes less time."""
DECIDE_AGAIN_SECONDS = 1.0
TCP_USER_TIMEOUT_MS = 20_000
"""Longer than for other connections: a short break of the network must not end the worker and its jobs."""
CONNECT_SECONDS = 15.0
LONGEST_DELAY_SECONDS = 300
KEEP_JOBS_HOURS = 30 * 24

type Process = Callable[[str, int, str | None], Awaitable[None]]
type Upkeep = Callable[[], Awaitable[None]]


class _Again(BaseRetryStrategy):
    """A job that was put off runs again later. A job that a stopping worker gave back runs again at once."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        if isinstance(exception, asyncio.CancelledError):
            return RetryDecision(retry_in={"seconds": 0})
        if isinstance(exception, NotNow):
            delay = min(LONGEST_DELAY_SECONDS, 5 * 2 ** min(job.attempts, 10))
            return RetryDecision(retry_in={"seconds": round(delay * random.uniform(0.8, 1.2))})  # noqa: S311  # spreads
        return None


class _JobsOfThisRun(JobManager):
    """Ends a job, or puts it back, only for the run that it was fetched for.

    Procrastinate itself looks at the job's id only. Each return to the queue raises `attempts`. So a worker that was
    thought dead finds another number, and leaves the job to the run that has it now.

    Procrastinate also reports the end of a job only once. If the database does not learn it, the job stays with its
    worker for as long as that worker lives. So the end is reported until it is known.
    """

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        """End the job, unless it belongs to another run by now."""
        await self._decide(
            job,
            "select procrastinate_finish_job_v1(id, %(status)s, %(delete_job)s) from ours",
            status=status.value,
            delete_job=delete_job,
        )

    async def retry_job(
        self,
        job: Job,
        retry_at: datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> None:
        """Put the job back into the queue, unless it belongs to another run by now."""
        await self._decide(
            job,
            "select procrastinate_retry_job_v2(id, %(retry_at)s, %(priority)s, %(queue)s, %(lock)s) from ours",
            retry_at=retry_at or utcnow(),
            priority=priority,
            queue=queue,
            lock=lock,
        )

    async def _decide(self, job: Job, decision: LiteralString, **values: Any) -> None:
        # The row is locked in a query of its own: else the decision could be made before the lock is held.
        query: LiteralString = (
            "with ours as (select id from procrastinate_jobs where id = %(id)s and status = 'doing'"  # noqa: S608 - of our words only
            " and attempts = %(attempts)s for update) " + decision
        )
        until = asyncio.get_running_loop().time() + DECIDE_SECONDS
        while True:
            try:
                done = await self.connector.execute_query_all_async(query, id=job.id, attempts=job.attempts, **values)
                break
            except UniqueViolation:
                raise  # this is an answer: asking again would not change it
            except ConnectorException as error:
                if asyncio.get_running_loop().time() > until:
                    raise
                log.warning(
                    "the end of a job did not reach the queue: reporting it again",
                    extra={"job_id": job.id, "error": cause(error)},
                )
            await asyncio.sleep(DECIDE_AGAIN_SECONDS)
        if not done:
            log.info("the job has ended or belongs to another run by now: left alone", extra={"job_id": job.id})


def make_app(settings: Settings, process: Process, upkeep: Upkeep) -> App:
    """The queue with our two tasks: `process(upload_id, job_id, request_id)` and the hourly `upkeep()`."""
    connector = PsycopgConnector(
        conninfo=make_conninfo(
            settings.database,
            password=settings.credential("database-password"),
            application_name=f"longhaul-queue:{settings.server}",
            tcp_user_timeout=TCP_USER_TIMEOUT_MS,
        ),
        min_size=1,
        max_size=4,
        # For a connection. After that the worker ends, and is started again until the database is back.
        timeout=CONNECT_SECONDS,
    )
    app = App(connector=connector)
    app.job_manager = _JobsOfThisRun(connector)

    @app.task(name=TASK, queue=QUEUE, pass_context=True, retry=_Again())
    async def process_upload(context: JobContext, *, upload_id: str, request_id: str | None = None) -> None:
        job_id = context.job.id
        assert job_id is not None, "a job that was fetched has an id"
        with logs.bound(upload_id=upload_id, job_id=job_id, request_id=request_id), linetrace.job():
            await process(upload_id, job_id, request_id)

    @app.periodic(cron="17 * * * *")
    @app.task(name=UPKEEP_TASK, queue=UPKEEP_QUEUE, pass_context=True, queueing_lock=UPKEEP_TASK, lock=UPKEEP_TASK)
    async def keep_up(context: JobContext, timestamp: int) -> None:  # noqa: ARG001  # the hour, for Procrastinate
        with logs.bound(job_id=context.job.id):
            await upkeep()
            await app.job_manager.delete_old_jobs(nb_hours=KEEP_JOBS_HOURS, include_failed=True, include_aborted=True)

    return app


async def work(app: App, settings: Settings) -> bool:
    """Take jobs until SIGTERM or SIGINT (True), or until the database is away for longer than a heartbeat (False).

    After that, running jobs get half of `job_stop_seconds` to end. Then they are cancelled and given back.
    """
    stop_seconds = settings.job_stop_seconds / 2
    # Its lines have no upload id; our own lines say the same with the ids.
    logging.getLogger("procrastinate").setLevel(logging.WARNING)
    log.info("worker takes jobs", extra={"concurrency": settings.worker_concurrency})
    told_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_stop.set)
    working = asyncio.create_task(
        app.run_worker_async(
            queues=[QUEUE, queue_for(settings.server), UPKEEP_QUEUE],
            name=settings.server,
            concurrency=settings.worker_concurrency,
            fetch_job_polling_interval=FETCH_SECONDS,
            listen_notify=False,
            install_signal_handlers=False,
            shutdown_graceful_timeout=stop_seconds,
            update_heartbeat_interval=settings.stalled_seconds / HEARTBEATS,
            stalled_worker_timeout=settings.stalled_seconds,
        )
    )
    stopping = asyncio.create_task(told_to_stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if told_to_stop.is_set():
        log.info("worker stops: running jobs may end, or are given back", extra={"seconds": stop_seconds})
    for task in (working, stopping):
        task.cancel()
    await asyncio.wait({working, stopping})
    if not working.cancelled() and (error := working.exception()) is not None:
        log.error("the queue cannot be reached any more", exc_info=error)
    return told_to_stop.is_set()


async def reap(app: App, stalled_seconds: float) -> None:
    """Give the jobs of dead workers back to the queue, until cancelled."""
    loop = asyncio.get_running_loop()
    reachable_since: float | None = None
    while True:
        try:
            jobs = list(await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=stalled_seconds))
            if reachable_since is None:
                reachable_since = loop.time()
            if loop.time() - reachable_since >= stalled_seconds:
                for job in jobs:
                    await requeue(app, job)
        except ConnectorException as error:
            reachable_since = None
            log.warning("the queue cannot be reached", extra={"error": cause(error)})
        await asyncio.sleep(stalled_seconds / REAPS)


def cause(error: ConnectorException) -> str:
    """The message of PostgreSQL or the network. Procrastinate's own error does not contain it."""
    return str(error.__cause__ or error)


async def requeue(app: App, job: Job) -> None:
    """Give the job of a dead worker back to the queue, unless that was done already."""
    upload_id, request_id = job.task_kwargs.get("upload_id"), job.task_kwargs.get("request_id")
    with logs.bound(job_id=job.id, upload_id=str(upload_id), request_id=str(request_id)):
        log.warning("the worker of this job is dead: the job runs again", extra={"worker": job.worker_id})
        try:
            await app.job_manager.retry_job(job)
        except UniqueViolation:
            log.info("not queued again: another waiting job does the same")
            await app.job_manager.finish_job(job, Status.FAILED, delete_job=False)
