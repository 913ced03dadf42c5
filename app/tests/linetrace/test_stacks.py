"""Stacks of this process: threads, tasks and what they wait for; nothing of the program runs for them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import linetrace
from linetrace import attach, client, stacks
from linetrace.peer import Program
from tests.linetrace.running import PACKAGE, module, nothing_is_armed
from tests.linetrace.test_control import Client

HERE = Program("app", (str(Path(__file__).parent),))


def taken(program: Program = HERE) -> dict[str, Any]:
    """The stacks, through JSON; nothing was armed for them."""
    found: dict[str, Any] = json.loads(json.dumps(stacks.take(program)))
    assert found["problems"] == []
    assert nothing_is_armed()
    return found


def functions(found: dict[str, Any], of: dict[str, Any]) -> list[str]:
    """The last words of the names of the functions of a stack."""
    return [found["frames"][number]["function"].rpartition(".")[2] for number in of["stack"]]


def during(body: Callable[[], Coroutine[Any, Any, Any]], take: Callable[..., Any] = taken) -> dict[str, Any]:
    """What another thread takes while a task called `of the test` waits."""

    async def main() -> Any:
        begun = asyncio.create_task(body(), name="of the test")
        await asyncio.sleep(0.01)
        try:
            return await asyncio.to_thread(take, HERE)
        finally:
            begun.cancel()
            await asyncio.gather(begun, return_exceptions=True)

    return asyncio.run(main())


def one(found: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    """The only thread or task of a name."""
    (each,) = (each for each in found[kind] if each["name"] == name)
    return dict(each)


# --- Threads --------------------------------------------------------------------------------------------------------

THREADS = """\
import threading

def waits(event, ready):
    ready.set()
    event.wait()

def deep(n, event, ready):
    if n:
        deep(n - 1, event, ready)
    else:
        waits(event, ready)
