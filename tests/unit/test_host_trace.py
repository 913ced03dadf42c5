"""The command on a host is fed whatever the rest of this program does, and hears what to follow once it runs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from ops.environment import Host
from ops.trace import host_trace
from ops.trace.host_trace import HostTrace
from ops.trace.order import order
from tests.support.waiting import until


class Channel:
    """In place of SSH's: keeps what is sent, and ends when the other side closes it."""

    def __init__(self) -> None:
        self.sent = b""
        self.closed = threading.Event()

    def exec_command(self, line: str) -> None:
        self.line = line

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def shutdown_write(self) -> None:
        self.closed.set()

    def recv(self, _size: int) -> bytes:
        self.closed.wait(20)
        return b""

    def makefile_stderr(self, _mode: str) -> Any:
        return SimpleNamespace(read=lambda: b"")

    def recv_exit_status(self) -> int:
        return 0


def test_the_command_is_fed_though_nobody_takes_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_trace, "FEED_SECONDS", 0.05)
    channel, reached = Channel(), threading.Event()

    @contextmanager
    def connection(_host: Host) -> Iterator[Any]:
        reached.wait(20)
        transport = SimpleNamespace(open_session=lambda: channel)
        yield SimpleNamespace(open=lambda: None, client=SimpleNamespace(get_transport=lambda: transport))

    environment: Any = SimpleNamespace(connection=connection)
    host = Host("web1", frozenset({"web"}), {})
    events: queue.Queue[Any] = queue.Queue()
    trace = HostTrace(environment, host, order(user="ann"), [], events)
    trace.follow("u1")  # before there is a connection
    reached.set()
    until(lambda: channel.sent.count(b"\n") > 4, "lines that keep the command alive")
    assert channel.sent.startswith(b"follow u1\n\n")
    assert "--while-fed=" in channel.line
    trace.stop()
    assert events.get(timeout=20) == (trace, None)
