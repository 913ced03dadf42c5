"""Processing uploads: publication, double runs, failures, interruptions, and what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import random
import shutil
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from longhaul.database import DatabaseUnavailable
from longhaul.processing import attempt as attempt_module
from longhaul.processing.attempt import UNKNOWN_TRIES, Interrupted, JobServices, NotNow, process
from longhaul.processing.records import INTERRUPTIONS, Attempt, Attempts
from longhaul.processing.runner import SubprocessRunner
from longhaul.processing.script import OnProgress, Outcome, ProcessorError, ProcessorInterrupted, ProcessorJob
from longhaul.processing.sweep import sweep_results
from longhaul.services import Services
from longhaul.stores.content import read_verified
from longhaul.uploads.jobs import queue_for
from longhaul.uploads.model import State
from longhaul.uploads.results import Result, Results, result_object
from tests.conftest import NewDatabase
from tests.support import PROCESSORS, asynchronous, make_settings, make_upload, until

CONTENT = random.Random(7).randbytes(3_200_000)  # noqa: S311  # the same bytes in each run
JOB = 1


@pytest.fixture(scope="module")
def conninfo(new_database: NewDatabase) -> str:
    """One database for all tests here: each looks only at its own uploads, and has a store of its own."""
    return new_database()


class World:
    """Services over a database and a store of the test's own, and a worker's half of them."""

    def __init__(self, conninfo: str, root: Path) -> None:
        self.conninfo = conninfo
        self.root = root
        settings = make_settings(conninfo, root)
        self.services = Services.from_settings(settings)
        self.attempts = Attempts(self.services.database, worker="test", patience=1.0)
        self.results = Results(self.services.database)
        self.jobs = JobServices(
            uploads=self.services.uploads,
            attempts=self.attempts,
            store=self.services.store,
            runner=SubprocessRunner(PROCESSORS),
            work=Path(settings.work),
        )

    def with_runner(self, run: Callable[[ProcessorJob], Any]) -> JobServices:
        """A worker whose processor is `run`: its result is the outcome (None: all is well)."""
        return replace(self.jobs, runner=Programmed(run))

    async def state(self, upload_id: str) -> State:
        return (await self.services.uploads.get(upload_id)).state

    async def begin(self, upload_id: str, job_id: int = JOB) -> Attempt:
        attempt = await self.attempts.begin(upload_id, job_id)
        assert attempt is not None
        return attempt

    async def contents(self, upload_id: str) -> dict[str, bytes]:
        """The published results."""
        upload = await self.services.uploads.get(upload_id)
        found = {}
        for result in await self.results.published(upload):
            blocks = read_verified(self.services.store, result.object_name, result.size, result.digests)
            found[result.name] = b"".join([block async for block in blocks])
        return found

    async def objects(self, prefix: str = "results/") -> set[str]:
        return {entry.name async for entry in self.services.store.list(prefix)}

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.conninfo) as connection:
            cursor = connection.execute(query.encode(), values)
            return cursor.fetchall() if cursor.description else []


class Programmed:
    """A runner that calls a function instead of a script."""

    def __init__(self, run: Callable[[ProcessorJob], Any]) -> None:
        self._run = run

    def check(self, processor: str) -> None:
        """It knows them all."""

    async def run(self, job: ProcessorJob, on_progress: OnProgress) -> Outcome:
        on_progress(Outcome(fraction=0.5, message="half"))
        outcome = self._run(job)
        if asyncio.iscoroutine(outcome):
            outcome = await outcome
        return outcome if isinstance(outcome, Outcome) else Outcome(exit_code=0)


def fail_with(error: Exception) -> None:
    raise error


def write(job: ProcessorJob, **files: str) -> None:
    for name, text in files.items():
        (Path(job.output) / name).write_text(text)


@contextlib.asynccontextmanager
async def world(conninfo: str, root: Path) -> AsyncIterator[World]:
    made = World(conninfo, root)
    try:
        yield made
        assert list(made.jobs.work.iterdir()) == [], "an attempt has left files behind"
    finally:
        await made.services.close()


@asynchronous
async def test_a_file_becomes_results(conninfo: str, tmp_path: Path) -> None:
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, CONTENT, filename="noise.bin")
        await process(here.jobs, upload.id, JOB, "a-request")
        done = await here.services.uploads.get(upload.id)
        assert done.state is State.DONE
        assert done.sha256 == hashlib.sha256(CONTENT).hexdigest()
        assert done.detected_type == "application/octet-stream"
        assert done.progress is None
        results = await here.contents(upload.id)
        assert sorted(results) == ["report.json", "report.txt"]
        assert done.sha256.encode() in results["report.txt"]


@asynchronous
async def test_an_empty_file(conninfo: str, tmp_path: Path) -> None:
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"")
        await process(here.jobs, upload.id, JOB, None)
        assert await here.state(upload.id) is State.DONE


@asynchronous
async def test_the_metadata_names_the_processor(conninfo: str, tmp_path: Path) -> None:
    seen: list[str] = []
    async with world(conninfo, tmp_path) as here:
        jobs = here.with_runner(lambda job: seen.append(job.processor))
        for upload in (
            await make_upload(here.services, b"1"),
            await make_upload(here.services, b"1", processor="mine"),
        ):
            await process(jobs, upload.id, JOB, None)
    assert seen == ["inspect_file", "mine"]


@asynchronous
async def test_a_finished_upload_is_not_processed_again(conninfo: str, tmp_path: Path) -> None:
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        await process(here.jobs, upload.id, JOB, None)
        before = await here.objects()
        await process(here.jobs, upload.id, JOB, None)
        assert await here.objects() == before
        assert here.rows("select count(*) from attempts where upload_id = %s", upload.id) == [(1,)]


@pytest.mark.parametrize("ends_first", ["older", "newer"])
@asynchronous
async def test_a_job_that_runs_twice_publishes_once(conninfo: str, tmp_path: Path, ends_first: str) -> None:
    """The older run is still going when the newer begins; whichever ends first, only the newer's results are seen."""
    begun = {"older": asyncio.Event(), "newer": asyncio.Event()}
    may_end = {"older": asyncio.Event(), "newer": asyncio.Event()}

    async def run(name: str, job: ProcessorJob) -> None:
        begun[name].set()
        await may_end[name].wait()
        write(job, result=name)

    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        runs = {}
        for name in ("older", "newer"):
            jobs = here.with_runner(functools.partial(run, name))
            runs[name] = asyncio.create_task(process(jobs, upload.id, JOB, None))
            await begun[name].wait()
        for name in sorted(runs, key=lambda name: name != ends_first):
            may_end[name].set()
            await runs[name]
        assert await here.state(upload.id) is State.DONE
        assert await here.contents(upload.id) == {"result": b"newer"}
        states = here.rows("select number, state from attempts where upload_id = %s order by number", upload.id)
        assert states == [(1, "superseded"), (2, "done")]


