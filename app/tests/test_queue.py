"""Jobs in the queue belong to the run that fetched them, and no upload that waits is without one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from procrastinate import App
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job, Status

from longhaul.processing import queue
from longhaul.services import Services
from longhaul.uploads import waiting
from longhaul.uploads.jobs import QUEUE, queue_for
from longhaul.uploads.model import State, Upload
from tests.support import asynchronous, make_settings, make_upload

NOW = timedelta(0)


class World:
    """The queue of a database of the test's own, as workers see it."""

    def __init__(self, conninfo: str, services: Services, app: App) -> None:
        self.conninfo = conninfo
        self.services = services
        self.jobs = app.job_manager
        self.app = app

    async def upload(self, **metadata: str) -> Upload:
        return await make_upload(self.services, b"content", **metadata)

    async def worker(self) -> int:
        return await self.jobs.register_worker()

    async def fetch(self, worker: int, queue_name: str = QUEUE) -> Job:
        job = await self.jobs.fetch_job([queue_name], worker)
        assert job is not None
        return job

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.conninfo) as connection:
            cursor = connection.execute(query.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def state_of(self, job: Job) -> tuple[str, int | None]:
        [(status, worker)] = self.rows("select status, worker_id from procrastinate_jobs where id = %s", job.id)
        return status, worker


@contextlib.asynccontextmanager
async def world(conninfo: str, root: Path) -> AsyncIterator[World]:
    async def nothing(*_: object) -> None: ...

    settings = make_settings(conninfo, root)
    services = Services.from_settings(settings)
    app = queue.make_app(settings, nothing, nothing)
    try:
        async with app.open_async():
            yield World(conninfo, services, app)
    finally:
        await services.close()


@pytest.mark.parametrize("same_worker", [False, True], ids=["another worker", "the same worker"])
@pytest.mark.parametrize("action", ["finish", "put back", "reap"])
@asynchronous
async def test_a_run_that_was_thought_dead_leaves_the_next_one_its_job(
    conninfo: str, tmp_path: Path, action: str, same_worker: bool
) -> None:
    async with world(conninfo, tmp_path) as here:
        await here.upload()
        thought_dead = await here.worker()
        alive = thought_dead if same_worker else await here.worker()
        old = await here.fetch(thought_dead)
        [stalled] = await here.jobs.get_stalled_jobs(seconds_since_heartbeat=0)
        await queue.requeue(here.app, stalled)
        new = await here.fetch(alive)
        assert new.id == old.id
        match action:
            case "finish":
                await here.jobs.finish_job(old, Status.SUCCEEDED, delete_job=False)
            case "put back":
                await here.jobs.retry_job(old)
            case _:  # a reaper that looked when the other one did, and is slower
                await queue.requeue(here.app, stalled)
        assert here.state_of(new) == ("doing", alive)
        await here.jobs.finish_job(new, Status.SUCCEEDED, delete_job=False)
        assert here.state_of(new) == ("succeeded", alive)


@pytest.mark.parametrize("heard", [False, True], ids=["not heard", "heard, but not answered"])
@pytest.mark.parametrize("action", ["finish", "put back"])
@asynchronous
async def test_a_job_ends_though_the_database_was_away_at_that_moment(
    conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str, heard: bool
) -> None:
    async with world(conninfo, tmp_path) as here:
        await here.upload()
        job = await here.fetch(await here.worker())
        connector = here.jobs.connector
        ask = connector.execute_query_all_async
        lost = iter([True, True, False])

        async def unreliable(query: Any, **values: Any) -> list[dict[str, Any]]:
            away = next(lost)
            answer = await ask(query, **values) if heard or not away else []
            if away:
                raise ConnectorException("the primary is another one by now")
            return answer

        monkeypatch.setattr(connector, "execute_query_all_async", unreliable)
        monkeypatch.setattr(queue, "DECIDE_AGAIN_SECONDS", 0.01)
        if action == "finish":
            await here.jobs.finish_job(job, Status.SUCCEEDED, delete_job=False)
        else:
            await here.jobs.retry_job(job)
        assert here.state_of(job)[0] == ("succeeded" if action == "finish" else "todo")
        attempts = here.rows("select attempts from procrastinate_jobs where id = %s", job.id)
        assert attempts == [(job.attempts + 1,)]


@asynchronous
async def test_a_worker_does_not_wait_for_ever_to_end_a_job(
    conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise ConnectorException("gone")

    async with world(conninfo, tmp_path) as here:
        await here.upload()
        job = await here.fetch(await here.worker())
        monkeypatch.setattr(here.jobs.connector, "execute_query_all_async", away)
        monkeypatch.setattr(queue, "DECIDE_AGAIN_SECONDS", 0.01)
        monkeypatch.setattr(queue, "DECIDE_SECONDS", 0.1)
        with pytest.raises(ConnectorException):
            await here.jobs.finish_job(job, Status.SUCCEEDED, delete_job=False)


@asynchronous
async def test_a_worker_that_the_others_forgot_still_ends_its_own_job(conninfo: str, tmp_path: Path) -> None:
    async with world(conninfo, tmp_path) as here:
        await here.upload()
        job = await here.fetch(await here.worker())
        await here.jobs.prune_stalled_workers(0)
        await here.jobs.finish_job(job, Status.SUCCEEDED, delete_job=False)
        assert here.state_of(job) == ("succeeded", None)


@asynchronous
async def test_the_next_upkeep_runs_though_the_worker_of_the_last_one_died(
    conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "DECIDE_AGAIN_SECONDS", 3600)  # a refusal is an answer, and not asked for again
    async with world(conninfo, tmp_path) as here:
        upkeep = here.app.tasks[queue.UPKEEP_TASK]
        await upkeep.defer_async(timestamp=1)
        last = await here.fetch(await here.worker(), queue.UPKEEP_QUEUE)
        await upkeep.defer_async(timestamp=2)
        [stalled] = await here.jobs.get_stalled_jobs(seconds_since_heartbeat=0)
        await asyncio.wait_for(queue.requeue(here.app, stalled), 60)
        following = await here.fetch(await here.worker(), queue.UPKEEP_QUEUE)
        assert following.id != last.id


@pytest.mark.parametrize("state", [State.QUEUED, State.PROCESSING])
@pytest.mark.parametrize("worker", ["", "two"], ids=["any worker", "a worker of its own"])
@asynchronous
async def test_an_upload_that_has_lost_its_job_gets_another(
    conninfo: str, tmp_path: Path, state: State, worker: str
) -> None:
    async with world(conninfo, tmp_path) as here:
        upload = await here.upload(**({"worker": worker} if worker else {}))
        queue_name = queue_for(worker) if worker else QUEUE
        lost = await here.fetch(await here.worker(), queue_name)
        here.rows("update uploads set state = %s where id = %s", state, upload.id)
        await here.jobs.finish_job(lost, Status.SUCCEEDED, delete_job=False)
        # Whoever still works on it reports now and then, and is not disturbed.
        assert await waiting.queue_lost(here.services.uploads) == []
        assert [one.id for one in await waiting.queue_lost(here.services.uploads, NOW)] == [upload.id]
        assert await waiting.queue_lost(here.services.uploads, NOW) == []
        job = await here.fetch(await here.worker(), queue_name)
        assert job.task_kwargs["upload_id"] == upload.id


@pytest.mark.parametrize("deleted", [False, True], ids=["waits", "is deleted"])
@asynchronous
async def test_a_job_does_not_wait_for_ever_for_a_worker_that_is_gone(
    conninfo: str, tmp_path: Path, deleted: bool
) -> None:
    async with world(conninfo, tmp_path) as here:
        upload = await here.upload(worker="gone")
        if deleted:
            await here.services.uploads.terminate(upload.id)
        assert await waiting.free_jobs(here.services.uploads) == 0
        assert await waiting.free_jobs(here.services.uploads, NOW) == 1
        job = await here.fetch(await here.worker())
        assert job.task_kwargs["upload_id"] == upload.id


@asynchronous
async def test_what_has_a_job_or_needs_none_gets_no_other(conninfo: str, tmp_path: Path) -> None:
    async with world(conninfo, tmp_path) as here:
        running = await here.upload()
        job = await here.fetch(await here.worker())
        await here.upload()
        ended = [await here.upload() for _ in ("done", "failed", "terminated")]
        for upload, state in zip(ended, ("done", "failed", "terminated"), strict=True):
            here.rows("update uploads set state = %s where id = %s", state, upload.id)
            here.rows("delete from procrastinate_jobs where args->>'upload_id' = %s", upload.id)
        await here.services.uploads.create(owner="ann", size=10)
        assert job.task_kwargs["upload_id"] == running.id
        assert await waiting.queue_lost(here.services.uploads, NOW) == []


@asynchronous
async def test_two_that_look_for_lost_jobs_at_once_queue_each_once(conninfo: str, tmp_path: Path) -> None:
    async with world(conninfo, tmp_path) as here:
        uploads = {(await here.upload()).id for _ in range(20)}
        here.rows("delete from procrastinate_jobs")
        found = await asyncio.gather(*[waiting.queue_lost(here.services.uploads, NOW) for _ in range(4)])
        assert sorted(upload.id for each in found for upload in each) == sorted(uploads)
        assert here.rows("select count(*) from procrastinate_jobs") == [(20,)]
