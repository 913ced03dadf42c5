"""One attempt: fetch and verify the file, run the processor, store the results, publish them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import mimetypes
import os
import shutil
import stat
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path

import linetrace
from longhaul import logs
from longhaul.database import DatabaseUnavailable
from longhaul.processing.records import Attempt, Attempts
from longhaul.processing.runner import Runner
from longhaul.processing.script import (
    Outcome,
    ProcessorError,
    ProcessorInterrupted,
    ProcessorJob,
    UnknownProcessor,
    printable,
)
from longhaul.stores.content import hashing, store_file
from longhaul.stores.interface import Corrupt, ObjectMissing, Store, StoreError
from longhaul.uploads.decisions import Uploads
from longhaul.uploads.model import MISMATCH, Mismatch, Upload
from longhaul.uploads.pieces import read_content
from longhaul.uploads.results import Result, result_object

log = logs.get(__name__)

DEFAULT_PROCESSOR = "inspect_file"
"""Runs if the metadata of an upload does not name a `processor`."""
UNKNOWN_TRIES = 8
"""At this attempt an unknown processor becomes a failure. So many attempts take ten minutes: while processors are
shipped or a release is deployed, another worker may know the processor."""
REPORT_SECONDS = 1.0
"""Shortest time between two reports of progress to the database."""
UNCHANGED_SECONDS = 5.0
"""Time between two reports if there is no progress."""
RESULTS = 100
"""Most results of one run."""
# Shares of the progress bar for fetching the file and for storing the results.
FETCHING, STORING = 0.3, 0.05


class NotNow(Exception):
    """The file is not the reason (an unreachable store, a full disk): run the job again later."""


class Interrupted(NotNow):
    """The run was ended from outside. These are counted: the job itself may bring its host down."""


class Unwanted(Exception):
    """Another attempt has begun, or the upload was deleted: this attempt must stop."""


class Failed(Exception):
    """The processing failed for good. The text is for the user. `sha256` is that of the content if it is the reason."""

    def __init__(self, text: str, sha256: str | None = None) -> None:
        super().__init__(text)
        self.sha256 = sha256


@dataclass(frozen=True, slots=True)
class JobDirectory:
    """The directory of one attempt's files on this host."""

    path: Path

    @property
    def input(self) -> Path:
        """The uploaded file."""
        return self.path / "input"

    @property
    def output(self) -> Path:
        """Where the processor writes results."""
        return self.path / "output"

    @property
    def scratch(self) -> Path:
        """Where the processor writes temporary files."""
        return self.path / "scratch"

    @classmethod
    def make(cls, work: Path, attempt_id: uuid.UUID) -> JobDirectory:
        """Create it for the group of `work`: the processor runs as another user of that group."""
        directory = cls(work / attempt_id.hex)
        directory.path.mkdir(mode=0o750)
        directory.output.mkdir(mode=0o770)
        directory.scratch.mkdir(mode=0o770)
        return directory

    def remove(self) -> None:
        """Remove it with all its files. What cannot be removed is logged and left."""
        shutil.rmtree(self.path, onexc=_log_leftover)


def _log_leftover(_function: object, path: str, error: BaseException) -> None:
    log.error("could not remove a job's file", extra={"path": path, "error": str(error)})


@dataclass(frozen=True, slots=True, kw_only=True)
class JobServices:
    """What an attempt needs of its worker."""

    uploads: Uploads
    attempts: Attempts
    store: Store
    runner: Runner
    work: Path


async def process(services: JobServices, upload_id: str, job_id: int, request_id: str | None) -> None:
    """Make one attempt for a job of the queue, up to a verdict: done or failed.

    Raises NotNow if there is no verdict and the job should run again. If cancelled, it queues the upload again first.
    """
    try:
        await _process(services, upload_id, job_id, request_id)
    except DatabaseUnavailable as error:
        # Nothing can be recorded now. The next attempt supersedes this one.
        raise NotNow(str(error)) from error