@asynchronous
async def test_random_histories_publish_exactly_once(conninfo: str, tmp_path: Path) -> None:
    """Any number of runs, each stopping anywhere or deciding in any order: at most one is published, and it stays."""
    rng = random.Random(3)  # noqa: S311  # the same bytes in each run
    async with world(conninfo, tmp_path) as here:
        for _ in range(25):
            upload = await make_upload(here.services, b"content")
            attempts: list[Attempt] = []
            published: list[uuid.UUID] = []
            for _ in range(rng.randrange(3, 14)):
                match rng.choice(["begin", "begin", "publish", "publish", "fail", "give_back", "report", "retry"]):
                    case "begin":
                        attempt = await here.attempts.begin(upload.id, rng.randrange(10**6))
                        attempts += [attempt] if attempt else []
                    case "retry":
                        await here.services.uploads.process_again(upload.id)
                    case action if attempts:
                        attempt = rng.choice(attempts)
                        took = await act(here, action, attempt)
                        assert not took or attempt == attempts[-1] or published == [attempt.id]
                        if action == "publish" and took and attempt.id not in published:
                            published.append(attempt.id)
                running = here.rows("select id from attempts where upload_id = %s and state = 'running'", upload.id)
                assert len(running) <= 1
                now = await here.services.uploads.get(upload.id)
                assert (now.state is State.DONE) == bool(published)
                assert len(published) <= 1
                assert (now.attempt_id in published) == bool(published)
                shown = {result.name for result in await here.results.published(now)}
                assert shown == {attempt_id.hex for attempt_id in published}


async def act(here: World, action: str, attempt: Attempt) -> bool:
    match action:
        case "publish":
            return await here.attempts.publish(attempt, sha256="0" * 64, media_type=None, results=[fake(attempt)])
        case "fail":
            return await here.attempts.fail(attempt, "broken")
        case "give_back":
            return await here.attempts.give_back(attempt, "later")
        case _:
            return await here.attempts.report(attempt, 0.5, "half")


