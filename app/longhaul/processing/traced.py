"""The trace of a script: its lines come through a connection of their own and go to the worker, whose job is traced.

Nothing here may change what becomes of the script: if it cannot be traced, it runs without.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from linetrace import child
from longhaul import logs

log = logs.get(__name__)

TRACE_LINE_BYTES = 32 * 1024
"""A longer line of a trace is left out: it must fit into a line of the worker's connection with its unit."""
LOOK_SECONDS = 0.5
"""How often the worker looks whether the lines are still wanted."""


def wanted() -> dict[str, Any] | None:
    """How the script of the running job is to be traced; None if it is not, or if the tracer fails."""
    try:
        return child.wanted()
    except Exception:
        log.exception("the tracer failed: the script is not traced")
        return None


async def while_wanted() -> None:
    """Return when the lines of the running job's script are not wanted any more."""
    while wanted() is not None:
        await asyncio.sleep(LOOK_SECONDS)


@contextlib.contextmanager
def beside(work: Coroutine[Any, Any, None]) -> Iterator[None]:
    """Run this while the block runs."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()


@dataclass(slots=True)
class ScriptTrace:
    """`how` is from `wanted`. `take` gets each line, without its end. When `over` is set, the script is disarmed."""

    how: Mapping[str, Any]
    take: Callable[[bytes], Awaitable[object]]
    over: asyncio.Event = field(default_factory=asyncio.Event)


class TraceConnection:
    """The connection of a trace: `variables` and `passed` descriptors are for the script's process; none without."""

    def __init__(self, trace: ScriptTrace | None = None, script: Path = Path()) -> None:
        self.variables: dict[str, str] = {}
        self.passed: tuple[int, ...] = ()
        self._trace = trace
        if trace is None:
            return
        # Not a pipe: when nobody reads it any more, its writer may be killed by SIGPIPE.
        self._source, self._target = socket.socketpair()
        try:
            self.variables = child.environment(trace.how, [str(script.parent), str(script)], self._target.fileno())
            self.passed = (self._target.fileno(),)
        except (KeyError, TypeError, ValueError) as error:
            log.warning("the script is not traced", extra={"error": str(error)})

    def close(self) -> None:
        """Close both ends."""
        if self._trace is not None:
            self._source.close()
            self._target.close()

    async def relay(self) -> None:
        """After the script was started: hand over its lines until it ends, or they are not wanted any more."""
        if self._trace is None:
            return
        self._target.close()
        reader, writer = await asyncio.open_connection(sock=self._source, limit=TRACE_LINE_BYTES)
        tasks = {
            asyncio.create_task(_hand_over(self._trace, reader)),
            asyncio.create_task(self._trace.over.wait()),
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            writer.close()  # disarms a script that still runs


async def _hand_over(trace: ScriptTrace, reader: asyncio.StreamReader) -> None:
    rest = b""
    cut = False  # within a line that is too long
    while data := await reader.read(TRACE_LINE_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if not cut and len(line) <= TRACE_LINE_BYTES:
                await trace.take(line)
            cut = False
        if len(rest) > TRACE_LINE_BYTES:
            rest, cut = b"", True