async def _process(services: JobServices, upload_id: str, job_id: int, request_id: str | None) -> None:
    """See `process`. Also raises DatabaseUnavailable, if the database stays away."""
    attempt = await services.attempts.begin(upload_id, job_id)
    if attempt is None:
        log.info("nothing to process: the upload is finished, deleted, or was interrupted too often")
        return
    with logs.bound(attempt_id=attempt.id.hex):
        linetrace.add(user=attempt.upload.owner)
        log.info("attempt begins", extra={"number": attempt.number, "size": attempt.upload.size})
        try:
            await _attempt(services, attempt, job_id, request_id)
        except Unwanted:
            log.info("attempt superseded")
        except Failed as failure:
            log.warning("processing failed", extra={"error": str(failure)})
            await services.attempts.fail(attempt, str(failure), sha256=failure.sha256)
        except asyncio.CancelledError:
            log.info("attempt given back: the worker stops")
            with contextlib.suppress(DatabaseUnavailable):
                await services.attempts.give_back(attempt, None)
            raise
        except NotNow as reason:
            log.warning("attempt put off", extra={"error": str(reason)})
            await services.attempts.give_back(attempt, None if isinstance(reason, Interrupted) else str(reason))
            raise
        except DatabaseUnavailable:
            raise
        except Exception:
            log.exception("an error in this program ended the attempt")
            await services.attempts.fail(attempt, "The processing failed because of an error in this site's program.")


async def _attempt(services: JobServices, attempt: Attempt, job_id: int, request_id: str | None) -> None:
    processor = metadata_text(attempt.upload, "processor") or DEFAULT_PROCESSOR
    _check_processor(services.runner, attempt, processor)
    try:
        directory = JobDirectory.make(services.work, attempt.id)
    except OSError as error:
        raise NotNow(f"{services.work}: {error.strerror}") from error
    progress = _Progress(services.attempts, attempt)
    job = ProcessorJob(
        upload_id=attempt.upload.id,
        job_id=job_id,
        request_id=request_id,
        processor=processor,
        input=str(directory.input),
        output=str(directory.output),
        scratch=str(directory.scratch),
        filename=attempt.upload.filename,
    )

    async def work() -> tuple[str, Outcome, list[Result]]:
        sha256 = await _fetch(services, attempt.upload, directory, progress)
        outcome = await _run(services.runner, job, progress)
        return sha256, outcome, await _store_results(services.store, attempt, directory, progress)

    try:
        sha256, outcome, results = await _while_wanted(progress, work())
        try:
            published = await services.attempts.publish(
                attempt,
                sha256=sha256,
                media_type=outcome.media_type,
                results=results,
                processors=outcome.processors,
            )
        except Mismatch as error:
            raise Failed(str(error), sha256) from error
        if not published:
            # Upkeep deletes its objects, once it is certain that nothing refers to them.
            raise Unwanted
        log.info("results published", extra={"sha256": sha256, "results": [result.name for result in results]})
    finally:
        await asyncio.to_thread(directory.remove)


def _check_processor(runner: Runner, attempt: Attempt, processor: str) -> None:
    """Check that the processor exists before the whole file is fetched. Raises Failed, NotNow."""
    try:
        runner.check(processor)
    except UnknownProcessor as error:
        raise (NotNow if attempt.number < UNKNOWN_TRIES else Failed)(str(error)) from error
    except ProcessorError as error:
        raise NotNow(str(error)) from error


async def _fetch(services: JobServices, upload: Upload, directory: JobDirectory, progress: _Progress) -> str:
    """Write the verified content to `input`. Returns its SHA-256 in hexadecimal."""
    loop = asyncio.get_running_loop()
    digest = hashlib.sha256()
    done = 0
    pieces = await services.uploads.pieces(upload.id)
    try:
        with directory.input.open("wb") as file:
            if upload.size:
                # Reserves the space at once, so that a disk shared by several jobs does not become full half-way.
                os.posix_fallocate(file.fileno(), 0, upload.size)
            async for block in read_content(services.store, pieces):
                await loop.run_in_executor(hashing, digest.update, block)
                await loop.run_in_executor(hashing, file.write, block)
                done += len(block)
                progress.show(FETCHING * done / upload.size, "Fetching the file")
            directory.input.chmod(0o640)
    except (Corrupt, ObjectMissing) as error:
        log.error("stored content is damaged", extra={"error": str(error)})
        raise Failed("The stored copy of this file is damaged. Upload the file again.") from error
    except StoreError as error:
        raise NotNow(f"store: {error}") from error
    except OSError as error:
        raise NotNow(f"{directory.input}: {error.strerror}") from error
    if done != upload.size:
        raise Failed(f"Only {done} of {upload.size} bytes of this file are stored. Upload the file again.")
    sha256 = digest.hexdigest()
    if upload.expected_sha256 not in (None, sha256):
        # Found here before the processor runs. If the sender says its SHA-256 later, publishing finds it.
        log.warning(
            "what arrived is not what was sent", extra={"sha256": sha256, "expected_sha256": upload.expected_sha256}
        )
        raise Failed(MISMATCH, sha256)
    log.info("file fetched and verified", extra={"sha256": sha256})
    return sha256