def fake(attempt: Attempt) -> Result:
    """A result named after its attempt; no object belongs to it."""
    result_id = uuid.uuid5(attempt.id, "result")
    return Result(
        id=result_id,
        name=attempt.id.hex,
        size=0,
        sha256=hashlib.sha256().hexdigest(),
        content_type="text/plain",
        digests=b"",
        object_name=result_object(attempt.upload.id, attempt.id, result_id),
    )


@asynchronous
async def test_publishing_again_after_an_unknown_commit_gives_the_same_answer(conninfo: str, tmp_path: Path) -> None:
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        attempt = await here.begin(upload.id)
        for _ in range(2):
            assert await here.attempts.publish(attempt, sha256="0" * 64, media_type=None, results=[fake(attempt)])
        assert here.rows("select count(*) from results where upload_id = %s", upload.id) == [(1,)]


@asynchronous
async def test_deleting_an_upload_ends_its_run(conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt_module, "REPORT_SECONDS", 0.05)
    monkeypatch.setattr(attempt_module, "UNCHANGED_SECONDS", 0.05)
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        begun = asyncio.Event()

        async def run(_: ProcessorJob) -> None:
            begun.set()
            await asyncio.Event().wait()

        working = asyncio.create_task(process(here.with_runner(run), upload.id, JOB, None))
        await begun.wait()
        await here.services.uploads.terminate(upload.id)
        await asyncio.wait_for(working, 10)
        assert await here.state(upload.id) is State.TERMINATED


@asynchronous
async def test_progress_is_written_while_it_runs(
    conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_module, "REPORT_SECONDS", 0.05)
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        go_on = asyncio.Event()
        working = asyncio.create_task(process(here.with_runner(lambda _: go_on.wait()), upload.id, JOB, None))

        async def half() -> bool:
            progress = (await here.services.uploads.get(upload.id)).progress or {}
            return progress.get("message") == "half"

        await until(half)
        progress = (await here.services.uploads.get(upload.id)).progress
        assert progress is not None
        assert 0.3 < progress["fraction"] < 0.95
        go_on.set()
        await working


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (Outcome(exit_code=1, error="This is not a WAV file."), "This is not a WAV file."),
        (Outcome(exit_code=1), "failed (exit code 1)"),
        (Outcome(exit_code=-9), "stopped (signal 9), probably because it needed more memory"),
    ],
)
@asynchronous
async def test_a_failure_is_told_and_can_be_retried(conninfo: str, tmp_path: Path, outcome: Outcome, said: str) -> None:
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        await process(here.with_runner(lambda _: outcome), upload.id, JOB, None)
        failed = await here.services.uploads.get(upload.id)
        assert failed.state is State.FAILED
        assert failed.error is not None
        assert said in failed.error
        queued = await here.services.uploads.process_again(upload.id)
        assert queued is not None
        assert queued.state is State.QUEUED
        assert await here.services.uploads.process_again(upload.id) is None
        waiting = here.rows("select count(*) from procrastinate_jobs where args ->> 'upload_id' = %s", upload.id)
        assert waiting == [(2,)]
        await process(here.jobs, upload.id, JOB + 1, None)
        assert await here.state(upload.id) is State.DONE


@asynchronous
async def test_a_retry_is_for_the_worker_that_the_upload_names(conninfo: str, tmp_path: Path) -> None:
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content", worker="two")
        await process(here.with_runner(lambda _: Outcome(exit_code=1)), upload.id, JOB, None)
        assert await here.services.uploads.process_again(upload.id) is not None
        queues = here.rows("select queue_name from procrastinate_jobs where args ->> 'upload_id' = %s", upload.id)
        assert queues == [(queue_for("two"),)] * 2


UNPRINTABLE = r"""import json, os, sys
job = json.load(sys.stdin)
print(r'{"progress": 1%s, "message": "A\u0000\ud800B\nC", "media_type": "a/\u0000b"}' % ("0" * 400), flush=True)
print(r'{"error": "Not\na \u0000\ud800WAV file."}', flush=True)
open(os.fsencode(job["output"]) + b"/\xff\x01", "wb").close()
sys.exit(EXIT)
"""


