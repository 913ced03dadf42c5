"""`longhaul processor`: systemd starts it for each connection to the socket. It runs one job and has no secrets.

Standard input is the connection. Environment: LONGHAUL_PROCESSORS, the directory of the scripts that may be run;
LONGHAUL_WORK, the directory of all files of jobs; LONGHAUL_PROCESSOR_SECONDS, the longest time of a run (none: no
limit). Exit codes: 0 the job was run, successfully or not; 1 it was not run to its end (refused, terminated, the worker
closed the connection); 2 wrong start.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longhaul import logs
from longhaul.processing.runner import TRACED, UNTRACE, verdict_line
from longhaul.processing.script import (
    LINE_BYTES,
    ProcessorError,
    ProcessorInterrupted,
    ProcessorJob,
    find_script,
    run_script,
    scripts_in_use,
    version_of,
)
from longhaul.processing.traced import ScriptTrace

log = logs.get(__name__)

FOREVER = 1e8
"""Three years, in seconds: the event loop's clock takes no infinity."""


def main() -> int:
    """Run the job that comes over standard input."""
    logs.setup(socket.gethostname())
    processors, work = os.environ.get("LONGHAUL_PROCESSORS"), os.environ.get("LONGHAUL_WORK")
    longest = os.environ.get("LONGHAUL_PROCESSOR_SECONDS") or "inf"
    if not processors or not work or not re.fullmatch(r"\d+(\.\d+)?|inf", longest):
        sys.stderr.write(
            "longhaul processor: set LONGHAUL_PROCESSORS and LONGHAUL_WORK to directories, and"
            " LONGHAUL_PROCESSOR_SECONDS to a number of seconds if there is to be a limit\n"
        )
        return 2
    try:
        # A copy: asyncio closes the socket that it is given, and descriptor 0 must not become another file.
        connection = socket.socket(fileno=os.dup(0))
    except OSError:
        sys.stderr.write("longhaul processor: standard input is not a connection; systemd starts this for a socket\n")
        return 2
    return asyncio.run(serve(connection, RunLimits(Path(processors), Path(work), float(longest))))


@dataclass(frozen=True, slots=True)
class RunLimits:
    """The limits of a run: the directory of its script, the directory of its files, and its time in seconds."""

    processors: Path
    work: Path
    seconds: float


async def serve(connection: socket.socket, limits: RunLimits) -> int:
    """Run the job that comes over `connection`, report on it there, and return the process's exit code."""
    reader, writer = await asyncio.open_connection(sock=connection, limit=2 * LINE_BYTES)
    try:
        job = ProcessorJob.from_line(await reader.readline())
        with logs.bound(upload_id=job.upload_id, job_id=job.job_id, request_id=job.request_id):
            scripts = scripts_in_use(limits.processors)
            exit_code = await _run(job, scripts, limits, reader, writer)
            log.info("processor ended", extra={"processor": job.processor, "exit_code": exit_code})
            verdict = verdict_line(exit_code, processors=version_of(scripts))
    except (ProcessorError, ValueError, OSError) as error:
        log.error("processor was not run to its end: %s", error)
        verdict = verdict_line(None, error if isinstance(error, ProcessorError) else ProcessorError(str(error)))
        exit_code = None
    try:
        writer.write(verdict)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    except OSError:
        # The worker is gone, so nobody needs the verdict.
        return 1
    return 0 if exit_code is not None else 1


async def _run(
    job: ProcessorJob, scripts: Path, limits: RunLimits, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> int:
    """Run the script until it ends, the worker closes the connection, or systemd stops this. Raises ProcessorError."""
    script = find_script(scripts, job.processor)
    for path in (job.input, job.output, job.scratch):
        if not Path(path).resolve().is_relative_to(limits.work.resolve()):
            raise ProcessorError(f"{path} is not below {limits.work}")
    log.info("processor starts", extra={"processor": job.processor, "version": version_of(scripts)})
    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)

    async def take(line: bytes) -> None:
        writer.write(TRACED + line + b"\n")
        await writer.drain()

    trace = None if job.how_traced is None else ScriptTrace(job.how_traced, take)
    watches: dict[asyncio.Task[Any], str] = {
        asyncio.create_task(_until_closed(reader, trace)): "the worker closed the connection",
        asyncio.create_task(terminated.wait()): "the unit was told to stop",
    }
    run = asyncio.create_task(run_script(script, job, lambda line: _forward(line, writer), trace))
    try:
        await asyncio.wait({run, *watches}, timeout=min(limits.seconds, FOREVER), return_when=asyncio.FIRST_COMPLETED)
        reasons = [reason for task, reason in watches.items() if task.done()]
    finally:
        for task in (run, *watches):
            task.cancel()
        await asyncio.wait({run, *watches})
        _open_to_group(Path(job.output), Path(job.scratch))
    if not run.cancelled():
        return run.result()
    if reasons:
        raise ProcessorInterrupted(" and ".join(reasons))
    hours = f"{limits.seconds / 3600:.1f} hours"
    log.error("the script ran for too long and was ended", extra={"seconds": limits.seconds})
    _forward(
        json.dumps({"error": f"The program {job.processor} was stopped after {hours}, the longest allowed."}).encode(),
        writer,
    )
    return -signal.SIGKILL


async def _until_closed(reader: asyncio.StreamReader, trace: ScriptTrace | None) -> None:
    """Return when the worker closes the connection. All that it may send is that the trace is over."""
    while line := await reader.readline():
        if line == UNTRACE and trace is not None:
            trace.over.set()


def _open_to_group(*directories: Path) -> None:
    """Let the worker, another user of the same group, remove directories that the script made private."""
    for directory in directories:
        for path, _, _ in os.walk(directory):
            # The worker's own directories are open already, and may not be changed here.
            with contextlib.suppress(PermissionError):
                Path(path).chmod(0o770)


def _forward(line: bytes, writer: asyncio.StreamWriter) -> None:
    """Pass on a line of the script if it is a JSON object. The worker understands nothing else."""
    try:
        values = json.loads(line)
    except ValueError:
        values = None
    if isinstance(values, dict):
        writer.write(json.dumps(values).encode() + b"\n")
    else:
        log.warning("not a line of progress: %s", line.decode(errors="replace"))
