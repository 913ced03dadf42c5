"""The trace of a script: its lines come through a pipe of their own and go to the worker, whose job is traced.

Nothing here may change what becomes of the script: if it cannot be traced, it runs without.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from linetrace import child
from longhaul import logs

log = logs.get(__name__)

LINE_BYTES = 32 * 1024
"""A longer line of a trace is left out: the lines of a run behind a socket may not be longer than 64 KiB."""


@dataclass(slots=True)
class ScriptTrace:
    """`how` is from `linetrace.child.wanted`. `take` gets each line, without its end, and says whether it was wanted;
    the script is disarmed if not, or when `over` is set.
    """

    how: Mapping[str, Any]
    take: Callable[[bytes], Awaitable[bool]]
    over: asyncio.Event = field(default_factory=asyncio.Event)


class TracePipe:
    """The pipe of a trace: `variables` and `passed` descriptors are for the script's process. Empty without a trace."""

    def __init__(self, trace: ScriptTrace | None = None, script: Path = Path()) -> None:
        self.variables: dict[str, str] = {}
        self.passed: tuple[int, ...] = ()
        self._trace = trace
        self._source, self._target = -1, -1
        if trace is None:
            return
        self._source, self._target = os.pipe()
        try:
            self.variables = child.environment(trace.how, [str(script.parent), str(script)], self._target)
            self.passed = (self._target,)
        except (KeyError, TypeError, ValueError) as error:
            log.warning("the script is not traced", extra={"error": str(error)})

    def close(self) -> None:
        """Close both ends."""
        for descriptor in {self._source, self._target} - {-1}:
            os.close(descriptor)
        self._source = self._target = -1

    async def relay(self) -> None:
        """After the script was started: hand over its lines until it ends, or they are not wanted any more."""
        if self._trace is None:
            return
        os.close(self._target)
        source, self._source, self._target = self._source, -1, -1
        reader = asyncio.StreamReader(limit=LINE_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(source, "rb", 0)
        )
        try:
            await self._hand_over(self._trace, reader)
        finally:
            transport.close()  # disarms a script that still runs

    @staticmethod
    async def _hand_over(trace: ScriptTrace, reader: asyncio.StreamReader) -> None:
        rest = b""
        cut = False  # within a line that is too long
        while data := await reader.read(LINE_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if not cut and len(line) <= LINE_BYTES and not await trace.take(line):
                    trace.over.set()
                cut = False
                if trace.over.is_set():
                    return
            if len(rest) > LINE_BYTES:
                rest, cut = b"", True
