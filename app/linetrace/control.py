"""One client's connection to a process: JSON lines in both directions, the first of which names the protocol.

| who | message | |
|---|---|---|
| process | `hello` | `protocol`, `program`, `pid`, `python`, `folders` |
| client | `status` | answered by `status`: `traces`, `tool` (null: nothing is in sys.monitoring), `code_with_events` |
| client | `stacks` | answered by `stacks`: `pid`, `program`, `python`, `threads`, `tasks` and more, see stacks.py |
| client | `arm` | `protocol`; optional: `selection` `limits` `options` `folders` `to` `ids` `by` `reason` `lease` |
| process | `armed` | the `selection`, `limits` and `options` in force; `functions` that match, or `near` ones |
| process | `refused` | `error` says why; the connection stays |
| process | `line` | see record.py |
| process | `count` | each second: `lines`, `dropped`, `repeated`, `seconds_left` |
| client | `follow` | `id` to follow instead of waiting for the next request: it came to another process |
| client | `alive` | does nothing; `lease` in `arm` says after how many seconds of silence the trace ends |
| client | `stop` | ends the trace; `reason` may say why |
| process | `ended` | `reason`, `lines`, `dropped`, `repeated`; then the connection closes |

A connection has one trace. `to` lists `client` and `syslog`. The trace ends when the connection is lost.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from linetrace.peer import Program, peer
from linetrace.record import Line, as_json
from linetrace.sinks import Sink, SinkLost

if TYPE_CHECKING:
    from linetrace.trace import Counts, Trace

PROTOCOL = 1
LONGEST_MESSAGE = 65_536
LONGEST_LEASE = 3600
SEND_SECONDS = 5
"""A client that takes nothing for so long has lost its trace."""
log = logging.getLogger("linetrace")


class Refused(Exception):
    """A message that cannot be followed. The text says why."""


def serve(connection: socket.socket, program: Program) -> None:
    """Talk to a client until it leaves or its trace ends. Raises OSError if the connection is lost."""
    _Connection(connection, program).run()


class _Connection:
    def __init__(self, connection: socket.socket, program: Program) -> None:
        self._connection = connection
        self._program = program
        self._trace: Trace | None = None
        self._lock = threading.Lock()
        self._pid = os.getpid()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_SECONDS, 0))

    def run(self) -> None:
        reason = "the control connection was lost"
        try:
            self._say(
                "hello",
                protocol=PROTOCOL,
                program=self._program.name,
                pid=self._pid,
                python=sys.version.split()[0],
                folders=list(self._program.folders),
            )
            for message in self._messages():
                self._obey(message)
        except BlockingIOError:
            reason = "the client was silent for longer than its lease"
        except (OSError, SinkLost):
            pass
        finally:
            if self._trace is not None:
                from linetrace.arm import wait

                self._trace.stop(reason)
                wait(self._trace, SEND_SECONDS)

    def _messages(self) -> Iterator[bytes]:
        """What the client sends, line by line, until it leaves or a line is too long. Raises OSError."""
        waiting = b""
        while len(waiting) <= LONGEST_MESSAGE and (data := self._connection.recv(LONGEST_MESSAGE)):
            *lines, waiting = (waiting + data).split(b"\n")
            yield from lines

    def _obey(self, message: bytes) -> None:
        try:
            values = json.loads(message)
            kind = values.get("type") if isinstance(values, dict) else None
            if kind == "arm":
                self._arm(values)
            elif kind == "status":
                self._say("status", **status())
            elif kind == "stacks":
                from linetrace import stacks

                self._say("stacks", **stacks.take(self._program))
            elif kind == "stop" and self._trace is not None:
                self._trace.stop(str(values.get("reason", "the client ended it"))[:200])
            elif kind == "follow" and self._trace is not None:
                self._follow_id(values.get("id"))
            elif kind != "alive":
                known = "arm, status, stacks, follow, alive, stop"
                raise Refused(f"there is no message {kind!r} here; protocol {PROTOCOL} has {known}")
        except (ValueError, Refused) as error:
            self._say("refused", error=str(error))

    def _arm(self, values: dict[str, Any]) -> None:
        if values.get("protocol") != PROTOCOL:
            raise Refused(f"this process speaks protocol {PROTOCOL}, the client {values.get('protocol')!r}")
        if self._trace is not None:
            raise Refused("this connection has a trace; connect again for another")
        from linetrace import functions
        from linetrace.arm import arm
        from linetrace.limits import Limits, Options
        from linetrace.monitor import NoFreeTool
        from linetrace.selection import Selection

        selection = Selection.from_json(values.get("selection", {"kind": "everything"}))
        limits = Limits.from_json(values.get("limits", {}))
        options = Options.from_json(values.get("options", {}))
        folders = _texts(values, "folders") or list(self._program.folders)
        ids = values.get("ids", {})
        if not isinstance(ids, dict) or not all(isinstance(text, str) for text in [*ids, *ids.values()]):
            raise Refused("ids are texts by name")
        self._set_lease(values.get("lease"))
        about = {"by": str(values.get("by", "")), "reason": str(values.get("reason", ""))}
        about["peer"] = "process {} of user {}".format(*peer(self._connection))
        # The answer comes before the first line.
        with self._lock:
            sinks = self._sinks(_texts(values, "to") or ["client"])
            try:
                trace = arm(
                    folders, *sinks, selection=selection, limits=limits, options=options, ids=ids, on_tick=self._tick
                )
            except NoFreeTool as error:
                raise Refused(str(error)) from error
            trace.about = about
            self._trace = trace
            answer: dict[str, Any] = {
                "selection": selection.as_json(),
                "limits": limits.as_json(),
                "options": options.as_json(),
            }
            if selection.kind == "function":
                answer["functions"] = functions.matching(trace.chooser, trace.files)
                answer["near"] = [] if answer["functions"] else functions.near(selection.function, trace.files)
            self._send_now(_encoded("armed", answer))
        log.info("trace armed", extra={**about, "selection": selection.as_json(), "limits": limits.as_json()})

    def _follow_id(self, value: object) -> None:
        from linetrace.monitor import MONITOR

        assert self._trace is not None
        if not self._trace.chooser.selection.follow:
            raise Refused("this trace follows no id")
        if not isinstance(value, str) or not value:
            raise Refused("an id to follow is a text")
        MONITOR.follow(self._trace, value)

    def _sinks(self, names: list[str]) -> list[Sink]:
        from linetrace.sinks import SinkError, open_sink

        if unknown := set(names) - {"client", "syslog"}:
            raise Refused(f"a trace goes to client or syslog, not {', '.join(sorted(unknown))}")
        sinks: list[Sink] = [_ClientSink(self._send if "client" in names else lambda _data: None, self._finish)]
        if "syslog" in names:
            given = dict(self._program.syslog)
            path = given.pop("path", "")
            try:
                sinks.append(open_sink(f"syslog:{path}" if path else "syslog", **given))  # type: ignore[arg-type]
            except SinkError as error:
                raise Refused(str(error)) from error
        return sinks

    def _set_lease(self, lease: object) -> None:
        if lease is None:
            return
        if isinstance(lease, bool) or not isinstance(lease, int | float) or not 1 <= lease <= LONGEST_LEASE:
            raise Refused(f"a lease is 1 to {LONGEST_LEASE} seconds")
        value = struct.pack("ll", int(lease), int(lease % 1 * 1_000_000))
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)

    def _tick(self, counts: Counts, seconds_left: float) -> None:
        self._say("count", **_shown(counts), seconds_left=round(seconds_left, 1))

    def _finish(self) -> None:
        """All lines were sent: say so and let the client go. A forked child only lets go of the connection."""
        trace = self._trace
        if os.getpid() != self._pid:
            os.close(self._connection.detach())
        elif trace is not None:
            log.info("trace ended", extra={**trace.about, "why": trace.ended, **_shown(trace.counts)})
            with contextlib.suppress(OSError, SinkLost):
                self._say("ended", reason=trace.ended, **_shown(trace.counts))
                self._connection.shutdown(socket.SHUT_RDWR)  # ends `run`

    def _say(self, kind: str, **values: Any) -> None:
        self._send(_encoded(kind, values))

    def _send(self, data: bytes) -> None:
        """Raises SinkLost if the client is gone, or takes nothing for SEND_SECONDS."""
        with self._lock:
            self._send_now(data)

    def _send_now(self, data: bytes) -> None:
        try:
            self._connection.sendall(data)
        except OSError as error:
            raise SinkLost("the control connection was lost") from error


class _ClientSink:
    """Gives lines as JSON to the connection. Its end is the end of the trace."""

    def __init__(self, send: Callable[[bytes], None], finish: Callable[[], None]) -> None:
        self._send = send
        self._finish = finish

    def send(self, lines: Sequence[Line]) -> int:
        """See sinks.Sink."""
        self._send("".join([f"{as_json(line)}\n" for line in lines]).encode())
        return 0

    def close(self) -> None:
        """See sinks.Sink."""
        self._finish()


def status() -> dict[str, Any]:
    """What is armed in this process, as sys.monitoring itself has it. Does not import the tracer."""
    imported = sys.modules.get("linetrace.monitor")
    if imported is None or not hasattr(imported, "MONITOR"):  # while it is being imported, it has none yet
        return {"traces": [], "tool": None, "code_with_events": 0}
    monitor = imported.MONITOR
    traces = [
        {**trace.about, "ids": trace.ids, "selection": trace.chooser.selection.as_json(), **_shown(trace.counts)}
        for trace in monitor.traces
    ]
    held = [tool for tool in imported.TOOL_IDS if sys.monitoring.get_tool(tool) == imported.TOOL_NAME]
    return {"traces": traces, "tool": held[0] if held else None, "code_with_events": monitor.code_with_events()}


def _shown(counts: Counts) -> dict[str, int]:
    return {"lines": counts.lines, "dropped": counts.dropped, "repeated": counts.repeated}


def _texts(values: dict[str, Any], name: str) -> list[str]:
    """A list of texts of a message, empty if it is left out. Raises Refused."""
    given = values.get(name, [])
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise Refused(f"{name} is a list of texts")
    return given


def _encoded(kind: str, values: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, **values}).encode() + b"\n"