@pytest.mark.parametrize(("exit_code", "state"), [(0, State.DONE), (1, State.FAILED)])
@asynchronous
async def test_text_of_a_processor_that_the_database_would_refuse_is_cleaned(
    conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exit_code: int, state: State
) -> None:
    monkeypatch.setattr(attempt_module, "REPORT_SECONDS", 0.0)
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "inspect_file.py").write_text(UNPRINTABLE.replace("EXIT", str(exit_code)))
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        await process(replace(here.jobs, runner=SubprocessRunner(scripts)), upload.id, JOB, None)
        ended = await here.services.uploads.get(upload.id)
        assert ended.state is state
        assert ended.error == (None if state is State.DONE else "Not a WAV file.")
        assert set(await here.contents(upload.id)) == ({"__"} if state is State.DONE else set())


def test_a_line_of_progress_becomes_text_of_one_line() -> None:
    outcome = Outcome()
    assert outcome.take(rb'{"message": "A\u0000\ud800B\nC", "media_type": "a/\u0000b", "progress": 1e999}')
    assert (outcome.message, outcome.media_type, outcome.fraction) == ("AB C", "a/b", 1.0)


@asynchronous
async def test_progress_that_cannot_be_written_ends_in_a_verdict(
    conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: object) -> bool:
        raise psycopg.DataError("refused")

    monkeypatch.setattr(attempt_module, "REPORT_SECONDS", 0.05)
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        monkeypatch.setattr(here.attempts, "report", refused)
        jobs = here.with_runner(lambda _: asyncio.Event().wait())
        await asyncio.wait_for(process(jobs, upload.id, JOB, None), 10)
        assert await here.state(upload.id) is State.FAILED


@pytest.mark.parametrize(
    ("error", "raised"), [(ProcessorError("no socket"), NotNow), (ProcessorInterrupted("reboot"), Interrupted)]
)
@asynchronous
async def test_what_the_file_cannot_help_is_tried_again(
    conninfo: str, tmp_path: Path, error: Exception, raised: type[Exception]
) -> None:
    def run(_: ProcessorJob) -> None:
        raise error

    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        with pytest.raises(raised):
            await process(here.with_runner(run), upload.id, JOB, None)
        assert await here.state(upload.id) is State.QUEUED
        await process(here.jobs, upload.id, JOB, None)
        assert await here.state(upload.id) is State.DONE


@pytest.mark.parametrize("name", ["nobody", "no\0body"])
@asynchronous
async def test_a_processor_that_does_not_exist_is_told_soon_and_costs_no_fetching(
    conninfo: str, tmp_path: Path, name: str
) -> None:
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content", processor=name)
        shutil.rmtree(tmp_path / "store" / "uploads")  # would be found missing
        for _ in range(UNKNOWN_TRIES - 1):
            with pytest.raises(NotNow, match="There is no processor"):
                await process(here.jobs, upload.id, JOB, None)
            assert await here.state(upload.id) is State.QUEUED
        await process(here.jobs, upload.id, JOB, None)
        failed = await here.services.uploads.get(upload.id)
        assert failed.state is State.FAILED
        assert failed.error == f"There is no processor {name!r}. Upload the file again with one of these: inspect_file."


@asynchronous
async def test_a_processor_that_only_another_worker_knows_is_waited_for(conninfo: str, tmp_path: Path) -> None:
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content", processor="new")
        with pytest.raises(NotNow):
            await process(here.jobs, upload.id, JOB, None)
        await process(here.with_runner(lambda job: write(job, result=job.processor)), upload.id, JOB, None)
        assert await here.contents(upload.id) == {"result": b"new"}


@asynchronous
async def test_a_worker_without_any_processors_fails_no_upload(conninfo: str, tmp_path: Path) -> None:
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        jobs = replace(here.jobs, runner=SubprocessRunner(tmp_path / "nothing"))
        for _ in range(UNKNOWN_TRIES + 1):
            with pytest.raises(NotNow, match="there are no processors"):
                await process(jobs, upload.id, JOB, None)
        assert await here.state(upload.id) is State.QUEUED


