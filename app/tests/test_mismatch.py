"""What the sender says that the whole file is, and what becomes of an upload that is something else."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import psycopg
import pytest

from longhaul.processing.attempt import process
from longhaul.processing.records import Attempts
from longhaul.processing.script import ProcessorJob
from longhaul.processing.sweep import sweep_results
from longhaul.uploads.model import MISMATCH, Gone, Mismatch, NotFound, State, sha256_from
from tests.conftest import NewDatabase
from tests.support import asynchronous, make_upload
from tests.test_processing import JOB, World, world, write

CONTENT = b"what was sent"
RIGHT = hashlib.sha256(CONTENT).hexdigest()
WRONG = hashlib.sha256(b"something else").hexdigest()


@pytest.fixture(scope="module")
def conninfo(new_database: NewDatabase) -> str:
    return new_database()


async def check_mismatched(here: World, upload_id: str) -> None:
    """The upload has failed for good, says why, and nothing of it is to be had."""
    upload = await here.services.uploads.get(upload_id)
    assert (upload.state, upload.error, upload.sha256, upload.expected_sha256) == (
        State.FAILED,
        MISMATCH,
        RIGHT,
        WRONG,
    )
    assert upload.is_mismatched
    assert not upload.has_content
    assert await here.results.published(upload) == []
    assert await here.services.uploads.process_again(upload_id) is None, "it would only fail once more"
    states = here.rows("select distinct state from attempts where upload_id = %s", upload_id)
    assert states == [("failed",)]


@asynchronous
async def test_what_agrees_is_done(conninfo: str, tmp_path: Path) -> None:
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, CONTENT)
        # Said twice, as after an answer that was lost.
        for _ in range(2):
            assert (await here.services.uploads.expect(upload.id, upload.key, RIGHT)).expected_sha256 == RIGHT
        await process(here.jobs, upload.id, JOB, None)
        assert await here.state(upload.id) is State.DONE
        await here.services.uploads.expect(upload.id, upload.key, RIGHT)
        assert await here.state(upload.id) is State.DONE


@asynchronous
async def test_said_before_it_is_processed(conninfo: str, tmp_path: Path) -> None:
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, CONTENT)
        await here.services.uploads.expect(upload.id, upload.key, WRONG)

        def run(_: ProcessorJob) -> None:
            pytest.fail("the processor was given what was not sent")

        await process(here.with_runner(run), upload.id, JOB, None)
        await check_mismatched(here, upload.id)


@asynchronous
async def test_said_while_it_is_processed(conninfo: str, tmp_path: Path) -> None:
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, CONTENT)

        async def run(job: ProcessorJob) -> None:
            write(job, result="made of something else")
            await here.services.uploads.expect(upload.id, upload.key, WRONG)

        await process(here.with_runner(run), upload.id, JOB, None)
        await check_mismatched(here, upload.id)


@asynchronous
async def test_said_after_it_was_done(conninfo: str, tmp_path: Path) -> None:
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, CONTENT)
        await process(here.with_runner(lambda job: write(job, result="text")), upload.id, JOB, None)
        assert await here.contents(upload.id) == {"result": b"text"}
        for _ in range(2):
            with pytest.raises(Mismatch, match="not the file that was sent"):
                await here.services.uploads.expect(upload.id, upload.key, WRONG)
            await check_mismatched(here, upload.id)
        # Nothing is left of the results that were withdrawn.
        assert await sweep_results(here.services.database, here.attempts, here.services.store, keep_days=30) == 1


@asynchronous
async def test_it_is_said_once(conninfo: str, tmp_path: Path) -> None:
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, CONTENT)
        await here.services.uploads.expect(upload.id, upload.key, RIGHT)
        with pytest.raises(Mismatch, match="create a new upload for it"):
            await here.services.uploads.expect(upload.id, upload.key, WRONG)
        await process(here.jobs, upload.id, JOB, None)
        assert await here.state(upload.id) is State.DONE


@asynchronous
async def test_whoever_has_no_key_says_nothing(conninfo: str, tmp_path: Path) -> None:
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, CONTENT)
        with pytest.raises(NotFound):
            await here.services.uploads.expect(upload.id, "guessed", WRONG)
        await here.services.uploads.terminate(upload.id)
        with pytest.raises(Gone):
            await here.services.uploads.expect(upload.id, upload.key, RIGHT)


@asynchronous
async def test_a_worker_of_a_release_that_does_not_compare_cannot_publish(conninfo: str, tmp_path: Path) -> None:
    async with world(conninfo, tmp_path) as here:
        upload = await make_upload(here.services, CONTENT)
        await here.services.uploads.expect(upload.id, upload.key, WRONG)
        with pytest.raises(psycopg.errors.CheckViolation):
            here.rows("update uploads set state = 'done', sha256 = %s where id = %s", RIGHT, upload.id)


@pytest.mark.parametrize("order", range(20))
def test_whoever_comes_first_nothing_else_is_published(conninfo: str, tmp_path: Path, order: int) -> None:
    """A worker publishes and the page says what it sent at the same moment."""

    async def run() -> None:
        async with world(conninfo, tmp_path) as here:
            upload = await make_upload(here.services, CONTENT)
            attempt = await here.begin(upload.id)
            attempts = Attempts(here.services.database, worker="test", patience=1.0)
            acts = [
                attempts.publish(attempt, sha256=RIGHT, media_type=None, results=[]),
                here.services.uploads.expect(upload.id, upload.key, WRONG),
            ]
            if order % 2:
                acts.reverse()
            answers = await asyncio.gather(*acts, return_exceptions=True)
            assert any(isinstance(answer, Mismatch) for answer in answers), answers
            assert await here.state(upload.id) is not State.DONE

    asyncio.run(run())


@pytest.mark.parametrize("text", ["", "abc", "g" * 64, "0" * 63, "0" * 65])
def test_what_is_no_sha256(text: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        sha256_from(text)


def test_a_sha256_in_capitals() -> None:
    assert sha256_from(f" {RIGHT.upper()}\n") == RIGHT