async def _run(runner: Runner, job: ProcessorJob, progress: _Progress) -> Outcome:
    """Run the processor. Raises Failed, NotNow."""

    def show(outcome: Outcome) -> None:
        progress.show(FETCHING + (1 - FETCHING - STORING) * outcome.fraction, outcome.message)

    try:
        outcome = await runner.run(job, show)
    except ProcessorInterrupted as error:
        raise Interrupted(str(error)) from error
    except ProcessorError as error:
        raise NotNow(str(error)) from error
    log.info("processor ended", extra={"processor": job.processor, "exit_code": outcome.exit_code})
    if outcome.exit_code != 0:
        raise Failed(failure_text(job.processor, outcome))
    return outcome


def failure_text(processor: str, outcome: Outcome) -> str:
    """What the user reads of a run that failed."""
    if outcome.error:
        return outcome.error
    if outcome.exit_code is not None and outcome.exit_code < 0:
        return (
            f"The program {processor} was stopped (signal {-outcome.exit_code}), probably because it needed more memory"
            " than is allowed."
        )
    return f"The program {processor} failed (exit code {outcome.exit_code}) without a message; its log has the reason."


async def _store_results(store: Store, attempt: Attempt, directory: JobDirectory, progress: _Progress) -> list[Result]:
    paths = sorted(path for path in directory.output.iterdir() if not path.name.startswith("."))
    if len(paths) > RESULTS:
        raise Failed(f"The program made {len(paths)} results; at most {RESULTS} are kept.")
    results: list[Result] = []
    for number, path in enumerate(paths):
        progress.show(1 - STORING + STORING * number / len(paths), f"Storing {path.name}")
        try:
            result = await _store_result(store, attempt, path)
        except StoreError as error:
            raise NotNow(f"store: {error}") from error
        except OSError as error:
            log.warning("result left out", extra={"path": str(path), "error": error.strerror})
        else:
            results.append(result)
    return results


async def _store_result(store: Store, attempt: Attempt, path: Path) -> Result:
    """Store one result. Raises OSError if it is not a plain file."""
    # Opened once and read through that descriptor: a link, or a file that is replaced by one, must not make the worker
    # publish a file that only the worker may read.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "not a plain file", str(path))
        result_id = uuid.uuid4()
        name = result_object(attempt.upload.id, attempt.id, result_id)
        stored = await store_file(store, name, Path(f"/proc/self/fd/{descriptor}"))
    finally:
        os.close(descriptor)
    return Result(
        id=result_id,
        name="".join(char if char.isprintable() and char not in "/\\" else "_" for char in path.name),
        size=stored.size,
        sha256=stored.sha256,
        content_type=mimetypes.guess_type(path.name)[0] or "application/octet-stream",
        digests=stored.digests,
        object_name=name,
    )


def metadata_text(upload: Upload, name: str) -> str | None:
    """A value of the upload's metadata (base64 of UTF-8, as clients send it), or None."""
    with contextlib.suppress(binascii.Error, UnicodeDecodeError):
        return base64.b64decode(upload.metadata.get(name, ""), validate=True).decode() or None
    return None


class _Progress:
    """The newest progress of an attempt, and its reports to the database."""

    def __init__(self, attempts: Attempts, attempt: Attempt) -> None:
        self._attempts = attempts
        self._attempt = attempt
        self._shown = (0.0, "")

    def show(self, fraction: float, message: str) -> None:
        self._shown = (fraction, printable(message))

    async def keep_reporting(self) -> None:
        """Report progress for as long as the attempt is wanted. Returns when it no longer is."""
        written, written_at = self._shown, 0.0
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            # A report without news tells whether the attempt is still wanted.
            if self._shown == written and clock() - written_at < UNCHANGED_SECONDS:
                continue
            written, written_at = self._shown, clock()
            try:
                if not await self._attempts.report(self._attempt, *written):
                    return
            except DatabaseUnavailable as error:
                log.debug("progress not written", extra={"error": str(error)})


async def _while_wanted[T](progress: _Progress, work: Coroutine[None, None, T]) -> T:
    """Run `work` and return what it returns, reporting its progress. Cancel it if the attempt is no longer wanted.

    Raises Unwanted then, or the error that ended the reporting.
    """
    running = asyncio.create_task(work)
    reporting = asyncio.create_task(progress.keep_reporting())
    try:
        await asyncio.wait({running, reporting}, return_when=asyncio.FIRST_COMPLETED)
        wanted = running.done()
    finally:
        for task in (running, reporting):
            task.cancel()
        await asyncio.wait({running, reporting})
    if not wanted:
        reporting.result()
        raise Unwanted
    return running.result()
