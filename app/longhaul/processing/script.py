"""A processor's script as a child process, and the lines in which it reports progress.

The contract between application and scripts is described for their authors in `app/processors/README.md`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

from longhaul import logs
from longhaul.processing import traced

log = logs.get(__name__)

LINE_BYTES = 64 * 1024
"""Longest line of progress. A longer line ends the run."""
LEFTOVER_SECONDS = 5.0
"""How long a process that left the script's group may hold the output of an ended script open."""
LONGEST_NAME = 64
_NAME = re.compile(rf"[a-z][a-z0-9_]{{0,{LONGEST_NAME - 1}}}")


class ProcessorError(Exception):
    """The processor cannot be run here and now. That says nothing about the file. The text is for operators."""


class UnknownProcessor(ProcessorError):
    """There are scripts, but none of this name. The text is for users too."""


class ProcessorInterrupted(ProcessorError):
    """The run was ended from outside, for example because its host goes down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorJob:
    """What a script is given. `input` is a file, `output` and `scratch` are directories."""

    upload_id: str
    job_id: int
    request_id: str | None
    processor: str
    input: str
    output: str
    scratch: str
    filename: str
    how_traced: dict[str, Any] | None = None
    """How the script is to be traced, from `linetrace.child.wanted`; the script itself is not told."""

    def line(self) -> bytes:
        """The job as one line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    def for_script(self) -> bytes:
        """The job as the script is given it."""
        values = asdict(self)
        del values["how_traced"]
        return json.dumps(values).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> ProcessorJob:
        """The job of a line. Raises ProcessorError.

        Keys that this release does not know are left out: the worker may be of an older or a newer release.
        """
        try:
            values = json.loads(line)
            return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})
        except (ValueError, TypeError) as error:
            raise ProcessorError(f"not a job: {error}") from error


@dataclass(slots=True)
class Outcome:
    """What a run has reported so far and, at its end, its exit code (below 0: the signal that killed it).

    `processors` is the version of the scripts that ran.
    """

    fraction: float = 0.0
    message: str = ""
    media_type: str | None = None
    error: str | None = None
    exit_code: int | None = None
    processors: str = ""

    def take(self, line: bytes) -> bool:
        """Note a line of progress; False if it is not one."""
        try:
            values = json.loads(line)
        except ValueError:
            return False
        if not isinstance(values, dict):
            return False
        if isinstance(fraction := values.get("progress"), int | float):
            # Compared before it is converted: float() fails for a whole number of 400 digits.
            self.fraction = float(min(1, max(0, fraction)))
        if isinstance(message := values.get("message"), str):
            self.message = printable(message)[:200]
        if isinstance(media_type := values.get("media_type"), str):
            self.media_type = printable(media_type)[:200]
        if isinstance(error := values.get("error"), str):
            self.error = printable(error)[:2000]
        return True


def printable(text: str) -> str:
    """The text in one line, without control characters and lone surrogates, which the database refuses."""
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())


type OnProgress = Callable[[Outcome], None]


SHIPPED = "shipped"


def scripts_in_use(directory: Path) -> Path:
    """The folder of the scripts to run: `directory`, the release's own, unless others were shipped to that release (a
    link `shipped` beside it). All links are resolved, so a run keeps its version if others are shipped meanwhile.
    """
    shipped = directory.resolve().parent / SHIPPED
    return (shipped if shipped.is_dir() else directory).resolve()


def version_of(scripts: Path) -> str:
    """The version of a folder of scripts: the name of the folder above it."""
    return scripts.parent.name


def find_script(scripts: Path, name: str) -> Path:
    """The script of a processor. Raises UnknownProcessor naming those that exist, ProcessorError if none does."""
    script = scripts / f"{name}.py"
    if _NAME.fullmatch(name) and script.is_file():
        return script
    there = ", ".join(sorted(path.stem for path in scripts.glob("*.py")))
    if not there:
        raise ProcessorError(f"there are no processors in {scripts}")
    raise UnknownProcessor(
        f"There is no processor {name[:LONGEST_NAME]!r}. Upload the file again with one of these: {there}."
    )


async def run_script(
    script: Path, job: ProcessorJob, on_line: Callable[[bytes], None], trace: traced.ScriptTrace | None = None
) -> int:
    """Run the script to its end and return its exit code (below 0: killed by that signal).

    `on_line` gets each line of its standard output. Its standard error is logged. With `trace`, the lines that it
    executes go there. If the caller is cancelled, the script and everything it started are killed first. Raises
    ProcessorError if it cannot start.
    """
    # Not asyncio's subprocesses: they also wait for every process that inherited the pipes.
    with tempfile.TemporaryFile() as given, contextlib.ExitStack() as stack:
        given.write(job.for_script())
        given.seek(0)
        connection = stack.enter_context(contextlib.closing(traced.TraceConnection(trace, script)))
        try:
            process = subprocess.Popen(
                [sys.executable, str(script)],
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd=job.scratch,
                # The script does not get the worker's settings and credentials.
                env={"PATH": os.defpath, "LANG": "C.UTF-8", "TMPDIR": job.scratch, **connection.variables},
                pass_fds=connection.passed,
                # A process group of its own, so that the script's children are ended with it.
                start_new_session=True,
            )
        except OSError as error:
            raise ProcessorError(f"cannot start {script}: {error}") from error
        assert process.stdout is not None
        assert process.stderr is not None
        # After the group was killed: until it is waited for, its process id is not given to another process.
        stack.callback(process.wait)
        stack.callback(_kill_group, process)
        readers = asyncio.gather(
            _relay(await _stream(process.stdout, stack), on_line, process),
            _log_lines(await _stream(process.stderr, stack), script.stem),
            connection.relay(),
        )
        stack.callback(readers.cancel)
        await _ended(process, stack)
        _kill_group(process)
        try:
            await asyncio.wait_for(readers, LEFTOVER_SECONDS)
        except TimeoutError:
            log.error("the script left a process behind that still holds its output open")
        return process.wait()


async def _stream(pipe: IO[bytes], stack: contextlib.ExitStack) -> asyncio.StreamReader:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LINE_BYTES)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    stack.callback(transport.close)
    return reader


async def _ended(process: subprocess.Popen[bytes], stack: contextlib.ExitStack) -> None:
    """Return when the process has ended. Does not collect its exit code."""
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(process.pid)
    stack.callback(os.close, descriptor)
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    stack.callback(loop.remove_reader, descriptor)
    await ended.wait()


async def _relay(
    stream: asyncio.StreamReader, on_line: Callable[[bytes], None], process: subprocess.Popen[bytes]
) -> None:
    while True:
        try:
            line = await stream.readuntil()
        except asyncio.IncompleteReadError as end:
            line = end.partial
        except asyncio.LimitOverrunError:
            log.error("a line of progress is longer than allowed: ending the run", extra={"limit": LINE_BYTES})
            _kill_group(process)
            return
        if not line:
            return
        if line.strip():
            on_line(line.strip())


async def _log_lines(stream: asyncio.StreamReader, name: str) -> None:
    """Log each line. An overlong line is logged in parts."""
    rest = b""
    while data := await stream.read(LINE_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > LINE_BYTES:
            lines, rest = [*lines, rest], b""
        for line in lines:
            log.warning("processor: %s", line.decode(errors="replace"), extra={"processor": name})
    if rest:
        log.warning("processor: %s", rest.decode(errors="replace"), extra={"processor": name})


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