"""


@contextlib.contextmanager
def threads(folder: Path, **targets: int) -> Iterator[ModuleType]:
    """Threads of these names, each in so many calls."""
    code, event = module(folder, THREADS), threading.Event()
    begun = []
    for name, depth in targets.items():
        ready = threading.Event()
        begun.append(threading.Thread(target=code.deep, args=(depth, event, ready), name=name, daemon=True))
        begun[-1].start()
        assert ready.wait(10)
    yield code
    event.set()
    for thread in begun:
        thread.join(10)


def test_a_thread_has_its_frames_and_their_source(tmp_path: Path) -> None:
    with threads(tmp_path, waiter=0) as code, ThreadPoolExecutor(1) as pool:  # the thread that asks is left out
        found = pool.submit(taken, Program("app", (str(tmp_path),))).result()
    thread = one(found, "threads", "waiter")
    assert (thread["daemon"], thread["task"], thread["left_out"]) == (True, None, 0)
    frames = [found["frames"][number] for number in thread["stack"]]
    own = [frame for frame in frames if frame["own"]]
    assert [(frame["file"], frame["line"], frame["function"], frame["source"]) for frame in own] == [
        (code.__file__, 11, "deep", "waits(event, ready)"),
        (code.__file__, 5, "waits", "event.wait()"),
    ]
    assert (frames[0]["function"], frames[-1]["function"]) == ("Thread._bootstrap", "Condition.wait")
    main, *_ = found["threads"]
    assert (main["name"], main["daemon"], main["ident"]) == ("MainThread", False, threading.main_thread().ident)
    assert not any(each["name"].startswith("ThreadPoolExecutor") for each in found["threads"])
    assert (found["pid"], found["program"], found["python"]) == (os.getpid(), "app", sys.version.split()[0])


def test_a_deep_stack_has_its_innermost_frames(tmp_path: Path) -> None:
    with threads(tmp_path, waiter=300):
        found = taken()
    thread = one(found, "threads", "waiter")
    assert len(thread["stack"]) == stacks.MOST_FRAMES
    assert functions(found, thread)[-3:] == ["waits", "wait", "wait"]
    assert thread["left_out"] > 100
    assert len(found["frames"]) < 50  # each position once


def test_a_source_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe, event = tmp_path / "pipe.py", threading.Event()
    os.mkfifo(pipe)
    inside: dict[str, Any] = {"event": event}
    threading.Thread(target=exec, args=(compile("event.wait()", str(pipe), "exec"), inside), name="waiter").start()
    found: list[dict[str, Any]] = []
    taking = threading.Thread(target=lambda: found.append(taken()), daemon=True)
    taking.start()
    taking.join(10)
    event.set()
    assert not taking.is_alive()
    (frame,) = (frame for frame in found[0]["frames"] if frame["file"] == str(pipe))
    assert (frame["line"], frame["source"]) == (1, "")


def test_the_threads_of_the_listener_are_left_out(tmp_path: Path) -> None:
    listening = linetrace.listen(tmp_path, "app", [tmp_path])
    talking = Client(listening.path)
    talking.hear("hello")
    found = taken()
    assert [name for each in found["threads"] for name in functions(found, each) if name in ("_accept", "_serve")] == []
    talking.close()
    listening.close()


# --- Tasks ----------------------------------------------------------------------------------------------------------


def test_a_task_has_its_ids_and_the_chain_that_it_awaits() -> None:
    async def inner(event: asyncio.Event) -> None:
        await event.wait()

    async def outer() -> None:
        with linetrace.bound(upload="u7"), linetrace.bound(user="ann"):
            await inner(asyncio.Event())

    found = during(outer)
    task = one(found, "tasks", "of the test")
    assert task["ids"] == {"upload": "u7", "user": "ann"}
    assert functions(found, task) == ["outer", "inner", "wait"]
    assert (task["state"], task["waits_for"], task["cancelling"]) == ("waiting", "asyncio.Future", False)
    assert [found["frames"][number]["own"] for number in task["stack"]] == [True, True, False]


async def numbers(event: asyncio.Event) -> AsyncIterator[int]:
    yield 1
    await event.wait()


class Awaited:
    """Awaits in a generator."""

    def __await__(self) -> Generator[Any, None, Any]:
        return (yield from waits().__await__())


async def waits() -> None:
    await asyncio.get_running_loop().create_future()


async def loops() -> None:
    async for _ in numbers(asyncio.Event()):
        pass


async def takes_the_next() -> None:
    made = numbers(asyncio.Event())
    await anext(made)
    await anext(made, None)


async def closes() -> None:
    async def made() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await waits()

    begun = made()
    await anext(begun)
    await begun.aclose()  # type: ignore[attr-defined]  # it is a generator


async def awaits_an_object() -> None:
    await Awaited()


@pytest.mark.parametrize(
    ("body", "chain"),
    [
        (loops, ["loops", "numbers", "wait"]),
        (takes_the_next, ["takes_the_next", "numbers", "wait"]),
        (closes, ["closes", "made", "waits"]),
        (awaits_an_object, ["awaits_an_object", "__await__", "waits"]),
    ],
)
def test_the_chain_goes_through_all_that_can_be_awaited(
    body: Callable[[], Coroutine[Any, Any, None]], chain: list[str]
) -> None:
    found = during(body)
    assert functions(found, one(found, "tasks", "of the test")) == chain


def test_the_chain_goes_through_coroutines_of_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> dict[str, Any]:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            accept = asyncio.create_task(asyncio.get_running_loop().sock_accept(listening), name="of the test")
            await asyncio.sleep(0.01)
            found = await asyncio.to_thread(taken)
            accept.cancel()
            await asyncio.gather(accept, return_exceptions=True)
            return found

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(main())
    task = one(found, "tasks", "of the test")
    assert (functions(found, task), task["waits_for"]) == (["sock_accept"], "uvloop.loop._SyncSocketReaderFuture")


def test_what_is_not_waiting_is_told_apart() -> None:
    async def turn() -> None:
        while True:
            await asyncio.sleep(0)

    async def main() -> dict[str, Any]:
        waiting = asyncio.create_task(waits(), name="waiting")
        behind = asyncio.create_task(asyncio.wait({waiting}), name="behind")
        over = asyncio.create_task(asyncio.sleep(0), name="over")
        taking_turns = asyncio.create_task(turn(), name="turns")
        await asyncio.sleep(0.01)
        new = asyncio.create_task(waits(), name="new")
        waiting.cancel()
        found = taken()  # in the loop's own thread, which nothing interrupts
        for task in (behind, taking_turns, new):
            task.cancel()
        await asyncio.gather(behind, taking_turns, new, waiting, return_exceptions=True)
        assert over.done()
        return found

    found = asyncio.run(main())
    assert {task["name"]: task["state"] for task in found["tasks"] if not task["name"].startswith("Task-")} == {
        "waiting": "ready",
        "behind": "waiting",
        "turns": "ready",
        "new": "new",
    }
    assert one(found, "tasks", "waiting")["cancelling"]


def test_a_task_that_waits_for_another_one_names_it() -> None:
    async def behind() -> None:
        await asyncio.create_task(waits(), name="the other")

    task = one(during(behind), "tasks", "of the test")
    assert (task["waits_for"], task["waits_for_task"]) == ("asyncio.Task", "the other")


def test_the_thread_that_a_task_blocks_is_told() -> None:
    blocked, free = threading.Event(), threading.Event()

    async def blocks() -> None:
        with linetrace.bound(upload="u7"):
            await in_between()

    async def in_between() -> None:
        blocked.set()
        free.wait(10)

    running = threading.Thread(target=lambda: asyncio.run(blocks()), name="looping")
    running.start()
    assert blocked.wait(10)
    found = taken()
    free.set()
    running.join(10)
    thread = one(found, "threads", "looping")
    task = found["tasks"][thread["task"]]
    assert (task["ids"], task["state"]) == ({"upload": "u7"}, "running")
    assert functions(found, thread)[-4:] == ["blocks", "in_between", "wait", "wait"]


@pytest.mark.parametrize("in_sets", [True, False])
def test_tasks_of_all_loops_are_found(in_sets: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also as Python 3.14 needs it."""
    monkeypatch.setattr(stacks, "_SETS_HOLD_ALL_TASKS", in_sets)
    other = asyncio.new_event_loop()
    asleep = other.create_task(waits(), name="of a loop that does not run")

    async def eager() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        begun = asyncio.create_task(waits(), name="begun at once")
        await begun

    names = [task["name"] for task in during(eager)["tasks"]]
    assert {"of a loop that does not run", "of the test", "begun at once"} <= set(names)
    assert len(names) == len(set(names))
    asleep.cancel()
    other.run_until_complete(asyncio.gather(asleep, return_exceptions=True))
    other.close()