@asynchronous
async def test_a_job_that_takes_its_worker_down_each_time_ends_as_a_failure(conninfo: str, tmp_path: Path) -> None:
    def run(_: ProcessorJob) -> None:
        raise ProcessorInterrupted("killed")

    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        for _ in range(INTERRUPTIONS):
            with pytest.raises(Interrupted):
                await process(here.with_runner(run), upload.id, JOB, None)
        await process(here.with_runner(run), upload.id, JOB, None)
        assert await here.state(upload.id) is State.FAILED
        # Asked for by a person it gets another chance.
        await here.services.uploads.process_again(upload.id)
        await process(here.jobs, upload.id, JOB + 1, None)
        assert await here.state(upload.id) is State.DONE


@asynchronous
async def test_waiting_for_a_store_does_not_count_against_the_job(conninfo: str, tmp_path: Path) -> None:
    def run(_: ProcessorJob) -> None:
        raise ProcessorError("no socket")

    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        for _ in range(INTERRUPTIONS + 2):
            with pytest.raises(NotNow):
                await process(here.with_runner(run), upload.id, JOB, None)
        assert await here.state(upload.id) is State.QUEUED


@pytest.mark.parametrize(
    ("lost", "run"),
    [
        ("begin", None),
        ("publish", None),
        ("fail", lambda _: Outcome(exit_code=1)),
        ("fail", lambda _: 1 / 0),
        ("give_back", lambda _: fail_with(ProcessorError("no socket"))),
    ],
    ids=["begin", "publish", "fail", "fail after a mistake", "give back"],
)
@asynchronous
async def test_a_job_that_cannot_record_its_verdict_runs_again(
    conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str, run: Callable[[ProcessorJob], Any] | None
) -> None:
    """The database stays away for longer than the worker's patience, then comes back."""

    async def away(*_: object, **__: object) -> None:
        raise DatabaseUnavailable("gone for ten minutes")

    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        jobs = here.with_runner(run or (lambda _: None))
        with monkeypatch.context() as patch:
            patch.setattr(here.attempts, lost, away)
            with pytest.raises(NotNow):
                await process(jobs, upload.id, JOB, None)
        await process(here.jobs, upload.id, JOB, None)
        assert await here.state(upload.id) is State.DONE


async def stop_in_the_middle(here: World, upload_id: str) -> None:
    """Process an upload until its processor runs, then cancel that, as a worker that stops does."""
    begun = asyncio.Event()

    async def run(_: ProcessorJob) -> None:
        begun.set()
        await asyncio.Event().wait()

    working = asyncio.create_task(process(here.with_runner(run), upload_id, JOB, None))
    await begun.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working


@asynchronous
async def test_a_worker_that_stops_without_a_database_still_stops(
    conninfo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise DatabaseUnavailable("gone")

    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        monkeypatch.setattr(here.attempts, "give_back", away)
        await stop_in_the_middle(here, upload.id)


@asynchronous
async def test_a_worker_that_stops_hands_its_upload_back(conninfo: str, tmp_path: Path) -> None:
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        await stop_in_the_middle(here, upload.id)
        assert await here.state(upload.id) is State.QUEUED


@asynchronous
async def test_a_damaged_piece_is_never_processed(conninfo: str, tmp_path: Path) -> None:
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, CONTENT)
        [piece] = [path for path in (tmp_path / "store").rglob("*-0000000001048576-*") if path.is_file()]
        damaged = bytearray(piece.read_bytes())
        damaged[1000] ^= 1
        piece.write_bytes(damaged)
        ran: list[ProcessorJob] = []
        await process(here.with_runner(ran.append), upload.id, JOB, None)
        failed = await here.services.uploads.get(upload.id)
        assert failed.state is State.FAILED
        assert "damaged" in (failed.error or "")
        assert ran == []


@asynchronous
async def test_a_missing_piece_is_a_failure(conninfo: str, tmp_path: Path) -> None:
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        shutil.rmtree(tmp_path / "store" / "uploads")
        await process(here.jobs, upload.id, JOB, None)
        assert await here.state(upload.id) is State.FAILED


