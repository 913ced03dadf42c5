"""Where the lines of a trace go: standard output, a file or syslog. The control connection is in control.py.

Names of sinks, as the command line and clients write them: `stdout`, `stderr`, `fd:N`, `file:PATH`, `syslog`,
`syslog:PATH` (a Unix datagram socket).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Literal, Protocol

from linetrace.record import Line, as_json, as_text

_write, _fcntl_high, _monotonic = os.write, 200, time.monotonic

FACILITIES = ("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp")
FACILITIES_LOCAL = tuple(f"local{number}" for number in range(8))
INFORMATIONAL = 6
LONGEST_DATAGRAM = 2048
"""Octets of a message to syslog. RFC 5424, section 6.1: receivers should accept 2048."""
RECONNECT_SECONDS = 1.0
DEV_LOG = "/dev/log"

Form = Literal["plain", "rfc5424"]


class SinkError(Exception):
    """A sink cannot be opened. The text says which and why."""


class SinkLost(Exception):
    """A sink takes no more lines; the trace ends. The text says why."""


class Sink(Protocol):
    """What takes lines. Called by one thread at a time, except directly from the traced threads of a script."""

    def send(self, lines: Sequence[Line]) -> int:
        """Send lines; returns how many were lost. Raises SinkLost if no more can be sent at all."""

    def close(self) -> None:
        """Release what the sink holds. Never raises."""


class DescriptorSink:
    """Writes lines to a file descriptor at once, so that nothing is lost however the process ends."""

    def __init__(self, descriptor: int, *, json: bool = False) -> None:
        self._descriptor = descriptor
        self._format = as_json if json else as_text
        self._write: Callable[[int, bytes], int] = _write
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            # A program that has SIGPIPE kill it must not be killed because nobody reads its trace any more.
            self._socket = socket.socket(fileno=descriptor)
            self._write = lambda _descriptor, data: self._socket.send(data, socket.MSG_NOSIGNAL)

    def send(self, lines: Sequence[Line]) -> int:
        """See Sink."""
        shown = self._format
        data = "".join([f"{shown(line)}\n" for line in lines]).encode("utf-8", "backslashreplace")
        while data:
            try:
                data = data[self._write(self._descriptor, data) :]
            except BlockingIOError:
                return len(lines)  # the program made its output non-blocking, and the reader is slow
            except OSError as error:
                raise SinkLost(f"the output cannot be written: {error.strerror}") from error
        return 0

    def reader_gone(self) -> bool:
        """Whether there is a pipe or a connection at whose other end nobody is any more."""
        asked = select.poll()
        asked.register(self._descriptor, 0)  # errors are told without being asked for, see poll(2)
        return any(events & (select.POLLERR | select.POLLHUP | select.POLLNVAL) for _, events in asked.poll(0))

    def close(self) -> None:
        """See Sink."""
        with contextlib.suppress(OSError):  # the program closed it, with all others
            os.close(self._descriptor)


class SyslogSink:
    """Sends each line as one datagram to the syslog socket of this host.

    The form `plain` is what journald and rsyslog read from `/dev/log`: `<PRI>tag[pid]: [request=a1] module:7: source`.
    The form `rfc5424` has the ids as structured data; use it for a socket of a receiver that reads RFC 5424.
    """

    def __init__(
        self, path: str = DEV_LOG, *, facility: str = "user", tag: str = "linetrace", form: Form = "plain"
    ) -> None:
        codes = [*FACILITIES, *[""] * 4, *FACILITIES_LOCAL]
        if not facility or facility not in codes:
            raise SinkError(f"syslog has no facility {facility!r}: use one of {', '.join(filter(None, codes))}")
        if not tag.isascii() or not tag.isprintable() or not 0 < len(tag) <= 48 or " " in tag:
            raise SinkError(f"a syslog tag has 1 to 48 printable ASCII characters without spaces, not {tag!r}")
        self._path = path
        self._priority = codes.index(facility) * 8 + INFORMATIONAL
        self._tag = tag
        self._head = self._rfc5424 if form == "rfc5424" else self._plain
        self._host = socket.gethostname() or "-"
        self._socket: socket.socket | None = None
        self._retry_at = 0.0
        try:
            self._connect()
        except OSError as error:
            raise SinkError(f"there is no syslog at {path}: {error.strerror or error}") from error

    def send(self, lines: Sequence[Line]) -> int:
        """See Sink. While syslog is away, lines are lost; a connection is tried again each second."""
        lost = 0
        for line in lines:
            lost += not self._deliver(self._datagram(line))
        return lost

    def close(self) -> None:
        """See Sink."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        connection = socket.socket(fileno=_out_of_the_way(connection.detach(), own=True))
        try:
            connection.settimeout(RECONNECT_SECONDS)
            connection.connect(self._path)
        except OSError:
            connection.close()
            raise
        self._socket = connection

    def _deliver(self, datagram: bytes) -> bool:
        try:
            if self._socket is None:
                if _monotonic() < self._retry_at:
                    return False
                self._connect()
            assert self._socket is not None
            self._socket.send(datagram)
        except OSError:
            self.close()
            self._retry_at = _monotonic() + RECONNECT_SECONDS
            return False
        return True

    def _datagram(self, line: Line) -> bytes:
        return cut(self._head(line) + as_text(line), LONGEST_DATAGRAM)

    def _plain(self, line: Line) -> str:
        ids = " ".join(f"{name}={_printable(value)}" for name, value in line.ids.items())
        return f"<{self._priority}>{self._tag}[{os.getpid()}]: {f'[{ids}] ' if ids else ''}"

    def _rfc5424(self, line: Line) -> str:
        stamp = datetime.fromtimestamp(line.time, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        values = " ".join(f'{_sd_name(name)}="{_sd_value(value)}"' for name, value in line.ids.items())
        # 32473 is the enterprise number for examples (RFC 5612): this program has none of its own.
        data = f"[linetrace@32473 {values}]" if values else "-"
        return f"<{self._priority}>1 {stamp} {self._host} {self._tag} {os.getpid()} {line.kind} {data} "


def cut(text: str, octets: int) -> bytes:
    """The text as UTF-8 of at most so many octets; a mark at its end tells how many characters were cut."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= octets:
        return data
    kept = data[: octets - 40].decode("utf-8", "ignore")
    return f"{kept}… [{len(data) - len(kept.encode()):,} octets cut]".encode()


def open_sink(
    name: str, *, json: bool = False, facility: str = "user", tag: str = "linetrace", form: Form = "plain"
) -> Sink:
    """The sink of a name. A file is made readable by its owner only, and is appended to. Raises SinkError."""
    kind, _, rest = name.partition(":")
    try:
        if kind == "file" and rest:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            return DescriptorSink(_out_of_the_way(os.open(rest, flags, 0o600), own=True), json=json)
        if kind in ("stdout", "stderr", "fd") and bool(rest) == (kind == "fd"):
            number = {"stdout": 1, "stderr": 2}.get(kind)
            return DescriptorSink(_out_of_the_way(int(rest) if number is None else number, own=False), json=json)
    except (OSError, ValueError) as error:
        raise SinkError(f"{name} cannot be written: {getattr(error, 'strerror', None) or error}") from error
    if kind == "syslog":
        return SyslogSink(rest or DEV_LOG, facility=facility, tag=tag, form=form)
    raise SinkError(f"there is no sink {name!r}: use stdout, stderr, fd:N, file:PATH, syslog or syslog:PATH")


def _out_of_the_way(descriptor: int, *, own: bool) -> int:
    """A copy of the descriptor with a high number: the program's own files keep the numbers that they have untraced."""
    import fcntl

    try:
        copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _fcntl_high)
    except OSError:
        if not own:
            return os.dup(descriptor)
        return descriptor  # fewer descriptors are allowed
    if own:
        os.close(descriptor)
    return copy


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() and letter not in " []" else "?" for letter in text)[:128]


def _sd_name(name: str) -> str:
    """RFC 5424, section 6.3.3: an SD-NAME has up to 32 printable ASCII characters, without `=`, space, `]` and `"`."""
    return "".join(letter for letter in name if "!" <= letter <= "~" and letter not in '="]')[:32] or "id"


def _sd_value(text: str) -> str:
    """RFC 5424, section 6.3.3: `"`, `\\` and `]` are escaped in a PARAM-VALUE."""
    escaped = "".join(letter if letter.isprintable() else "?" for letter in text[:128])
    return escaped.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
