"""The client's side of control connections: speaks to several processes at once, and prints what they say."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from linetrace.record import Line, as_text

DONE, FAILED = 0, 1
ALIVE_SECONDS = 1.0
LEASE_SECONDS = 5
"""A process ends its trace if it hears nothing for so long: this command was stopped, or its host is gone."""
ENDING_SECONDS = 10.0
ANSWER_SECONDS = 5.0
FOLLOW = b"follow "


class AttachError(Exception):
    """A process cannot be reached, or refuses. The text says why."""


def sockets(places: Iterable[str]) -> list[Path]:
    """The control sockets that are named, and those in named folders; a folder without any stands for itself."""
    found: list[Path] = []
    for place in map(Path, places):
        found += sorted(place.glob("*.sock")) or [place]
    return found


def connect(path: Path, seconds: float | None = None) -> socket.socket:
    """A connection to the socket of a process, of which each step may take `seconds`. Raises AttachError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(seconds)
    try:
        connection.connect(os.fspath(path))
    except OSError as error:
        connection.close()
        why = {
            FileNotFoundError: "there is no such socket: the process does not run, or does not listen",
            ConnectionRefusedError: "nobody listens: the process has ended",
            PermissionError: "only the user of the process and root may trace it",
            BlockingIOError: "does not answer: others wait for it too",
        }.get(type(error), error.strerror or str(error))
        raise AttachError(f"{path}: {why}") from error
    return connection


