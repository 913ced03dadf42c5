"""The control socket: who may use it, what it says, and that a trace ends with its connection."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import linetrace
from linetrace import listener, peer
from linetrace.control import PROTOCOL
from tests.linetrace.running import module, nothing_is_armed

NOBODY = 65_534


class Client:
    """A client of a control socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        self._lines = self.socket.makefile("rb")

    def say(self, kind: str, **values: object) -> None:
        """Send a message."""
        self.socket.sendall(json.dumps({"type": kind, **values}).encode() + b"\n")

    def hear(self, *kinds: str) -> dict[str, Any]:
        """The next message of one of these kinds."""
        while line := self._lines.readline():
            message: dict[str, Any] = json.loads(line)
            if message["type"] in kinds:
                return message
        raise AssertionError(f"the connection was closed before any of {kinds}")

    def arm(self, **values: object) -> dict[str, Any]:
        """Ask for a trace, and return the answer."""
        self.say("arm", protocol=PROTOCOL, **values)
        return self.hear("armed", "refused")

    def close(self) -> None:
        """Go away without a word."""
        self._lines.close()
        self.socket.close()


class Place:
    """A listening process (this one), with a module to run."""

    def __init__(self, folder: Path) -> None:
        self.listening = linetrace.listen(folder, "app", [folder])
        self.path = self.listening.path
        self.module: ModuleType = module(folder, "def f(n):\n    return n + 1\ndef g(n):\n    return f(n)\n")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.listening.close()


def until_disarmed(seconds: float = 10) -> None:
    """Wait until nothing is armed in this process."""
    deadline = time.monotonic() + seconds
    while not nothing_is_armed():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_socket_is_its_users_alone(place: Place, tmp_path: Path) -> None:
    assert place.path == tmp_path / f"app-{os.getpid()}.sock"
    assert stat.S_IMODE(place.path.stat().st_mode) == 0o600
    place.listening.close()
    assert not place.path.exists()


def test_other_users_are_turned_away(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "peer", lambda _connection: (1, os.geteuid() + 1))
    client = Client(place.path)
    assert client.socket.recv(10) == b""
    client.close()


def as_other_user(path: Path) -> str:
    """What a process of the user nobody meets at the socket; if this is not root, it stays this user."""
    child = os.fork()
    if child == 0:
        answer = 3
        try:
            if os.geteuid() == 0:
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            with socket.socket(socket.AF_UNIX) as trying:
                trying.connect(str(path))
                answer = 0 if trying.recv(9) else 1
        except PermissionError:
            answer = 2
        finally:
            os._exit(answer)
    return ["let in", "turned away", "no permission", "failed"][os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]


def test_another_user_can_neither_connect_nor_talk(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)  # so that it is the socket that keeps the other user out
    made = Place(tmp_path)
    expected = ["no permission", "turned away"] if os.geteuid() == 0 else ["let in", "let in"]
    found = [as_other_user(made.path)]
    made.path.chmod(0o666)
    found.append(as_other_user(made.path))
    made.listening.close()
    assert found == expected


def test_hello_and_status(place: Place, tmp_path: Path) -> None:
    client = Client(place.path)
    hello = client.hear("hello")
    assert hello == {
        "type": "hello",
        "protocol": PROTOCOL,
        "program": "app",
        "pid": os.getpid(),
        "python": sys.version.split()[0],
        "folders": [str(tmp_path)],
    }
    client.say("status")
    assert client.hear("status") == {"type": "status", "traces": [], "tool": None, "code_with_events": 0}
    client.close()


def test_a_trace_from_arming_to_its_end(place: Place) -> None:
    client, looking = Client(place.path), Client(place.path)
    armed = client.arm(limits={"seconds": 20}, ids={"host": "web1"}, by="ann", reason="slow page")
    assert armed["selection"] == {"kind": "everything"}
    assert armed["limits"]["seconds"] == 20
    place.module.g(1)
    lines = [client.hear("line") for _ in range(2)]
    name = place.module.__name__
    assert [(line["module"], line["line"], line["source"]) for line in lines] == [
        (name, 4, "    return f(n)"),
        (name, 2, "    return n + 1"),
    ]
    assert lines[0]["ids"] == {"host": "web1"}
    looking.say("status")
    (trace,) = looking.hear("status")["traces"]
    assert (trace["by"], trace["reason"], trace["lines"]) == ("ann", "slow page", 2)
    assert 0 < client.hear("count")["seconds_left"] <= 20
    client.say("stop")
    ended = client.hear("ended")
    assert ended == {"type": "ended", "reason": "the client ended it", "lines": 2, "dropped": 0, "repeated": 0}
    assert client.socket.recv(1) == b""
    looking.say("status")
    assert looking.hear("status") == {"type": "status", "traces": [], "tool": None, "code_with_events": 0}
    client.close()
    looking.close()


def test_two_clients_trace_beside_each_other(place: Place) -> None:
    first, second = Client(place.path), Client(place.path)
    first.arm(selection={"kind": "ids", "ids": {"job": "1"}})
    second.arm(selection={"kind": "function", "function": "*.f"})
    with linetrace.bound(job=1):
        place.module.g(1)
    place.module.g(1)
    for client in (first, second):
        client.say("stop")
    assert first.hear("ended")["lines"] == 2
    assert second.hear("ended")["lines"] == 2
    first.close()
    second.close()


