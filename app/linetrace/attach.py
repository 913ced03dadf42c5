"""The command `python -m linetrace attach SOCKET`: traces a running process that listens, and prints the lines.

Lines go to standard output, what is said about them to standard error; with `--json` all messages go to standard output
as control.py describes them. Ctrl-C ends the trace and waits until the process has said that nothing is armed any more.

Exit codes: 0 the trace ended at a limit or as wanted, 1 it was refused or the connection was lost, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

from linetrace import options
from linetrace.control import PROTOCOL
from linetrace.limits import LimitError, Limits
from linetrace.record import Line, as_text
from linetrace.selection import Selection

DONE, FAILED, USAGE = 0, 1, 2
ALIVE_SECONDS = 1.0
LEASE_SECONDS = 5
"""The process ends the trace if it hears nothing for so long: this command was stopped, or its host is gone."""
ENDING_SECONDS = 10.0


class AttachError(Exception):
    """The process cannot be reached, or refuses. The text says why."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m linetrace attach", description="Trace a running process.")
    made.add_argument("socket", help="the control socket of the process")
    made.add_argument("--status", action="store_true", help="say what is armed in the process, and end")
    made.add_argument("--json", action="store_true", help="print the messages of the process")
    made.add_argument("--to", default="client", help="client, syslog (of the process's host), or both with a comma")
    made.add_argument("--own", action="append", metavar="PATH", help="a folder to trace, instead of the program's own")
    made.add_argument("--id", action="append", default=[], metavar="NAME=VALUE", help="an id to put on each line")
    made.add_argument("--by", default=getpass.getuser(), help="who asks (%(default)s); the program logs it")
    made.add_argument("--reason", default="", help="why; the program logs it")
    made.add_argument(
        "--while-fed",
        type=float,
        metavar="SECONDS",
        help="end when standard input ends, or brings nothing for so long: for a caller behind a line that may break",
    )
    group = made.add_argument_group("what to trace (everything, if nothing is said)")
    for name in ("request", "job", "upload", "user"):
        group.add_argument(f"--{name}", metavar="ID", help=f"what works for this {name}")
    group.add_argument("--next", action="store_true", help="the next request, of --method, --path and --user if given")
    group.add_argument("--method", default="", metavar="PATTERN")
    group.add_argument("--path", default="", metavar="PATTERN", help="* stands for anything")
    group.add_argument("--follow", default="", metavar="NAME", help="with --next: also all later work with its id NAME")
    group.add_argument("--function", metavar="PATTERN", help="the functions module.name that match")
    options.add_options(made)
    options.add_limits(made, Limits())
    return made


def main(words: list[str]) -> int:
    """Run the command line and return its exit code."""
    command = parser()
    given = command.parse_args(words)
    try:
        message = arming(given)
    except (LimitError, ValueError) as error:
        command.print_usage(sys.stderr)
        _tell(str(error))
        return USAGE
    try:
        with connect(given.socket) as connection:
            if given.status:
                return _status(connection)
            return _Client(connection, given).run(message)
    except (AttachError, OSError) as error:
        _tell(str(error))
        return FAILED


def arming(given: argparse.Namespace) -> dict[str, Any]:
    """The message that asks for the trace of a command line. Raises ValueError."""
    ids = {name: value for name in ("request", "job", "upload", "user") if (value := getattr(given, name)) is not None}
    if given.next or given.method or given.path:
        user = ids.pop("user", "")
        if ids or given.function:
            raise ValueError(
                "--next is for requests that have no id yet; leave out --request, --job, --upload, --function"
            )
        selection = Selection.next(method=given.method, path=given.path, user=user, follow=given.follow)
    elif given.function is not None:
        if ids:
            raise ValueError("a trace is of a function or of ids, not of both")
        selection = Selection.of_function(given.function)
    else:
        selection = Selection.of(**ids) if ids else Selection.everything()
    return {
        "type": "arm",
        "protocol": PROTOCOL,
        "selection": selection.as_json(),
        "limits": options.limits_of(given).as_json(),
        "options": options.options_of(given).as_json(),
        "folders": [os.path.abspath(path) for path in given.own or []],  # noqa: PTH100
        "to": list(options.names(given.to)),
        "ids": options.ids_of(given.id),
        "by": given.by,
        "reason": given.reason,
        "lease": LEASE_SECONDS,
    }


