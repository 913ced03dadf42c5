"""Stacks of an environment: who is asked, what is put together, and how it is shown."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ops import remote
from ops.console import console
from ops.environment import Environment, Host, Kind
from ops.errors import Exit, Failure
from ops.tasks import trace as tasks
from ops.trace import stacks
from ops.trace.stacks import Rank, shared_stacks
from ops.trace.stacks_text import BRIGHT, DIM, RED, RESET, Look, library, short, text

RELEASE = "/opt/longhaul/releases/20261129T125924-6bfa0457c06a"
LIBRARIES = f"{RELEASE}/venv/lib/python3.13/site-packages"
TAKE = (f"{LIBRARIES}/longhaul/uploads/receiving.py", 88, "Receiver.take", "piece = await self._pieces.get()")
SERVE = (f"{LIBRARIES}/longhaul/web/tus.py", 41, "serve", "await receiver.take()")
GET = ("/usr/lib/python3.13/asyncio/queues.py", 186, "Queue.get", "await getter")
APP = (f"{LIBRARIES}/starlette/routing.py", 65, "Router.app", "await route()")
ASGI = (f"{LIBRARIES}/uvicorn/protocols/http/httptools_impl.py", 422, "run_asgi", "await app()")
SELECT = ("/usr/lib/python3.13/selectors.py", 452, "EpollSelector.select", "poll()")
RUN = (f"{LIBRARIES}/longhaul/cli.py", 20, "main", "asyncio.run(serve())")
UVLOOP = ("/usr/lib/python3.13/asyncio/runners.py", 118, "Runner.run", "run_until_complete()")
WORKER = ("/usr/lib/python3.13/concurrent/futures/thread.py", 90, "_worker", "work_queue.get(block=True)")
BOOTSTRAP = ("/usr/lib/python3.13/threading.py", 1012, "Thread._bootstrap", "self.run()")
WAIT = ("/usr/lib/python3.13/threading.py", 359, "Condition.wait", "waiter.acquire()")
ANYIO = (f"{LIBRARIES}/anyio/_backends/_asyncio.py", 1001, "WorkerThread.run", "self.queue.get()")


def process(
    *,
    threads: list[tuple[str, list[Any]]] | None = None,
    tasks: list[tuple[str, dict[str, str], list[Any]]] | None = None,
    **values: Any,
) -> dict[str, Any]:
    """A process as a host tells it, with stacks as tracebacks have them: the innermost frame last."""
    positions: dict[Any, int] = {}

    def numbers(stack: list[Any]) -> list[int]:
        return [positions.setdefault(frame, len(positions)) for frame in stack]

    made = {
        "service": "longhaul-web.service",
        "unit": "web",
        "pid": 4711,
        "program": "longhaul web",
        "state": "S (sleeping)",
        "by": "itself",
        "python": "3.13.5",
        "problems": [],
        "tasks_left_out": 0,
        "threads": [
            {"name": name, "ident": 7, "daemon": False, "task": None, "stack": numbers(stack), "left_out": 0}
            for name, stack in threads or ()
        ],
        "tasks": [
            {
                "name": name,
                "ids": ids,
                "state": "waiting",
                "cancelling": False,
                "waits_for": "asyncio.Future",
                "waits_for_task": "",
                "stack": numbers(stack),
                "left_out": 0,
            }
            for name, ids, stack in tasks or ()
        ],
        **values,
    }
    made["frames"] = [
        {
            "file": file,
            "line": line,
            "function": function,
            "source": source,
            "own": "longhaul/" in file[len(LIBRARIES) :],
        }
        for file, line, function, source in positions
    ]
    return made


def shown(*processes: dict[str, Any], **look: Any) -> list[str]:
    """The lines for processes of one host."""
    return list(text({"web1": {"services": [], "processes": list(processes)}}, Look(**look)))


UPLOADS = process(
    threads=[("MainThread", [RUN, UVLOOP])],
    tasks=[
        ("Task-1", {}, [ASGI, APP, ASGI, GET]),
        ("sweep", {}, [RUN, GET]),
        ("Task-2", {"upload": "u1", "user": "ann"}, [ASGI, APP, SERVE, TAKE, GET]),
        ("Task-3", {"upload": "u2"}, [ASGI, APP, SERVE, TAKE, GET]),
        ("Task-4", {"upload": "u3"}, [ASGI, APP, SERVE, TAKE, GET]),
    ],
)


def test_what_is_in_one_place_is_shown_once_with_our_own_lines() -> None:
    assert shown(UPLOADS) == [
        "web1 longhaul-web.service: longhaul web, process 4711, Python 3.13.5, 1 thread, 5 tasks",
        "  3 tasks waiting for asyncio.Future",
        "    upload=u1 user=ann; upload=u2; upload=u3",
        "    … 1 frame of asyncio: Queue.get",
        "    longhaul/uploads/receiving.py:88 Receiver.take: piece = await self._pieces.get()",
        "    longhaul/web/tus.py:41 serve: await receiver.take()",
        "    … 2 frames of starlette, uvicorn: Router.app",
        "  task sweep waiting for asyncio.Future",
        "    … 1 frame of asyncio: Queue.get",
        "    longhaul/cli.py:20 main: asyncio.run(serve())",
        "  thread MainThread waiting for events",
        "    … 1 frame of asyncio: Runner.run",
        "    longhaul/cli.py:20 main: asyncio.run(serve())",
        "  task Task-1 waiting for asyncio.Future",
        "    … 4 frames of asyncio, uvicorn, starlette: Queue.get",
        "",
    ]


def test_everything_has_the_frames_of_libraries_too() -> None:
    lines = shown(UPLOADS, everything=True)
    assert lines[3:8] == [
        "    asyncio/queues.py:186 Queue.get: await getter",
        "    longhaul/uploads/receiving.py:88 Receiver.take: piece = await self._pieces.get()",
        "    longhaul/web/tus.py:41 serve: await receiver.take()",
        "    starlette/routing.py:65 Router.app: await route()",
        "    uvicorn/protocols/http/httptools_impl.py:422 run_asgi: await app()",
    ]


def test_a_terminal_has_the_innermost_own_line_bright_and_libraries_dim() -> None:
    lines = shown(UPLOADS, coloured=True, columns=60)
    assert lines[2:7] == [
        "    upload=u1 user=ann; upload=u2; upload=u3",
        f"{DIM}    … 1 frame of asyncio: Queue.get{RESET}",
        f"{BRIGHT}    longhaul/uploads/receiving.py:88 Receiver.take: piece =…{RESET}",
        "    longhaul/web/tus.py:41 serve: await receiver.take()",
        f"{DIM}    … 2 frames of starlette, uvicorn: Router.app{RESET}",
    ]
    assert f"{DIM}    longhaul/cli.py:20 main: asyncio.run(serve()){RESET}" in lines  # of the loop that waits


def test_the_innermost_own_line_is_bright_below_lines_of_libraries_too() -> None:
    lines = shown(UPLOADS, coloured=True, everything=True)
    bright = [line for line in lines if line.startswith(BRIGHT)]
    assert [line.removeprefix(BRIGHT).split()[0] for line in bright] == [
        "longhaul/uploads/receiving.py:88",
        "longhaul/cli.py:20",
    ]


@pytest.mark.parametrize(
    ("name", "ids", "called"),
    [
        ("Task-5", {}, "Task-5"),
        ("Task-5", {"upload": "u1", "job": "5"}, "upload=u1 job=5"),
        ("sender", {"upload": "u1"}, "sender upload=u1"),
    ],
)
def test_a_task_is_called_by_its_ids_and_a_given_name(name: str, ids: dict[str, str], called: str) -> None:
    assert f"  task {called} waiting for asyncio.Future" in shown(process(tasks=[(name, ids, [TAKE])]))


def test_many_names_are_counted() -> None:
    tasks = [(f"Task-{number}", {"upload": f"u{number}"}, [TAKE]) for number in range(100)]
    lines = shown(process(tasks=tasks))
    assert "".join(lines[2:-2]).split("; ")[-2:] == ["upload=u11", "and 88 more"]
    everything = shown(process(tasks=tasks), everything=True)
    assert "upload=u99" in "".join(everything)
    assert max(map(len, everything)) <= 120


def test_the_task_that_a_thread_runs_is_shown_with_it() -> None:
    made = process(
        threads=[("other", [BOOTSTRAP, RUN]), ("MainThread", [RUN, UVLOOP, SERVE, TAKE])],
        tasks=[("Task-2", {"upload": "u1"}, [SERVE])],
    )
    made["tasks"][0]["state"] = "running"
    made["threads"][1]["task"] = 0
    found = shared_stacks(made)
    assert [(place.rank, place.kind, place.who) for place in found] == [
        (Rank.RUNS, "thread", ["MainThread for upload=u1"]),
        (Rank.OWN, "thread", ["other"]),
    ]
    assert "  thread MainThread for upload=u1 running a task of its event loop" in shown(made)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"waits_for": "asyncio.Task", "waits_for_task": "Task-9"}, "waiting for asyncio.Task Task-9"),
        ({"state": "ready", "waits_for": ""}, "waiting for the event loop"),
        ({"state": "new", "waits_for": ""}, "not begun"),
        ({"state": "running", "waits_for": ""}, "running"),
        ({"cancelling": True}, "waiting for asyncio.Future, cancelled"),
    ],
)
def test_what_a_task_does_is_told(values: dict[str, Any], what: str) -> None:
    made = process(tasks=[("Task-1", {}, [TAKE])])
    made["tasks"][0] |= values
    assert f"  task Task-1 {what}" in shown(made)


def test_idle_threads_are_one_line() -> None:
    made = process(
        threads=[
            ("MainThread", [RUN, SELECT]),
            ("pool-0", [BOOTSTRAP, WORKER]),
            ("anyio", [BOOTSTRAP, ANYIO, WAIT]),
            ("pool-1", [BOOTSTRAP, WORKER]),
            ("busy", [BOOTSTRAP, WORKER, TAKE]),
            ("", [BOOTSTRAP, WAIT]),
        ]
    )
    assert [line for line in shown(made) if not line.startswith("    …")][1:] == [
        "  thread busy",
        "    longhaul/uploads/receiving.py:88 Receiver.take: piece = await self._pieces.get()",
        "  thread MainThread waiting for events",
        "    longhaul/cli.py:20 main: asyncio.run(serve())",
        "  thread 7",
        "  2 threads idle in a pool",
        "    pool-0; pool-1",
        "  thread anyio idle in a pool",
        "",
    ]
    assert shown(made)[-4:-2] == ["  2 threads idle in a pool", "    pool-0; pool-1"]
    assert shown(made, everything=True)[-2] == "    threading.py:1012 Thread._bootstrap: self.run()"


def test_a_process_that_was_read_from_outside_says_why_and_who_holds_the_interpreter() -> None:
    made = process(
        threads=[("MainThread", [RUN, TAKE])],
        why="does not answer: nothing came for 5 s",
        state="T (stopped)",
        python="",
    )
    made["threads"][0] = {"holds": True} | made["threads"][0]
    assert shown(made)[:3] == [
        "web1 longhaul-web.service: longhaul web, process 4711, T (stopped), 1 thread",
        "  does not answer: nothing came for 5 s: read from outside",
        "  thread MainThread holding the interpreter",
    ]


def test_what_is_not_there_is_told() -> None:
    made = process(tasks=[("Task-1", {}, [TAKE])], tasks_left_out=1_500, problems=["threads: ValueError: x"])
    made["tasks"][0]["left_out"] = 1
    lines = shown(made, coloured=True)
    assert f"{RED}  could not be read: threads: ValueError: x{RESET}" in lines
    assert f"{DIM}    … 1 outer frame, left out{RESET}" in lines
    assert lines[-2:] == [f"{DIM}  1,500 more tasks, left out{RESET}", ""]
    other = {"service": "longhaul-processor@1.service", "program": "ffmpeg", "pid": 9, "state": "D (disk sleep)"}
    assert shown({**other, "error": "it does not run Python"}) == [
        "web1 longhaul-processor@1.service: ffmpeg, process 9, D (disk sleep)",
        "  it does not run Python",
        "",
    ]
    services = [{"name": "longhaul-web.service", "unit": "web", "state": "failed"}]
    assert list(text({"web1": {"services": services, "processes": []}}, Look())) == [
        "web1 longhaul-web.service is failed",
        "web1: none of these processes runs",
    ]


def test_names_do_not_control_the_terminal() -> None:
    made = process(threads=[("\x1b]0;x\x07", [TAKE])], tasks=[("a\n\x1b[2J", {}, [TAKE]), ("b\x1b[2J", {}, [TAKE])])
    assert "".join(line for line in shown(made)).isprintable()


@pytest.mark.parametrize(
    ("file", "shown_as", "of"),
    [
        (TAKE[0], "longhaul/uploads/receiving.py", "longhaul"),
        (f"{RELEASE}/processors/inspect_file.py", "processors/inspect_file.py", "processors"),
        ("/opt/longhaul/shipments/2/processors/x.py", "processors/x.py", "processors"),
        ("/usr/lib/python3.13/threading.py", "threading.py", "threading"),
        ("/usr/lib/python3/dist-packages/yaml/x.py", "yaml/x.py", "yaml"),
        ("<frozen runpy>", "<frozen runpy>", "runpy"),
        ("uvloop/loop.pyx", "uvloop/loop.pyx", "uvloop"),
        ("/srv/own/tool.py", "/srv/own/tool.py", "tool"),
    ],
)
def test_paths_are_shortened(file: str, shown_as: str, of: str) -> None:
    assert (short(file), library(file)) == (shown_as, of)


# --- Hosts ----------------------------------------------------------------------------------------------------------

HOSTS = {
    name: Host(name, frozenset({group}), {})
    for name, group in (("lb1", "loadbalancers"), ("web1", "web"), ("web2", "web"), ("worker1", "workers"))
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    made = Environment("staging", Path("/nowhere"), Kind.REAL)
    vars(made)["hosts"] = HOSTS
    monkeypatch.setattr(tasks.where, "environment", lambda _name: made)
    return made


@pytest.mark.parametrize(
    ("names", "unit", "asked"),
    [
        ("", "", {"web1": ["web"], "web2": ["web"], "worker1": ["worker", "processor"]}),
        ("", "processor", {"worker1": ["processor"]}),
        ("web2, worker1", "", {"web2": ["web"], "worker1": ["worker", "processor"]}),
    ],
)
def test_hosts_are_asked_for_the_units_that_they_run(
    environment: Environment, names: str, unit: str, asked: dict[str, list[str]]
) -> None:
    hosts = stacks.hosts_of(environment, names, unit)
    assert {host.name: stacks.units_of(host, unit) for host in hosts} == asked


@pytest.mark.parametrize(
    ("names", "unit", "message", "hint"),
    [
        ("lb1", "", "lb1: no web, worker or processor runs there.", "web1, web2, worker1"),
        ("web1", "worker", "web1: no worker runs there.", "worker1"),
        ("web9", "", "There is no host 'web9'", "web1"),
        ("", "db", "There is no unit 'db'.", "web, worker, processor"),
    ],
)
def test_wrong_names_are_refused_with_the_right_ones(
    environment: Environment, names: str, unit: str, message: str, hint: str
) -> None:
    with pytest.raises(Failure, match=message) as failed:
        stacks.hosts_of(environment, names, unit)
    assert hint in failed.value.hint
    assert failed.value.code == Exit.USAGE


def answer(_environment: Environment, host: Host, program: str, *units: str, seconds: float) -> Any:
    """What hosts answer: web2 does not."""
    assert (program, seconds) == ("python_stacks", stacks.SECONDS)
    if host.name == "web2":
        raise remote.NoAnswer(host, "no route", Exit.UNAVAILABLE)
    return {"services": [], "processes": [process(unit=unit, threads=[("MainThread", [TAKE])]) for unit in units]}


def test_silent_hosts_are_named_and_others_are_shown(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(remote, "ask_program", answer)
    for json_ in (False, True):
        with pytest.raises(SystemExit) as ended:
            tasks.stacks.body(None, env="staging", json_=json_)
        assert ended.value.code == Exit.UNAVAILABLE
        output, errors = capsys.readouterr()
        assert "web2 does not answer: no route." in errors
        if json_:
            found = json.loads(output)
            assert [each["unit"] for each in found["worker1"]["processes"]] == ["worker", "processor"]
        else:
            assert [line.split()[0] for line in output.splitlines() if line.startswith("w")] == [
                "web1",
                "worker1",
                "worker1",
            ]
            assert "\x1b" not in output
    tasks.stacks.body(None, env="staging", unit="worker", all_=True)
    assert capsys.readouterr().out.count("worker1") == 1


def test_a_terminal_is_coloured_and_lines_are_cut(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(remote, "ask_program", answer)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(type(console), "width", 50)
    tasks.stacks.body(None, env="staging", host="web1")
    assert f"{BRIGHT}    longhaul/uploads/receiving.py:88 Receiver.tak…{RESET}" in capsys.readouterr().out
