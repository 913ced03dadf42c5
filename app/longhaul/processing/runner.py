"""Two ways in which a worker runs a processor: as its own child, or in a sandboxed unit behind a socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from linetrace import child
from longhaul import logs
from longhaul.processing import traced
from longhaul.processing.script import (
    LINE_BYTES,
    OnProgress,
    Outcome,
    ProcessorError,
    ProcessorInterrupted,
    ProcessorJob,
    find_script,
    run_script,
    scripts_in_use,
    version_of,
)
from longhaul.processing.traced import ScriptTrace
from longhaul.settings import Settings, SettingsError

log = logs.get(__name__)


class Runner(Protocol):
    """Runs processors."""

    def check(self, processor: str) -> None:
        """Raise what `find_script` raises if there is no such processor. Needs no file."""

    async def run(self, job: ProcessorJob, on_progress: OnProgress) -> Outcome:
        """Run to the end; `on_progress` is called for each line of progress. Cancelling ends the run.

        Raises ProcessorError if the run was not possible. That says nothing about the file.
        """


class SubprocessRunner:
    """Runs a script as a child of this process, with the rights of this process: for developers' machines."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def check(self, processor: str) -> None:
        """See Runner."""
        find_script(scripts_in_use(self._directory), processor)

    async def run(self, job: ProcessorJob, on_progress: OnProgress) -> Outcome:
        """See Runner."""
        scripts = scripts_in_use(self._directory)
        outcome = Outcome(processors=version_of(scripts))

        def take(line: bytes) -> None:
            if outcome.take(line):
                on_progress(outcome)
            else:
                log.warning("not a line of progress: %s", line.decode(errors="replace"))

        async def take_traced(line: bytes) -> None:
            child.take(line)

        script = find_script(scripts, job.processor)
        if (how := traced.wanted()) is None:
            outcome.exit_code = await run_script(script, job, take)
            return outcome
        trace = ScriptTrace(how, take_traced)

        async def disarm() -> None:
            await traced.while_wanted()
            trace.over.set()

        with traced.beside(disarm()):
            outcome.exit_code = await run_script(script, job, take, trace)
        return outcome


class SocketRunner:
    """Asks the unit behind a Unix socket: one line with the job, then lines of progress, then the verdict.

    If the job is traced, the lines of the script's trace come too. UNTRACE tells the unit that they are not wanted any
    more.
    """

    def __init__(self, path: str, directory: Path) -> None:
        """`directory` holds the scripts that the unit runs."""
        self._path = path
        self._directory = directory

    def check(self, processor: str) -> None:
        """See Runner."""
        find_script(scripts_in_use(self._directory), processor)

    async def run(self, job: ProcessorJob, on_progress: OnProgress) -> Outcome:
        """See Runner. If this side closes the connection, systemd ends the run and all its processes."""
        try:
            reader, writer = await asyncio.open_unix_connection(self._path, limit=2 * LINE_BYTES)
        except OSError as error:
            raise ProcessorError(f"{self._path}: {error}; is longhaul-processor.socket active?") from error
        outcome = Outcome()
        how = traced.wanted()
        lines = child.OtherLines(reader, TRACED)

        async def disarm() -> None:
            await traced.while_wanted()
            # A unit of an older release sends no traced lines, and would take UNTRACE for the end of the connection.
            while not lines.taken:
                await asyncio.sleep(traced.LOOK_SECONDS)
            writer.write(UNTRACE)

        try:
            writer.write(replace(job, how_traced=how).line())
            await writer.drain()
            with traced.beside(disarm()) if how is not None else contextlib.nullcontext():
                while line := await lines.next():
                    if line.startswith(_VERDICT):
                        return _verdict(line, outcome)
                    if outcome.take(line):
                        on_progress(outcome)
        except (OSError, ValueError) as error:
            raise ProcessorInterrupted(f"{self._path}: {error}") from error
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        raise ProcessorInterrupted("the unit ended without a verdict")


# No line of a script begins like these: the unit passes on JSON objects only.
_VERDICT = b"="
TRACED = b"~"
UNTRACE = b"untrace\n"


def verdict_line(exit_code: int | None, error: ProcessorError | None = None, *, processors: str = "") -> bytes:
    """The last line of a run behind the socket: its exit code and the version of its scripts, or why there is none."""
    verdict = {
        "exit_code": exit_code,
        "processors": processors,
        "error": None if error is None else str(error),
        "interrupted": isinstance(error, ProcessorInterrupted),
    }
    return _VERDICT + json.dumps(verdict).encode() + b"\n"


def _verdict(line: bytes, outcome: Outcome) -> Outcome:
    verdict = json.loads(line.removeprefix(_VERDICT))
    if verdict["exit_code"] is None:
        kind = ProcessorInterrupted if verdict["interrupted"] else ProcessorError
        raise kind(verdict["error"])
    outcome.exit_code = verdict["exit_code"]
    # A unit of an older release does not send it.
    outcome.processors = verdict.get("processors", "")
    return outcome


def from_settings(settings: Settings) -> Runner:
    """The runner that the settings ask for. Raises SettingsError."""
    if not settings.processors:
        raise SettingsError("set LONGHAUL_PROCESSORS to the directory of the scripts")
    scripts = Path(settings.processors)
    return SocketRunner(settings.processor_socket, scripts) if settings.processor_socket else SubprocessRunner(scripts)