@asynchronous
async def test_only_plain_files_are_published(conninfo: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("only for the worker")

    def run(job: ProcessorJob) -> None:
        write(job, good="yes")
        output = Path(job.output)
        (output / "link").symlink_to(secret)
        (output / "folder").mkdir()
        (output / ".hidden").write_text("no")
        os.mkfifo(output / "pipe")

    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        await asyncio.wait_for(process(here.with_runner(run), upload.id, JOB, None), 20)
        assert await here.contents(upload.id) == {"good": b"yes"}


@asynchronous
async def test_too_many_results_are_a_failure(conninfo: str, tmp_path: Path) -> None:
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        many = {f"r{number}": "" for number in range(101)}
        await process(here.with_runner(lambda job: write(job, **many)), upload.id, JOB, None)
        failed = await here.services.uploads.get(upload.id)
        assert "101 results" in (failed.error or "")


@asynchronous
async def test_a_mistake_of_the_program_is_told(conninfo: str, tmp_path: Path) -> None:
    def run(_: ProcessorJob) -> None:
        raise ZeroDivisionError

    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        await process(here.with_runner(run), upload.id, JOB, None)
        assert await here.state(upload.id) is State.FAILED


@asynchronous
async def test_the_directories_of_a_job_are_for_worker_and_processor_only(conninfo: str, tmp_path: Path) -> None:
    modes: dict[str, int] = {}
    umask = os.umask(0o007)  # the worker's own

    def run(job: ProcessorJob) -> None:
        for path in (Path(job.input).parent, Path(job.input), Path(job.output), Path(job.scratch)):
            modes[path.name if path.name in ("input", "output", "scratch") else "job"] = path.stat().st_mode & 0o7777

    async with world(conninfo, tmp_path) as here:
        here.jobs.work.chmod(0o2770)
        upload = await make_upload(here.services, b"content")
        await process(here.with_runner(run), upload.id, JOB, None)
    os.umask(umask)
    assert modes == {"job": 0o2750, "input": 0o640, "output": 0o2770, "scratch": 0o2770}


@asynchronous
async def test_upkeep_removes_what_nobody_can_see(conninfo: str, tmp_path: Path) -> None:
    async with world(conninfo, tmp_path) as here:
        kept = await make_upload(here.services, b"content")
        await process(here.with_runner(lambda job: write(job, result="kept")), kept.id, JOB, None)
        visible = await here.objects()
        # A run that is superseded after it has stored its results, and one that is still going.
        upload = await make_upload(here.services, b"content")
        old = await here.begin(upload.id)
        stale = fake(old).object_name
        current = fake(await here.begin(upload.id)).object_name
        unknown = result_object("nobody", uuid.uuid4(), uuid.uuid4())
        for name in (stale, current, unknown):
            sink = here.services.store.sink(name)
            await sink.write(b"x")
            await sink.close()
        deleted = await sweep_results(here.services.database, here.attempts, here.services.store, keep_days=30)
        assert deleted == 1
        assert await here.objects() == visible | {current, unknown}


@pytest.mark.parametrize("notices", ["when it publishes", "never"])
@asynchronous
async def test_results_of_a_run_whose_upload_was_deleted_meanwhile_are_removed(
    conninfo: str, tmp_path: Path, notices: str
) -> None:
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        stored = asyncio.Event()
        may_publish = asyncio.Event()

        class Paused(Attempts):
            async def publish(self, *arguments: Any, **named: Any) -> bool:
                stored.set()
                await may_publish.wait()
                return await super().publish(*arguments, **named)

        attempts = Paused(here.services.database, worker="test", patience=1.0)
        jobs = replace(here.with_runner(lambda job: write(job, result="unwanted")), attempts=attempts)
        working = asyncio.create_task(process(jobs, upload.id, JOB, None))
        await stored.wait()
        assert len(await here.objects()) == 1
        await here.services.uploads.terminate(upload.id)
        if notices == "never":
            working.cancel()
            await asyncio.wait({working})
        else:
            may_publish.set()
            await working
        assert await sweep_results(here.services.database, here.attempts, here.services.store, keep_days=30) == 1
        assert await here.objects() == set()
        assert here.rows("select state from attempts where upload_id = %s", upload.id) == [("superseded",)]


@asynchronous
async def test_results_of_deleted_uploads_outlive_the_backups_then_go(conninfo: str, tmp_path: Path) -> None:
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, b"content")
        await process(here.with_runner(lambda job: write(job, result="kept")), upload.id, JOB, None)
        await here.services.uploads.terminate(upload.id)
        arguments = (here.services.database, here.attempts, here.services.store)
        assert await sweep_results(*arguments, keep_days=1) == 0
        here.rows("update uploads set finished_at = now() - interval '2 days' where id = %s", upload.id)
        assert await sweep_results(*arguments, keep_days=1) == 1
        assert await here.objects() == set()
        assert here.rows("select count(*) from results where upload_id = %s", upload.id) == [(0,)]
