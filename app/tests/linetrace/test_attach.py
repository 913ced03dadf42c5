"""The command `attach`: what it shows, how it ends, and that a process is disarmed whatever becomes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.linetrace.running import PACKAGE, write
from tests.linetrace.test_control import Client

SERVER = """\
import sys, time
import linetrace
linetrace.listen(".", "server", ["."])
print(sorted(name for name in sys.modules if "linetrace" in name), flush=True)
def work(n):
    return n + 1
while True:
    with linetrace.request("GET", "/work"):
        work(1)
    with linetrace.bound(upload="u7"):
        work(1)
    time.sleep(0.01)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that listens and works; its socket."""
    write(tmp_path, {"main.py": SERVER})
    environment = {"PYTHONPATH": str(PACKAGE.parent)}
    process = subprocess.Popen(
        [sys.executable, "main.py"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    # Nothing but the listener, which every process has, until somebody connects.
    assert process.stdout.readline() == "['linetrace', 'linetrace.listener', 'linetrace.peer']\n"
    yield process, tmp_path / f"server-{process.pid}.sock"
    process.kill()
    process.wait()
    process.stdout.close()


LATE = """\
import sys
import linetrace
linetrace.listen(".", "server", ["."])
print(flush=True)
sys.stdin.readline()
import threading
print(threading.main_thread() is threading.current_thread())
"""


def test_the_main_thread_stays_the_main_thread(tmp_path: Path) -> None:
    write(tmp_path, {"main.py": LATE})
    with subprocess.Popen(
        [sys.executable, "main.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(PACKAGE.parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert '"tool": null' in attach(tmp_path, "--status").communicate(timeout=20)[0]
        assert process.communicate("\n", timeout=20)[0] == "True\n"


def attach(*words: str | Path) -> subprocess.Popen[str]:
    """The command, running."""
    return subprocess.Popen(
        [sys.executable, "-m", "linetrace", "attach", *map(str, words)],
        env={"PYTHONPATH": str(PACKAGE.parent), "LOGNAME": "ann"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_shows_lines_and_ends_at_its_limit(server: tuple[subprocess.Popen[str], Path]) -> None:
    process, path = server
    command = attach(path, "--function", "work", "--lines", "2")
    output, errors = command.communicate(timeout=20)
    assert (command.returncode, output) == (0, "__main__:6:     return n + 1\n" * 2)
    assert errors == ("linetrace: armed: __main__.work\nlinetrace: ended: it has shown 2 lines; 2 lines, 0 dropped\n")
    assert process.poll() is None


def test_the_command_ends_the_trace_at_ctrl_c_and_the_process_is_disarmed(
    server: tuple[subprocess.Popen[str], Path],
) -> None:
    _, path = server
    command = attach(path, "--json")
    assert command.stdout is not None
    while json.loads(command.stdout.readline())["type"] != "line":
        pass
    command.send_signal(signal.SIGINT)
    output, _ = command.communicate(timeout=20)
    assert command.returncode == 0
    assert json.loads(output.splitlines()[-1])["reason"] == "the client ended it"
    status = attach(path, "--status")
    found = json.loads(status.communicate(timeout=20)[0])[path.stem]
    assert (found["traces"], found["tool"], found["code_with_events"]) == ([], None, 0)


def test_killing_the_command_disarms_the_process(server: tuple[subprocess.Popen[str], Path]) -> None:
    _, path = server
    command = attach(path)
    assert command.stdout is not None
    command.stdout.readline()
    command.kill()
    command.communicate()
    client = Client(path)
    deadline = time.monotonic() + 5
    while True:
        client.say("status")
        if client.hear("status")["tool"] is None:
            break
        assert time.monotonic() < deadline
    client.close()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[str]]:
    """Two processes that listen in one folder, and work; their names, in order."""
    write(tmp_path, {"main.py": SERVER})
    command = [sys.executable, "main.py"]
    environment = {"PYTHONPATH": str(PACKAGE.parent)}
    running = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    yield sorted(f"server-{process.pid}" for process in running)
    for process in running:
        assert process.stdout is not None
        process.kill()
        process.wait()
        process.stdout.close()


def test_all_processes_of_a_folder_are_traced(servers: list[str], tmp_path: Path) -> None:
    command = attach(tmp_path, "/no/such/folder", "--json", "--lines", "3")
    output, _ = command.communicate(timeout=20)
    messages = [json.loads(line) for line in output.splitlines()]
    for name in servers:
        assert [message["type"] for message in messages if message["process"] == name][-1] == "ended"
    (lost,) = [message for message in messages if message["process"] == "folder"]
    assert lost["type"] == "refused"
    assert "there is no such socket" in lost["error"]
    assert command.returncode == 1
    status, _ = attach(tmp_path, "--status").communicate(timeout=20)
    assert {name: found["traces"] for name, found in json.loads(status).items()} == {name: [] for name in servers}


def test_lines_of_several_processes_have_their_names(servers: list[str], tmp_path: Path) -> None:
    output, errors = attach(tmp_path, "--function", "work", "--lines", "1").communicate(timeout=20)
    assert sorted(output.splitlines()) == [f"{name} __main__:6:     return n + 1" for name in servers]
    assert sorted(errors.splitlines())[0] == f"linetrace: {servers[0]} armed: __main__.work"


def test_the_caller_names_what_to_follow(server: tuple[subprocess.Popen[str], Path]) -> None:
    _, path = server
    command = attach(path, "--json", "--while-fed", "30", "--next", "--method", "PUT", "--follow", "upload")
    assert command.stdin is not None
    assert command.stdout is not None
    command.stdin.write("\nfollow u7\n")
    command.stdin.flush()
    while (message := json.loads(command.stdout.readline()))["type"] != "line":
        pass
    assert message["ids"] == {"upload": "u7"}
    _, errors = command.communicate(timeout=20)
    assert (command.returncode, errors) == (0, "")


def test_the_command_ends_when_its_input_ends(server: tuple[subprocess.Popen[str], Path]) -> None:
    _, path = server
    command = attach(path, "--while-fed", "30")
    assert command.stdout is not None
    command.stdout.readline()
    _, errors = command.communicate(timeout=20)
    assert command.returncode == 0
    assert "ended: the client ended it" in errors


def test_a_caller_that_falls_silent_ends_the_trace_though_nobody_reads_the_lines(
    server: tuple[subprocess.Popen[str], Path],
) -> None:
    _, path = server
    with attach(path, "--json", "--while-fed", "3", "--seconds", "600", "--per-location", "1000000") as command:
        assert command.stdin is not None
        assert command.stdout is not None
        until_armed(path, armed=True)
        command.stdin.write("\n")
        command.stdin.flush()
        until_armed(path, armed=False)
        reasons = [message["reason"] for line in command.stdout if (message := json.loads(line))["type"] == "ended"]
    assert reasons == ["its caller is silent"]


def until_armed(path: Path, *, armed: bool) -> None:
    """Wait until the process says that something is armed in it, or that nothing is."""
    client = Client(path)
    deadline = time.monotonic() + 20
    try:
        while True:
            client.say("status")
            if (client.hear("status")["tool"] is not None) == armed:
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        client.close()


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["/no/such.sock"], 1, "there is no such socket"),
        (["SOCKET", "--lines", "0"], 2, "lines is above 0"),
        (["SOCKET", "--next", "--job", "5"], 2, "--next is for requests that have no id yet"),
        (["SOCKET", "--to", "mail"], 1, "refused: a trace goes to client or syslog, not mail"),
        (["SOCKET", "--to", "syslog", "--seconds", "1"], 1, "refused: there is no syslog at /dev/log"),
    ],
)
def test_what_goes_wrong_is_said(
    server: tuple[subprocess.Popen[str], Path], words: list[str], code: int, reason: str
) -> None:
    _, path = server
    command = attach(*[str(path) if word == "SOCKET" else word for word in words])
    _, errors = command.communicate(timeout=20)
    if reason.endswith("/dev/log") and Path("/dev/log").exists():
        assert command.returncode == 0
    else:
        assert command.returncode == code
        assert reason in errors


def test_the_end_of_the_process_is_said(server: tuple[subprocess.Popen[str], Path]) -> None:
    process, path = server
    command = attach(path)
    assert command.stdout is not None
    command.stdout.readline()
    process.kill()
    _, errors = command.communicate(timeout=20)
    assert command.returncode == 1
    assert "the connection was lost" in errors
    dead = attach(path)
    assert "nobody listens: the process has ended" in dead.communicate(timeout=20)[1]


FORKING = """\
import os, time
import linetrace
linetrace.listen(".", "server", ["."])
open("ready", "w").close()
while not os.path.exists("fork"):
    time.sleep(0.01)
