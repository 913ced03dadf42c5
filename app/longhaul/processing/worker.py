"""`longhaul worker`: the process on a compute server that takes jobs from the queue and runs them."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from procrastinate.exceptions import ConnectorException

from longhaul import logs
from longhaul.processing import queue, runner
from longhaul.processing.attempt import JobDirectory, JobServices, process
from longhaul.processing.records import Attempts
from longhaul.processing.sweep import sweep_results
from longhaul.services import Services
from longhaul.settings import Settings, SettingsError
from longhaul.uploads import garbage, waiting

log = logs.get(__name__)


async def run(settings: Settings) -> int:
    """Work until told to stop. Returns 0 after SIGTERM or SIGINT, 1 if the service manager should start it again.

    Raises SettingsError.
    """
    with staging(Path(settings.work)) as work:
        services = Services.from_settings(settings)
        jobs = JobServices(
            uploads=services.uploads,
            attempts=Attempts(services.database, worker=settings.server, release=settings.release),
            store=services.store,
            runner=runner.from_settings(settings),
            work=work,
        )
        try:
            return await _take_jobs(settings, services, jobs)
        finally:
            await services.close()


async def _take_jobs(settings: Settings, services: Services, jobs: JobServices) -> int:
    async def process_one(upload_id: str, job_id: int, request_id: str | None) -> None:
        await process(jobs, upload_id, job_id, request_id)

    async def upkeep() -> None:
        await waiting.queue_lost(services.uploads)
        await waiting.free_jobs(services.uploads)
        await garbage.sweep(services.uploads, services.store, keep_days=settings.keep_days)
        await sweep_results(services.database, jobs.attempts, services.store, keep_days=settings.keep_days)

    app = queue.make_app(settings, process_one, upkeep)
    try:
        async with app.open_async():
            reaper = asyncio.create_task(queue.reap(app, settings.stalled_seconds))
            try:
                told_to_stop = await queue.work(app, settings)
            finally:
                reaper.cancel()
                await asyncio.wait({reaper})
    except ConnectorException as error:
        log.error("the queue cannot be reached", extra={"error": queue.cause(error)})
        told_to_stop = False
    if told_to_stop:
        log.info("worker stopped")
        return 0
    log.error("the worker lost the queue and ends; the service manager starts it again")
    return 1


@contextmanager
def staging(work: Path) -> Iterator[Path]:
    """Lock the staging directory, and empty it of what crashed attempts left. Raises SettingsError.

    One worker at a time: the files of another worker's attempts would look like leftovers.
    """
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise SettingsError(f"LONGHAUL_WORK={work}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingsError(
                f"LONGHAUL_WORK={work} is used by another worker: stop that one, or set another directory for this one"
            ) from error
        # The processor's user shares job directories through the group of `work`, which new directories inherit. Not
        # with chmod: confined services may not set the set-group-id bit.
        os.umask(0o007)
        for leftover in sorted(work.iterdir()):
            log.warning("removing what a crashed attempt left", extra={"path": str(leftover)})
            JobDirectory(leftover).remove()
        yield work
    finally:
        os.close(lock)