def answers(question: str, paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """What processes answer to `status` or `stacks`, as control.py describes it; `error` says why one does not."""
    from concurrent.futures import ThreadPoolExecutor

    def ask(path: Path) -> dict[str, Any]:
        try:
            return _answer(question, path)
        except AttachError as error:
            return {"error": str(error)}

    # At once: those that do not answer take their time.
    with ThreadPoolExecutor(max_workers=max(1, len(paths))) as pool:
        return dict(zip([path.stem for path in paths], pool.map(ask, paths), strict=True))


def _answer(question: str, path: Path) -> dict[str, Any]:
    try:
        with connect(path, ANSWER_SECONDS) as connection:
            connection.sendall(_encoded({"type": question}))
            with connection.makefile("rb") as lines:
                for line in lines:
                    message: dict[str, Any] = json.loads(line)
                    if message["type"] == question:
                        return message
                    if message["type"] == "refused":
                        raise AttachError(f"{path}: refused: {message['error']}")
    except TimeoutError as error:
        why = f"nothing came for {ANSWER_SECONDS:g} s; it is stopped, or its interpreter is held"
        raise AttachError(f"{path}: does not answer: {why}") from error
    except OSError:
        pass
    raise AttachError(f"{path}: the process does not answer: only its own user and root may trace it")


def tell(text: str) -> None:
    """Say something of the tracer's own."""
    print(f"linetrace: {text}", file=sys.stderr, flush=True)  # noqa: T201


class Clients:
    """Traces in several processes. `fed_seconds`: end if standard input ends, or brings nothing for so long."""

    def __init__(self, paths: Sequence[Path], *, as_json: bool, fed_seconds: float | None) -> None:
        self._open: list[_Client] = []
        self._output = _Output()
        self._as_json = as_json
        self._fed_seconds = fed_seconds
        self._exit = DONE
        self._stopping = 0.0
        for path in paths:
            try:
                label = f"{path.stem} " if len(paths) > 1 else ""
                self._open.append(_Client(path, self._output, as_json=as_json, label=label))
            except AttachError as error:
                self._failed(path.stem, str(error))

    def run(self, arm: dict[str, Any]) -> int:
        """Arm, and show what comes until all have ended; returns the exit code. Raises AttachError."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self._stop())
        self._send(arm)
        feed, output = _Feed(self._fed_seconds), self._output
        alive_at = begun = time.monotonic()
        while self._open:
            now = time.monotonic()
            if now - begun > ANSWER_SECONDS:
                self._give_up()
            if now >= alive_at:
                alive_at = now + ALIVE_SECONDS
                self._send({"type": "alive"})
            if self._stopping and now - self._stopping > ENDING_SECONDS:
                silent = ", ".join(client.name for client in self._open)
                raise AttachError(f"{silent}: not a word within {ENDING_SECONDS:g} s that the trace has ended")
            # What cannot be passed on is not read: then the process waits, and drops lines.
            hearing = [] if output.full else self._open
            ready, _, _ = select.select([*hearing, *feed.watched], [output] if output.full else [], [], 0.25)
            for client in [each for each in self._open if each in ready]:
                self._hear(client)
            output.send()
            for word in feed.read() if len(feed.watched) and feed.watched[0] in ready else ():
                self._send({"type": "follow", "id": word})
            if feed.over:
                self._stop("" if feed.ended else "its caller is silent")
            if output.broken:
                self._stop("nobody reads its lines any more")
        output.finish()
        return self._exit

    def _give_up(self) -> None:
        """Do without processes that have not said a word."""
        for client in [each for each in self._open if not each.greeted]:
            self._failed(client.name, "the process does not answer: it is stopped, or its interpreter is held", "lost")
            self._open.remove(client)
            client.close()

    def _hear(self, client: _Client) -> None:
        try:
            if client.hear():
                return
            if not client.ended:
                self._failed(client.name, "the connection was lost", kind="lost")
        except AttachError as error:
            self._failed(client.name, str(error))
        self._open.remove(client)
        client.close()

    def _failed(self, name: str, why: str, kind: str = "refused") -> None:
        self._exit = FAILED
        if self._as_json:
            self._output.write(json.dumps({"process": name, "type": kind, "error": why}))
        else:
            tell(why)

    def _stop(self, reason: str = "") -> None:
        if not self._stopping:
            self._stopping = time.monotonic()
            self._send({"type": "stop", **({"reason": reason} if reason else {})})

    def _send(self, values: dict[str, Any]) -> None:
        for client in self._open:
            client.send(values)


class _Client:
    """The connection to one process; `label` stands before what it says. `greeted`: it has said something."""

    def __init__(self, path: Path, output: _Output, *, as_json: bool, label: str) -> None:
        self.name = path.stem
        self.greeted = self.ended = False
        self._output = output
        self._label = label
        self._as_json = as_json
        self._beginning = f'{{"process": {json.dumps(self.name)}, '.encode()
        self._connection = connect(path)
        self._waiting = b""

    def fileno(self) -> int:
        """For select."""
        return self._connection.fileno()

    def close(self) -> None:
        """Close the connection; the process ends the trace."""
        self._connection.close()

    def send(self, values: dict[str, Any]) -> None:
        """Send a message; nothing if the process is ending the connection at the same time."""
        with contextlib.suppress(OSError):
            self._connection.sendall(_encoded(values))

    def hear(self) -> bool:
        """Show what has come; False if the process closed the connection. Raises AttachError if it refuses."""
        try:
            data = self._connection.recv(1 << 18)
        except ConnectionError:
            data = b""
        *lines, self._waiting = (self._waiting + data).split(b"\n")
        for line in lines:
            self._show(line)
        return bool(data)

    def _show(self, message: bytes) -> None:
        values = json.loads(message)
        kind = values["type"]
        self.greeted = True
        if kind == "refused":
            raise AttachError(f"refused: {values['error']}")
        if kind == "ended":
            self.ended = True
        if self._as_json:
            self._output.write((self._beginning + message[1:]).decode())
        elif kind == "line" and values["kind"] not in ("notice", "ids"):
            line = Line(
                values["time"], values["kind"], values["module"], values["line"], values["source"],
                since=values.get("since"),
            )  # fmt: skip
            self._output.write(self._label + as_text(line))
        elif kind == "line" and not values["source"].startswith("## ended"):
            tell(self._label + values["source"].removeprefix("## "))
        elif kind == "armed":
            tell(f"{self._label}armed" + _functions(values))
        elif kind == "ended":
            tell(f"{self._label}ended: {values['reason']}; {values['lines']:,} lines, {values['dropped']:,} dropped")


class _Output:
    """Standard output, written to only as much as it takes at once: a reader that stops must not stop this command.

    `full`: lines wait for it. `broken`: nobody reads it any more.
    """

    def __init__(self) -> None:
        self.broken = False
        self._waiting = bytearray()

    @property
    def full(self) -> bool:
        return bool(self._waiting)

    def fileno(self) -> int:
        """For select."""
        return sys.stdout.fileno()

    def write(self, line: str) -> None:
        """Keep a line to be written."""
        if not self.broken:
            self._waiting += line.encode("utf-8", "backslashreplace") + b"\n"

    def send(self, seconds: float = 0.0) -> None:
        """Write what can be written within so many seconds."""
        done = 0
        try:
            while done < len(self._waiting) and select.select([], [self], [], seconds)[1]:
                # What is called writable takes this much without blocking, see pipe(7).
                done += os.write(self.fileno(), self._waiting[done : done + select.PIPE_BUF])
        except OSError:
            self.broken, done = True, len(self._waiting)
        del self._waiting[:done]

    def finish(self) -> None:
        """Write the rest, unless nobody takes it."""
        self.send(ENDING_SECONDS)


class _Feed:
    """Standard input, if the caller feeds it: `over` when it has `ended` or brings nothing for so many seconds."""

    def __init__(self, seconds: float | None) -> None:
        self.watched = [] if seconds is None else [sys.stdin.fileno()]
        self._seconds = seconds
        self._fed_at = time.monotonic()
        self.ended = False
        self._waiting = b""

    @property
    def over(self) -> bool:
        return self.ended or (self._seconds is not None and time.monotonic() - self._fed_at > self._seconds)

    def read(self) -> Iterator[str]:
        """The ids to follow in what has come."""
        self._fed_at = time.monotonic()
        data = os.read(self.watched[0], 65_536)
        if not data:
            self.ended, self.watched = True, []
        *lines, self._waiting = (self._waiting + data).split(b"\n")
        for line in lines:
            if line.startswith(FOLLOW):
                yield line.removeprefix(FOLLOW).decode()


def _functions(armed: dict[str, Any]) -> str:
    """What is said of a selection by function."""
    if "functions" not in armed:
        return ""
    if armed["functions"]:
        shown = ", ".join(armed["functions"][:5])
        return f": {shown}{' and more' if len(armed['functions']) > 5 else ''}"
    near = f" Similar: {', '.join(armed['near'])}." if armed["near"] else ""
    return f". No function of this name is imported yet.{near}"


def _encoded(values: dict[str, Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"