def test_a_task_that_begins_at_once_is_found_in_its_first_step() -> None:
    async def blocks() -> dict[str, Any]:
        with linetrace.bound(upload="u7"), ThreadPoolExecutor(1) as pool:
            return pool.submit(taken).result()

    async def main() -> dict[str, Any]:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        return await asyncio.create_task(blocks())

    found = asyncio.run(main())
    (task,) = (task for task in found["tasks"] if task["ids"] == {"upload": "u7"})
    assert task["state"] == "running"
    assert found["tasks"][one(found, "threads", "MainThread")["task"]] == task


def test_tasks_in_python_are_shown_too() -> None:
    async def in_python() -> None:
        def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **how: Any) -> Any:
            return asyncio.tasks._PyTask(coroutine, loop=loop, **how)  # type: ignore[attr-defined]

        asyncio.get_running_loop().set_task_factory(factory)
        await asyncio.create_task(waits(), name="in Python")

    found = during(in_python)
    task = one(found, "tasks", "in Python")
    assert (task["state"], task["waits_for"], functions(found, task)) == ("waiting", "asyncio.Future", ["waits"])


def test_many_tasks_are_bounded() -> None:
    async def many() -> None:
        await asyncio.gather(*(asyncio.create_task(waits()) for _ in range(stacks.MOST_TASKS + 50)))

    found = during(many)
    assert len(found["tasks"]) == stacks.MOST_TASKS
    assert found["tasks_left_out"] >= 50
    assert len(json.dumps(found)) < 500_000