child = os.fork()
if child:
    with open("child", "w") as file:
        file.write(f"{child}\\n")
time.sleep(60)
"""


def test_a_forked_child_does_not_hold_the_connection_of_a_dead_process(tmp_path: Path) -> None:
    write(tmp_path, {"main.py": FORKING})
    environment = {"PYTHONPATH": str(PACKAGE.parent)}
    with subprocess.Popen([sys.executable, "main.py"], cwd=tmp_path, env=environment) as process:
        try:
            _wait_for(tmp_path / "ready", "")
            client = Client(tmp_path / f"server-{process.pid}.sock")
            client.arm()
            (tmp_path / "fork").touch()
            child = int(_wait_for(tmp_path / "child", "\n"))
            process.kill()
            try:
                while client.socket.recv(65_536):  # fails after 10 s
                    pass
            finally:
                os.kill(child, signal.SIGKILL)
            client.close()
        finally:
            process.kill()


def _wait_for(path: Path, end: str) -> str:
    """The text of a file when it ends so."""
    deadline = time.monotonic() + 10
    while not path.exists() or not path.read_text().endswith(end):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return path.read_text()


FULL = """\
import os, resource, sys
import linetrace
linetrace.listen(".", "server", ["."])
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
lowest = os.dup(0)
os.close(lowest)
resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
print("full", flush=True)
sys.stdin.readline()
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
sys.stdin.readline()
"""


def test_a_process_that_had_no_descriptor_free_can_be_traced_later(tmp_path: Path) -> None:
    write(tmp_path, {"main.py": FULL})
    with subprocess.Popen(
        [sys.executable, "main.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(PACKAGE.parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "full\n"
        client = Client(tmp_path / f"server-{process.pid}.sock")  # waits in the kernel
        time.sleep(0.3)
        process.stdin.write("\n")
        process.stdin.flush()
        assert client.hear("hello")["program"] == "server"
        client.close()