def connect(path: str) -> socket.socket:
    """A connection to the socket of a process. Raises AttachError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        why = {
            FileNotFoundError: "there is no such socket: the process does not run, or does not listen",
            ConnectionRefusedError: "nobody listens: the process has ended",
            PermissionError: "only the user of the process and root may trace it",
        }.get(type(error), error.strerror or str(error))
        raise AttachError(f"{path}: {why}") from error
    return connection


def messages(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """The messages of the process until it closes the connection."""
    with contextlib.suppress(ConnectionError), connection.makefile("rb") as lines:
        for line in lines:
            yield json.loads(line)


class _Client:
    def __init__(self, connection: socket.socket, given: argparse.Namespace) -> None:
        self._connection = connection
        self._json = given.json
        self._fed_seconds: float | None = given.while_fed
        self._exit = FAILED
        self._stopping = 0.0

    def run(self, arm: dict[str, Any]) -> int:
        """Arm, and show what comes until the end."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self._stop())
        self._send(arm)
        waiting = b""
        fed_at = alive_at = time.monotonic()
        watched: list[Any] = [self._connection, *([sys.stdin.fileno()] if self._fed_seconds is not None else [])]
        while True:
            now = time.monotonic()
            if now >= alive_at:
                alive_at = now + ALIVE_SECONDS
                self._send({"type": "alive"})
            if self._fed_seconds is not None and now - fed_at > self._fed_seconds:
                self._stop()
            if self._stopping and now - self._stopping > ENDING_SECONDS:
                raise AttachError(f"the process did not say within {ENDING_SECONDS:g} s that the trace has ended")
            ready, _, _ = select.select(watched, [], [], 0.25)
            if self._connection in ready:
                data = self._connection.recv(1 << 18)
                if not data:
                    break
                *lines, waiting = (waiting + data).split(b"\n")
                for line in lines:
                    self._show(line)
                sys.stdout.flush()
            if len(ready) > (self._connection in ready):
                fed_at = now
                if not os.read(sys.stdin.fileno(), 65_536):
                    watched = [self._connection]
                    self._stop()
        if self._exit == FAILED:
            _tell("the connection was lost or refused")
        return self._exit

    def _show(self, message: bytes) -> None:
        values = json.loads(message)
        kind = values["type"]
        if kind == "ended":
            self._exit = DONE
        if self._json:
            print(message.decode())  # noqa: T201
        elif kind == "line" and values["kind"] not in ("notice", "ids"):
            line = Line(
                values["time"], values["kind"], values["module"], values["line"], values["source"],
                since=values.get("since"),
            )  # fmt: skip
            print(as_text(line))  # noqa: T201
        elif kind == "line" and not values["source"].startswith("## ended"):
            _tell(values["source"].removeprefix("## "))
        elif kind == "armed":
            _tell("armed" + _functions(values))
        elif kind == "ended":
            _tell(f"ended: {values['reason']}; {values['lines']:,} lines, {values['dropped']:,} dropped")
        if kind == "refused":
            raise AttachError(f"refused: {values['error']}")

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = time.monotonic()
            self._send({"type": "stop"})

    def _send(self, values: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # the process ended the trace at the same time
            self._connection.sendall(json.dumps(values).encode() + b"\n")


def _functions(armed: dict[str, Any]) -> str:
    """What is said of a selection by function."""
    if "functions" not in armed:
        return ""
    if armed["functions"]:
        shown = ", ".join(armed["functions"][:5])
        return f": {shown}{' and more' if len(armed['functions']) > 5 else ''}"
    near = f" Similar: {', '.join(armed['near'])}." if armed["near"] else ""
    return f". No function of this name is imported yet.{near}"


def _status(connection: socket.socket) -> int:
    connection.sendall(b'{"type": "status"}\n')
    for message in messages(connection):
        if message["type"] == "status":
            print(json.dumps(message, indent=2))  # noqa: T201
            return DONE
    raise AttachError("the process refused the connection: only its own user and root may trace it")


def _tell(text: str) -> None:
    print(f"linetrace: {text}", file=sys.stderr, flush=True)  # noqa: T201