def test_a_deep_chain_has_its_innermost_frames() -> None:
    async def deep(depth: int) -> None:
        await (deep(depth - 1) if depth else waits())

    found = during(lambda: deep(300))
    task = one(found, "tasks", "of the test")
    assert (len(task["stack"]), task["left_out"]) == (stacks.MOST_FRAMES, 102)
    assert functions(found, task)[-2:] == ["deep", "waits"]


def test_tasks_may_come_and_go_meanwhile() -> None:
    over = threading.Event()

    async def churn() -> None:
        held = {asyncio.create_task(waits()) for _ in range(2_000)}
        while not over.is_set():
            held.add(asyncio.create_task(asyncio.sleep(0)))
            await asyncio.sleep(0)
            held = held if len(held) < 3_000 else {task for task in held if not task.done()}

    running = threading.Thread(target=lambda: asyncio.run(churn()), daemon=True)
    running.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(10):
            taken()
    finally:
        sys.setswitchinterval(interval)
        over.set()
        running.join(10)


# --- What belongs to the program ------------------------------------------------------------------------------------


def hostile(touched: list[str]) -> dict[str, Any]:
    """Members of a class that tell when they are used."""

    def tell(name: str, result: Any) -> Any:
        def member(*_: Any, **__: Any) -> Any:
            touched.append(name)
            return result

        return member

    methods = ("__repr__", "__str__", "get_name", "get_coro", "get_context", "cancelling", "name", "daemon")
    return {name: tell(name, name) for name in methods} | {
        "__getattr__": tell("__getattr__", None),
        "done": tell("done", False),
        "__hash__": tell("__hash__", 1),
        "_fut_waiter": property(tell("_fut_waiter", None)),
        "cr_frame": property(tell("cr_frame", None)),
        "cr_await": property(tell("cr_await", None)),
        "cr_running": property(tell("cr_running", False)),
        "ident": property(tell("ident", 1)),
    }


def test_nothing_of_the_program_is_called() -> None:
    touched: list[str] = []

    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            touched.append(name)
            return super().__getattribute__(name)

    own_task: Any = type("OwnTask", (asyncio.Task,), hostile(touched))
    own_future: Any = Meta("OwnFuture", (asyncio.Future,), hostile(touched))
    own_thread: Any = type("OwnThread", (threading.Thread,), hostile(touched))

    class Awaiting:
        def __await__(self) -> Any:
            return self

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            waiter._asyncio_future_blocking = True
            return waiter

    class OwnCoroutine(Coroutine[Any, Any, Any]):
        def send(self, _value: Any) -> Any:
            return None

        def throw(self, *_: Any) -> Any:
            raise StopIteration

        def close(self) -> None:
            pass

        def __await__(self) -> Any:
            return self

    for name, member in hostile(touched).items():
        setattr(Awaiting, name, member)
        setattr(OwnCoroutine, name, member)
    waiter: Any = None

    async def body() -> None:
        nonlocal waiter
        loop = asyncio.get_running_loop()
        waiter = own_future(loop=loop)
        with linetrace.bound(upload="u7"):
            await Awaiting()

    async def main() -> dict[str, Any]:
        begun = own_task(body(), loop=asyncio.get_running_loop())
        other = asyncio.create_task(OwnCoroutine(), name="of an own coroutine")
        event = threading.Event()
        threading.Thread.start(own_thread(target=event.wait))
        await asyncio.sleep(0.01)
        touched.clear()  # asyncio and threading themselves use what is overridden
        found = taken()
        assert touched == []
        event.set()
        asyncio.Task.cancel(begun)
        other.cancel()
        return found

    found = asyncio.run(main())
    (task,) = (task for task in found["tasks"] if task["ids"])
    assert task["waits_for"].endswith("OwnFuture")
    assert functions(found, task) == ["body"]
    assert one(found, "tasks", "of an own coroutine")["stack"] == []