def test_a_lost_connection_ends_its_trace_and_no_other(place: Place) -> None:
    first, second = Client(place.path), Client(place.path)
    first.arm()
    second.arm()
    first.close()
    second.say("status")
    deadline = time.monotonic() + 5
    while len(second.hear("status")["traces"]) == 2:
        assert time.monotonic() < deadline
        second.say("status")
    place.module.f(1)
    assert second.hear("line")["line"] == 2
    second.close()
    until_disarmed()


def test_a_client_that_is_silent_for_longer_than_its_lease(place: Place) -> None:
    client = Client(place.path)
    client.arm(lease=1)
    for _ in range(3):
        time.sleep(0.5)
        client.say("alive")
    assert not nothing_is_armed()
    assert client.hear("ended")["reason"] == "the client was silent for longer than its lease"
    client.close()


def test_a_client_that_reads_nothing_loses_its_trace(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linetrace.control.SEND_SECONDS", 1)
    client = Client(place.path)
    client.arm(limits={"per_location": 10**6, "per_second": 10**6, "lines": 10**6})
    deadline = time.monotonic() + 20
    while not nothing_is_armed():
        assert time.monotonic() < deadline
        place.module.g(1)
    client.close()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"protocol": 99}, "this process speaks protocol 1, the client 99"),
        ({"selection": {"kind": "some"}}, "a selection has one of these kinds"),
        ({"limits": {"lines": -1}}, "lines is above 0"),
        ({"options": {"calls": "yes"}}, "the option calls is true or false"),
        ({"to": ["mail"]}, "a trace goes to client or syslog, not mail"),
        ({"to": "client"}, "to is a list of texts"),
        ({"ids": {"a": 1}}, "ids are texts by name"),
        ({"lease": 0.1}, "a lease is 1 to 3600 seconds"),
    ],
    ids=str,
)
def test_wrong_messages_are_refused_and_the_connection_stays(place: Place, values: Any, reason: str) -> None:
    client = Client(place.path)
    client.say("arm", **({"protocol": PROTOCOL} | values))
    assert reason in client.hear("refused")["error"]
    assert client.arm()["type"] == "armed"
    assert "has a trace; connect again" in client.arm()["error"]
    client.close()
    until_disarmed()


@pytest.mark.parametrize("message", [b"no json\n", b"[]\n", b'{"type": "dance"}\n', b'"x"\n'], ids=repr)
def test_what_is_no_message_is_refused(place: Place, message: bytes) -> None:
    client = Client(place.path)
    client.socket.sendall(message)
    assert client.hear("refused")["error"]
    client.close()


def test_an_endless_message_ends_the_connection(place: Place) -> None:
    client = Client(place.path)
    client.hear("hello")
    client.socket.sendall(b"x" * 70_000)
    assert client.socket.recv(1) == b""
    client.close()


def test_an_unknown_function_is_noticed_when_arming(place: Place) -> None:
    client = Client(place.path)
    name = place.module.__name__
    armed = client.arm(selection={"kind": "function", "function": f"{name}.ff"})
    assert armed["functions"] == []
    assert f"{name}.f" in armed["near"]
    client.close()
    until_disarmed()
    client = Client(place.path)
    assert f"{name}.f" in client.arm(selection={"kind": "function", "function": "ff"})["near"]
    client.close()
    until_disarmed()
    client = Client(place.path)
    assert client.arm(selection={"kind": "function", "function": "*.f"})["functions"] == [f"{name}.f"]
    client.close()
    until_disarmed()


def test_sockets_of_killed_processes_are_removed(tmp_path: Path, place: Place) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(tmp_path / "app-99999999.sock"))
    listener.remove_stale(tmp_path)
    assert [path.name for path in tmp_path.glob("*.sock")] == [place.path.name]


def test_a_forked_child_listens_on_a_socket_of_its_own(place: Place, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    path = tmp_path / f"app-{child}.sock"
    deadline = time.monotonic() + 5
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    client = Client(path)
    assert client.hear("hello")["pid"] == child
    client.close()
    own = Client(place.path)
    assert own.hear("hello")["pid"] == os.getpid()
    own.close()
    os.close(writing)
    os.waitpid(child, 0)


def test_a_listening_process_has_one_more_thread_and_nothing_else(tmp_path: Path) -> None:
    before = threading.active_count()
    listening = linetrace.listen(tmp_path, "quiet", [tmp_path])
    assert threading.active_count() == before  # a thread of _thread: the program does not wait for it
    assert nothing_is_armed()
    listening.close()


def test_the_default_folder_is_private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{tmp_path}:/other")
    assert listener.default_directory() == tmp_path
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    path = listener.default_directory()
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    monkeypatch.setattr(Path, "lstat", lambda _: path.stat())
    with pytest.raises(PermissionError, match="is not a folder that only this user can enter"):
        listener.default_directory()
