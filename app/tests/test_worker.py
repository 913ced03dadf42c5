"""The worker as a process: jobs from the queue, crashes, stopping, and the loss of the database."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from longhaul import schema
from longhaul.database import DatabaseUnavailable
from longhaul.processing.queue import UPKEEP_QUEUE, UPKEEP_TASK
from longhaul.services import Services
from longhaul.settings import Settings
from longhaul.uploads.jobs import QUEUE
from longhaul.uploads.model import State, Upload
from longhaul.uploads.results import Results
from ops.throwaway_postgresql import throwaway_postgresql
from tests.support import asynchronous, make_settings, make_upload, until

APP = Path(__file__).parents[1]
# Says that it runs, then waits to be let go on.
PATIENT = """
import json, os, pathlib, sys, time
job = json.load(sys.stdin)
signs = pathlib.Path(__file__).parent
(signs / "running").write_text(str(os.getpid()))
while not (signs / "go").exists():
    time.sleep(0.05)
(pathlib.Path(job["output"]) / "result").write_text("done by job %d" % job["job_id"])
"""


class Workers:
    """Worker processes over one database and store."""

    def __init__(self, conninfo: str, root: Path) -> None:
        self.conninfo = conninfo
        self.root = root
        self.services = Services.from_settings(make_settings(conninfo, root))
        self.scripts = root / "scripts"
        self.scripts.mkdir()
        (self.scripts / "inspect_file.py").write_text(PATIENT)
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, **settings: str) -> subprocess.Popen[bytes]:
        """A worker with a staging directory of its own; its log is <name>.log."""
        environment = {
            "PATH": os.defpath,
            "PYTHONPATH": str(APP),
            "LONGHAUL_DATABASE": self.conninfo,
            "LONGHAUL_STORE": f"directory:{self.root / 'store'}",
            "LONGHAUL_SERVER": name,
            "LONGHAUL_PROCESSORS": str(self.scripts),
            "LONGHAUL_WORK": str(self.root / f"work-{name}"),
            # Dead workers are noticed within seconds.
            "LONGHAUL_STALLED_SECONDS": "4",
            **{f"LONGHAUL_{key.upper()}": value for key, value in settings.items()},
        }
        with (self.root / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "longhaul.cli", "worker"], env=environment, stdout=log, stderr=log
            )
        self.running.append(process)
        return process

    def log(self, name: str) -> str:
        return (self.root / f"{name}.log").read_text()

    async def script(self) -> int:
        """The process id of the script, once it runs."""

        async def running() -> str:
            path = self.scripts / "running"
            return path.read_text() if path.exists() else ""

        return int(await until(running, seconds=40))

    def forget_script(self) -> None:
        (self.scripts / "running").unlink()

    async def in_state(self, upload: Upload, state: State, seconds: float = 40) -> Upload:
        async def reached() -> Upload | None:
            now = await self.services.uploads.get(upload.id)
            return now if now.state is state else None

        return await until(reached, seconds=seconds)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.conninfo) as connection:
            return connection.execute(query.encode(), values).fetchall()

    def jobs(self, columns: str) -> list[tuple[Any, ...]]:
        """These columns of all jobs of uploads; upkeep, which comes by the clock, is none of them."""
        return self.rows(f"select {columns} from procrastinate_jobs where queue_name = %s", QUEUE)  # noqa: S608  # the tests' own words

    async def close(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.kill()
            process.wait()
        await self.services.close()


@contextlib.asynccontextmanager
async def workers(conninfo: str, root: Path) -> AsyncIterator[Workers]:
    made = Workers(conninfo, root)
    try:
        yield made
    finally:
        await made.close()


@contextlib.contextmanager
def prompt_exit(process: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
    """The process ends within `seconds` of the end of the block."""
    yield
    began = time.monotonic()
    process.wait(60)
    assert time.monotonic() - began < seconds


@asynchronous
async def test_jobs_wait_for_a_worker_and_are_done(conninfo: str, tmp_path: Path) -> None:
    async with workers(conninfo, tmp_path) as here:
        (here.scripts / "go").touch()
        uploads = [await make_upload(here.services, b"content") for _ in range(3)]
        worker = here.start("one")
        for upload in uploads:
            await here.in_state(upload, State.DONE)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
        assert list((tmp_path / "work-one").iterdir()) == []
        assert set(here.jobs("status")) == {("succeeded",)}
        for upload in uploads:
            assert upload.id in here.log("one")


@asynchronous
async def test_an_upload_that_names_a_worker_is_processed_by_that_one(conninfo: str, tmp_path: Path) -> None:
    async with workers(conninfo, tmp_path) as here:
        (here.scripts / "go").touch()
        pinned = [await make_upload(here.services, b"content", worker="two") for _ in range(3)]
        other = await make_upload(here.services, b"content", worker="no host's name")
        here.start("one")
        await here.in_state(other, State.DONE)
        assert {(await here.services.uploads.get(upload.id)).state for upload in pinned} == {State.QUEUED}
        here.start("two", release="r2")
        for upload in pinned:
            await here.in_state(upload, State.DONE)
        attempts = here.rows("select worker, release from attempts where upload_id <> %s", other.id)
        assert attempts == [("two", "r2")] * 3


@asynchronous
async def test_the_job_of_a_worker_that_was_killed_is_done_by_another(conninfo: str, tmp_path: Path) -> None:
    async with workers(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        killed = here.start("killed")
        orphan = await here.script()
        killed.kill()
        killed.wait()
        os.kill(orphan, signal.SIGKILL)
        here.forget_script()
        assert (await here.services.uploads.get(upload.id)).state is State.PROCESSING
        [(job_id,)] = here.jobs("id")
        (here.scripts / "go").touch()
        here.start("other")
        done = await here.in_state(upload, State.DONE)
        # One job, two attempts, one publication.
        attempts = here.rows("select worker, state, job_id from attempts order by number")
        assert attempts == [("killed", "superseded", job_id), ("other", "done", job_id)]
        results = await Results(here.services.database).published(done)
        assert [result.name for result in results] == ["result"]
        assert "the worker of this job is dead" in here.log("other")
        # What it has left on its host goes when it is started there again.
        assert len(list((tmp_path / "work-killed").iterdir())) == 1
        again = here.start("killed")

        async def emptied() -> bool:
            return not list((tmp_path / "work-killed").iterdir())

        await until(emptied)
        assert again.poll() is None


@asynchronous
async def test_a_worker_that_was_frozen_leaves_the_job_to_the_one_that_has_it_now(
    conninfo: str, tmp_path: Path
) -> None:
    async with workers(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        frozen = here.start("frozen")
        await here.script()
        frozen.send_signal(signal.SIGSTOP)
        here.forget_script()
        here.start("other")
        await here.script()
        frozen.send_signal(signal.SIGCONT)

        async def noticed() -> bool:
            return "left alone" in here.log("frozen")

        await until(noticed, seconds=40)
        assert "attempt superseded" in here.log("frozen")
        assert here.jobs("status") == [("doing",)]
        (here.scripts / "go").touch()
        await here.in_state(upload, State.DONE)

        async def ended() -> bool:
            return here.jobs("status") == [("succeeded",)]

        await until(ended)
        assert here.rows("select state from attempts order by number") == [("superseded",), ("done",)]


@asynchronous
async def test_upkeep_finds_uploads_that_have_lost_their_jobs(conninfo: str, tmp_path: Path) -> None:
    async with workers(conninfo, tmp_path) as here:
        (here.scripts / "go").touch()
        upload = await make_upload(here.services, b"content")
        with psycopg.connect(conninfo) as connection:
            connection.execute("alter table uploads disable trigger uploads_touch")
            connection.execute("update uploads set updated_at = now() - interval '1 hour'")
            connection.execute("alter table uploads enable trigger uploads_touch")
            connection.execute("update procrastinate_jobs set status = 'failed'")
            connection.execute(
                "insert into procrastinate_jobs (queue_name, task_name, args) values (%s, %s, '{\"timestamp\": 1}')",
                (UPKEEP_QUEUE, UPKEEP_TASK),
            )
        here.start("one")
        await here.in_state(upload, State.DONE)
        assert "waits without a job" in here.log("one")


@asynchronous
async def test_a_worker_that_stops_hands_back_what_it_cannot_finish(conninfo: str, tmp_path: Path) -> None:
    async with workers(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        stopped = here.start("stopped", job_stop_seconds="2")
        await here.script()
        with prompt_exit(stopped, 20):
            stopped.send_signal(signal.SIGTERM)
        assert stopped.returncode == 0
        assert (await here.services.uploads.get(upload.id)).state is State.QUEUED
        assert list((tmp_path / "work-stopped").iterdir()) == []
        # Not after the time in which a dead worker is noticed, but at once.
        assert here.jobs("status, scheduled_at <= now()") == [("todo", True)]
        (here.scripts / "go").touch()
        here.start("next")
        await here.in_state(upload, State.DONE)


@asynchronous
async def test_a_worker_that_stops_finishes_what_is_nearly_done(conninfo: str, tmp_path: Path) -> None:
    async with workers(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        stopped = here.start("stopped", job_stop_seconds="60")
        await here.script()
        stopped.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.5)
        assert stopped.poll() is None
        (here.scripts / "go").touch()
        assert stopped.wait(30) == 0
        assert (await here.services.uploads.get(upload.id)).state is State.DONE


@asynchronous
async def test_two_workers_cannot_share_a_staging_directory(conninfo: str, tmp_path: Path) -> None:
    async with workers(conninfo, tmp_path) as here:
        here.start("one")

        async def taken() -> bool:
            return "worker takes jobs" in here.log("one")

        await until(taken, seconds=40)
        second = here.start("two", work=str(tmp_path / "work-one"))
        assert second.wait(40) == 78
        assert "used by another worker" in here.log("two")


def test_jobs_are_done_after_the_database_was_away(tmp_path: Path) -> None:
    with throwaway_postgresql() as server:
        schema.migrate(Settings(database=server.conninfo, store="directory:/nowhere"))

        async def lose() -> None:
            async with workers(server.conninfo, tmp_path) as here:
                upload = await make_upload(here.services, b"content")
                worker = here.start("one")
                await here.script()
                server.stop(kill=True)
                (here.scripts / "go").touch()
                await asyncio.sleep(3)
                server.start()

                async def done() -> bool:
                    nonlocal worker
                    # Either it lives through this, or it ends with the code that asks for a new start.
                    if worker.poll() is not None:
                        assert worker.returncode == 1, here.log("one")
                        worker = here.start("one")
                    try:
                        return (await here.services.uploads.get(upload.id)).state is State.DONE
                    except DatabaseUnavailable:
                        return False

                await until(done, seconds=60)
                assert here.rows("select count(*) from results") == [(1,)]
                # And the next one too: the worker has not lost its hold on the queue.
                upload = await make_upload(here.services, b"content")
                await until(done, seconds=60)

        asyncio.run(lose())


@pytest.mark.parametrize("missing", ["LONGHAUL_PROCESSORS", "LONGHAUL_DATABASE"])
def test_wrong_settings_are_told(tmp_path: Path, missing: str) -> None:
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": str(APP),
        "LONGHAUL_DATABASE": "host=/nowhere",
        "LONGHAUL_STORE": f"directory:{tmp_path}",
        "LONGHAUL_PROCESSORS": str(tmp_path),
        "LONGHAUL_WORK": str(tmp_path / "work"),
    }
    del environment[missing]
    done = subprocess.run(
        [sys.executable, "-m", "longhaul.cli", "worker"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 78
    assert missing in done.stderr