def test_what_cannot_be_read_does_not_hide_the_rest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def as_in_a_later_python(program: Program) -> dict[str, Any]:
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, "asyncio.tasks", ModuleType("asyncio.tasks"))
            return stacks.take(program)

    found = during(waits, as_in_a_later_python)
    assert found["problems"] == ["tasks: AttributeError: module 'asyncio.tasks' has no attribute '_scheduled_tasks'"]
    assert found["threads"][0]["name"] == "MainThread"

    def fails(_context: object) -> None:
        raise KeyError(1)

    def with_a_task_that_fails(program: Program) -> dict[str, Any]:
        with monkeypatch.context() as patched:
            patched.setattr(stacks, "_ids", fails)
            return stacks.take(program)

    found = during(waits, with_a_task_that_fails)
    assert found["tasks"] == []
    assert found["problems"] == ["a task: KeyError: 1"]
    assert found["threads"][0]["name"] == "MainThread"

    def without_a_folder(program: Program) -> dict[str, Any]:
        with contextlib.chdir(tmp_path):
            tmp_path.rmdir()
            return stacks.take(program)

    found = during(waits, without_a_folder)
    assert found["problems"] == []
    assert functions(found, one(found, "tasks", "of the test")) == ["waits"]


WITHOUT_ASYNCIO = """\
import sys, time
import linetrace
linetrace.listen(".", "server", ["."])
print(flush=True)
def waits():
    while "asyncio" not in sys.modules:
        time.sleep(0.001)
waits()
"""


@contextlib.contextmanager
def server(folder: Path, text: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that listens, when it says so; its socket."""
    (folder / "main.py").write_text(text)
    process = subprocess.Popen(
        [sys.executable, "main.py"],
        cwd=folder,
        env={"PYTHONPATH": str(PACKAGE.parent)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process, folder / f"server-{process.pid}.sock"
        process.kill()


def test_a_process_without_asyncio_stays_without(tmp_path: Path) -> None:
    with server(tmp_path, WITHOUT_ASYNCIO) as (process, path):
        found = client.answers("stacks", [path])[path.stem]
        status = client.answers("status", [path])[path.stem]
        assert process.poll() is None  # it ends if asyncio is imported
    assert (found["pid"], found["tasks"], found["problems"]) == (process.pid, [], [])
    (thread,) = found["threads"]
    assert functions(found, thread)[-2:] == ["<module>", "waits"]
    assert (status["tool"], status["code_with_events"]) == (None, 0)


# --- The command ----------------------------------------------------------------------------------------------------

HOLDS_THE_INTERPRETER = """\
import ctypes, threading, time
import linetrace
linetrace.listen(".", "server", ["."])
print(flush=True)
ctypes.PyDLL(None).sleep(30)
"""


def test_processes_that_do_not_answer_are_told_and_others_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ANSWER_SECONDS", 1.0)
    folders = [tmp_path / name for name in ("holds", "stopped", "well")]
    for folder in folders:
        folder.mkdir()
    with (
        server(folders[0], HOLDS_THE_INTERPRETER) as (_, holds),
        server(folders[1], WITHOUT_ASYNCIO) as (process, stopped),
        server(folders[2], WITHOUT_ASYNCIO) as (_, well),
    ):
        process.send_signal(signal.SIGSTOP)
        assert attach.main([*map(str, folders), "--stacks"]) == 1
    found = json.loads(capsys.readouterr().out)
    for path in (holds, stopped):
        assert found[path.stem]["error"].startswith(f"{path}: does not answer: nothing came for 1 s")
    assert found[well.stem]["threads"][0]["name"] == "MainThread"


def test_a_process_with_too_many_that_wait_for_it_is_told(tmp_path: Path) -> None:
    with server(tmp_path, WITHOUT_ASYNCIO) as (process, path):
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)  # when it has stopped
        with contextlib.ExitStack() as stack:
            while True:
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                try:
                    waiting.connect(str(path))
                except BlockingIOError:
                    break
            found = client.answers("stacks", [path])
    assert found == {path.stem: {"error": f"{path}: does not answer: others wait for it too"}}


def test_a_process_with_an_older_tracer_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        path = tmp_path / "old-1.sock"
        listening.bind(str(path))
        listening.listen()

        def refuse() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b'{"type": "hello"}\n{"type": "refused", "error": "there is no message here"}\n')

        answering = threading.Thread(target=refuse)
        answering.start()
        found = client.answers("stacks", [path])
        answering.join(10)
    assert found == {"old-1": {"error": f"{path}: refused: there is no message here"}}
