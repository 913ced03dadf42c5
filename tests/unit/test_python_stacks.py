"""The program that tells the stacks of a host, with real processes, a real py-spy and a made-up systemd."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ops.on_host import python_stacks
from ops.paths import APP, tool

LISTENS = """\
import sys, time
import linetrace
linetrace.listen(sys.argv[1], "web", [sys.argv[2]])
def serves():
    print(flush=True)
    time.sleep(60)
serves()
"""
SCRIPT = """\
import threading
def waits():
    threading.Event().wait()
threading.Thread(target=waits, name="waiter", daemon=True).start()
def computes():
    print(flush=True)
    while True:
        pass
computes()
"""
HOLDS_THE_INTERPRETER = """\
import ctypes
library = ctypes.PyDLL(None)
def calls():
    print(flush=True)
    library.sleep(60)
calls()
"""


class Place:
    """A host below a folder. Services are added to what systemctl says, processes to their control groups."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.said: list[str] = []
        self.running: list[subprocess.Popen[str]] = []
        self.program("systemctl", 'cat "$0.says"')
        for folder in ("processors", "run", "cgroup"):
            (root / folder).mkdir()

    def program(self, name: str, script: str) -> Path:
        """Install a program of a name."""
        path = self.root / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def service(self, name: str, state: str = "active") -> Path:
        """Let systemd have a service, of which it tells if it is ours; returns its control group."""
        group = self.root / "cgroup" / "system.slice" / name if state == "active" else Path()
        control_group = f"/system.slice/{name}" if state == "active" else ""
        if name.startswith("longhaul-"):
            self.said.append(f"Id={name}\nActiveState={state}\nControlGroup={control_group}\n")
        (self.root / "bin" / "systemctl.says").write_text("\n".join(self.said))
        if state == "active":
            group.mkdir(parents=True)
            (group / "cgroup.procs").write_text("")
        return group

    def start(self, group: Path, *command: str | Path) -> int:
        """Start a program in a control group, and wait for its first line; returns its process id."""
        process = subprocess.Popen(
            [*map(str, command)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(APP)}
        )
        self.running.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        with (group / "cgroup.procs").open("a") as file:
            file.write(f"{process.pid}\n")
        return process.pid

    def python(self, group: Path, text: str, name: str = "work.py", *arguments: str | Path) -> int:
        """Start a Python program, which lies where processors do."""
        script = self.root / "processors" / name
        script.write_text(text)
        return self.start(group, sys.executable, script, *arguments)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    made = Place(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(APP))
    monkeypatch.setattr(python_stacks, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(python_stacks, "HOME", tmp_path)
    monkeypatch.setattr(python_stacks, "ATTACH", (sys.executable, "-B", "-m", "linetrace", "attach", "--stacks"))
    monkeypatch.setattr(python_stacks, "PY_SPY", Path(tool("py-spy")))
    units = {name: (service, str(tmp_path / "run")) for name, (service, _) in python_stacks.UNITS.items()}
    units["processor"] = (units["processor"][0], "")
    monkeypatch.setattr(python_stacks, "UNITS", units)
    yield made
    for process in made.running:
        process.kill()
        process.communicate()


def functions(process: dict[str, Any], thread: str = "MainThread") -> list[str]:
    """The functions of a thread's stack, of our own files."""
    (found,) = (each for each in process["threads"] if each["name"] == thread)
    frames = [process["frames"][number] for number in found["stack"]]
    return [frame["function"] for frame in frames if frame["own"]]


def test_those_that_listen_are_asked_and_others_are_read_from_outside(place: Place) -> None:
    web = place.service("longhaul-web.service")
    processor = place.service("longhaul-processor@7-1-0.service")
    listening = place.python(web, LISTENS, "serves.py", place.root / "run", place.root)
    computing = place.python(processor, SCRIPT, "inspect_file.py", "--file", "secret.bin")
    other = place.start(processor, "sh", "-c", "echo; kill -STOP $$")
    found = json.loads(json.dumps(python_stacks.stacks(["web", "processor"])))
    assert found["services"] == [
        {"name": "longhaul-web.service", "unit": "web", "state": "active"},
        {"name": "longhaul-processor@7-1-0.service", "unit": "processor", "state": "active"},
    ]
    told, read, neither = (
        next(each for each in found["processes"] if each["pid"] == pid) for pid in (listening, computing, other)
    )
    assert (told["by"], told["program"], told["python"]) == (
        "itself",
        "serves.py",
        sys.version.split()[0],
    )
    assert functions(told) == ["<module>", "serves"]
    assert (read["by"], read["program"], read["unit"]) == ("py-spy", "inspect_file.py", "processor")
    assert "why" not in read
    assert functions(read) == ["<module>", "computes"]
    assert functions(read, "waiter") == ["waits"]
    main, waiter = read["threads"]
    assert (main["name"], main["holds"], waiter["holds"]) == ("MainThread", True, False)
    assert read["frames"][main["stack"][0]]["source"] == "computes()"
    shell = Path("/bin/sh").resolve().name
    assert (neither["program"], neither["error"]) == (shell, "it does not run Python")


def test_one_that_does_not_answer_is_read_from_outside(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = place.python(place.service("longhaul-web.service"), HOLDS_THE_INTERPRETER)
    (place.root / "run" / f"web-{pid}.sock").touch()
    answer = json.dumps({f"web-{pid}": {"error": "does not answer: nothing came for 5 s"}})
    monkeypatch.setattr(python_stacks, "ATTACH", (place.program("attach", f"echo '{answer}'; exit 1"),))
    (process,) = python_stacks.stacks(["web"])["processes"]
    assert (process["by"], process["why"]) == ("py-spy", "does not answer: nothing came for 5 s")
    assert functions(process) == ["<module>", "calls"]
    assert process["threads"][0]["holds"]


def test_one_that_is_stopped_is_read_while_it_is(place: Place) -> None:
    pid = place.python(place.service("longhaul-processor@7-1-0.service"), SCRIPT)
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    (process,) = python_stacks.stacks(["processor"])["processes"]
    assert process["state"] == "T (stopped)"
    assert functions(process) == ["<module>", "computes"]


def test_an_older_release_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = place.python(place.service("longhaul-web.service"), SCRIPT)
    (place.root / "run" / f"web-{pid}.sock").touch()
    refuses = place.program("attach", "echo 'usage: ...\nerror: unrecognized arguments: --stacks' >&2; exit 2")
    monkeypatch.setattr(python_stacks, "ATTACH", (refuses,))
    monkeypatch.setattr(python_stacks, "PY_SPY", place.root / "none")
    (process,) = python_stacks.stacks(["web"])["processes"]
    assert process["why"] == "error: unrecognized arguments: --stacks"
    assert process["error"] == "the release that is installed here has no py-spy: deploy a newer one"


def test_why_py_spy_fails_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.python(place.service("longhaul-processor@7-1-0.service"), SCRIPT)
    says = "Error: Failed to open\n\nCaused by:\n    0: Permission denied (os error 13)\n\nStack backtrace:\n   0: x"
    monkeypatch.setattr(python_stacks, "PY_SPY", place.program("py-spy", f"echo '{says}' >&2; exit 1"))
    (process,) = python_stacks.stacks(["processor"])["processes"]
    assert process["error"] == "py-spy cannot read it: Failed to open; Permission denied (os error 13)"


def test_programs_that_hang_themselves_are_not_waited_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = place.python(place.service("longhaul-web.service"), SCRIPT)
    (place.root / "run" / f"web-{pid}.sock").touch()
    hangs = place.program("hangs", "exec sleep 20")
    monkeypatch.setattr(python_stacks, "ATTACH", (hangs,))
    monkeypatch.setattr(python_stacks, "ATTACH_SECONDS", 0.1)
    monkeypatch.setattr(python_stacks, "PY_SPY", hangs)
    monkeypatch.setattr(python_stacks, "PY_SPY_SECONDS", 0.1)
    (process,) = python_stacks.stacks(["web"])["processes"]
    assert "timed out after 0.1 seconds" in process["why"]
    assert process["error"] == "py-spy cannot read it: it took longer than 0.1 s"


def test_the_main_thread_is_known_in_a_namespace_of_process_ids() -> None:
    trace = {"pid": 4711, "thread_id": 7, "thread_name": None, "owns_gil": False, "frames": []}
    found = python_stacks.converted([{**trace, "os_thread_id": 1}, {**trace, "os_thread_id": 2}], inner_pid=2)
    assert [thread["name"] for thread in found["threads"]] == ["MainThread", ""]


def test_the_thread_of_the_listener_is_left_out() -> None:
    frame = {"filename": "/x/linetrace/listener.py", "line": 1, "name": "Listener._accept"}
    other = {"filename": "/x/work.py", "line": 1, "name": "works"}
    trace = {"pid": 7, "thread_id": 7, "thread_name": "one", "owns_gil": False, "os_thread_id": 7}
    found = python_stacks.converted([{**trace, "frames": [frame]}, {**trace, "frames": [frame, other]}], 7)
    assert [len(thread["stack"]) for thread in found["threads"]] == [2]


def test_services_without_processes_are_told(place: Place) -> None:
    place.service("longhaul-web.service", "failed")
    place.service("longhaul-worker.service")
    place.python(place.service("other.service"), SCRIPT)
    assert python_stacks.stacks(["web", "worker"]) == {
        "services": [
            {"name": "longhaul-web.service", "unit": "web", "state": "failed"},
            {"name": "longhaul-worker.service", "unit": "worker", "state": "active"},
        ],
        "processes": [],
    }


def test_a_process_that_ends_meanwhile_is_left_out(place: Place) -> None:
    group = place.service("longhaul-worker.service")
    (group / "cgroup.procs").write_text("4194304\n")  # one above the largest process id
    assert python_stacks.stacks(["worker"])["processes"] == []


@pytest.mark.parametrize(
    ("words", "program"),
    [
        (["/opt/python", "/opt/longhaul/current/venv/bin/longhaul", "web"], "longhaul web"),
        (["/opt/python", "-u", "/opt/longhaul/processors/inspect_file.py", "private.bin"], "inspect_file.py"),
        (["python3"], "python3"),
        ([], "python"),
    ],
)
def test_a_program_is_named_without_its_arguments(words: list[str], program: str) -> None:
    assert python_stacks.program(words) == program


def test_only_our_sources_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, private = tmp_path / "home", tmp_path / "private.py"
    home.mkdir()
    monkeypatch.setattr(python_stacks, "HOME", home)
    private.write_text("password = 1\n")
    (home / "link.py").symlink_to(private)
    (home / "own.py").write_text("first\nsecond")
    (home / "text.txt").write_text("first\n")
    os.mkfifo(home / "pipe.py")
    read: Callable[..., str] = lambda path, line=1: python_stacks.source(str(path), line, {})  # noqa: E731
    assert read(home / "own.py", 2) == "second"
    assert [read(home / "own.py", line) for line in (-1, 0, 3)] == ["", "", ""]
    for path in (private, home / "link.py", home / "text.txt", home / "pipe.py", home / "none.py", "<string>", "a\0b"):
        assert read(path) == "", path


def test_whose_frames_are_own(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries = "/opt/longhaul/releases/1/venv/lib/python3.13/site-packages"
    own = [
        f"{libraries}/longhaul/cli.py",
        "/opt/longhaul/releases/1/processors/x.py",
        "/opt/longhaul/shipments/2/processors/x.py",
    ]
    others = [
        f"{libraries}/starlette/x.py",
        f"{libraries}/linetrace/x.py",
        "/usr/lib/python3.13/threading.py",
        "<frozen runpy>",
    ]
    assert [python_stacks.is_own(file) for file in own + others] == [True] * 3 + [False] * 4
