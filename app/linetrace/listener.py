"""The control socket of a process: waits for clients in a thread, and imports the tracer only when one arms a trace.

While nobody is connected the thread sleeps in the kernel. The socket has mode 0600, and clients of other users than the
process's own and root are turned away as well (SO_PEERCRED, unix(7)).
"""

from __future__ import annotations

import _thread
import contextlib
import os
import socket
import threading  # noqa: F401  # here: before Python 3.13 the thread that imports it first counts as the main thread
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from linetrace.peer import Program, may_control

LONGEST_PATH = 107
"""Bytes of a socket's path, see unix(7)."""
BACKLOG = 8
RETRY_SECONDS = 0.1


class Listener:
    """The socket of this process; `path` is where. Made by `listen`. A forked child listens on a socket of its own."""

    def __init__(self, directory: Path, program: Program, clients: int | None = None) -> None:
        self._directory = directory
        self._clients = clients
        self._program = program
        self._socket: socket.socket | None = None
        self.path = directory
        self._open()
        os.register_at_fork(after_in_child=self._after_fork)

    def close(self) -> None:
        """Take no more clients. Traces that are running go on."""
        if self._socket is not None:
            self.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
            self._socket.close()
            self._socket = None

    def _open(self) -> None:
        self.path = self._directory / f"{self._program.name}-{os.getpid()}.sock"
        if len(os.fsencode(self.path)) > LONGEST_PATH:
            raise OSError(f"the path of a socket has at most {LONGEST_PATH} bytes: {self.path}")
        remove_stale(self._directory)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self.path.unlink(missing_ok=True)
            listening.bind(os.fspath(self.path))
            self.path.chmod(0o600)  # before anybody can connect: that needs listen()
            listening.listen(BACKLOG)
        except OSError:
            listening.close()
            raise
        self._socket = listening
        _thread.start_new_thread(self._accept, (listening,))

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                if listening.fileno() < 0:
                    return  # closed
                time.sleep(RETRY_SECONDS)  # no descriptor is free (EMFILE): the next client may be luckier
                continue
            if not may_control(connection):
                connection.close()
                continue
            _thread.start_new_thread(self._serve, (connection,))

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            from linetrace import control

            control.serve(connection, self._program)
        if self._clients is not None:
            self._clients -= 1
            if self._clients <= 0:
                self.close()

    def _after_fork(self) -> None:
        if self._socket is None:
            return
        self._socket.close()  # not shutdown(): the parent listens on the same socket
        self._socket = None
        with contextlib.suppress(OSError):
            self._open()


def listen(
    directory: str | Path,
    name: str,
    folders: Sequence[str | Path],
    *,
    syslog: Mapping[str, str] | None = None,
    clients: int | None = None,
) -> Listener:
    """Let clients trace this process through the socket `directory/name-PID.sock`.

    `folders` hold the program's own files: only their lines are shown. `syslog` are parameters of
    `linetrace.sinks.SyslogSink` (`path`, `facility`, `tag`, `form`) for traces that go to syslog. After so many
    `clients` it listens no more. Call it once in a process. Raises OSError if the socket cannot be made.
    """
    program = Program(name, tuple(os.path.abspath(folder) for folder in folders), dict(syslog or {}))  # noqa: PTH100
    return Listener(Path(directory), program, clients)


def remove_stale(directory: Path) -> None:
    """Remove the sockets of processes that were killed: those at which nobody listens."""
    for path in directory.glob("*-*.sock"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trying, contextlib.suppress(OSError):
            trying.settimeout(1.0)
            try:
                trying.connect(os.fspath(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)


def default_directory() -> Path:
    """A folder for sockets that only this user can enter: systemd's RuntimeDirectory, or one in /tmp.

    Raises OSError if the one in /tmp belongs to somebody else.
    """
    given = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    path = Path(f"/tmp/linetrace-{os.geteuid()}")  # noqa: S108  # checked below
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o077 or not path.is_dir() or path.is_symlink():
        raise PermissionError(f"{path} is not a folder that only this user can enter")
    return path
