"""Traces of a running process: what runs, what is imported later, threads and tasks, and nothing of anybody else."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import linetrace
from linetrace import Limits, Options, Selection, arm
from linetrace.monitor import NoFreeTool
from tests.linetrace.programs import BUSY, WORK
from tests.linetrace.running import Live, Recorder, module, nothing_is_armed


def until(ask: Callable[[], object], seconds: float = 10) -> None:
    """Wait until the answer is true."""
    deadline = time.monotonic() + seconds
    while not ask():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


def test_what_is_called_after_arming(tmp_path: Path) -> None:
    busy = module(tmp_path, BUSY)
    busy.work(1)
    with Live(tmp_path) as live:
        assert busy.work(1) == 0
    busy.work(1)
    assert live.lines == WORK
    line = live.sink.lines[0]
    assert (line.module, line.text, line.file) == (busy.__name__, "    total = 0", busy.__file__)
    assert line.thread == threading.get_ident()


def test_a_loop_that_is_already_running_in_another_thread(tmp_path: Path) -> None:
    busy = module(tmp_path, BUSY)
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=busy.spin, args=(stop, ready))
    thread.start()
    ready.wait()
    try:
        with Live(tmp_path) as live:
            until(lambda: len(live.sink.numbers) > 9)
    finally:
        stop.set()
        thread.join()
    assert set(live.lines) == {19, 20, 21}


def test_a_loop_without_any_call_that_is_already_running(tmp_path: Path) -> None:
    busy = module(tmp_path, "stop = []\ndef spin():\n    i = 0\n    while not stop:\n        i += 1\n")
    thread = threading.Thread(target=busy.spin)
    thread.start()
    try:
        with Live(tmp_path) as live:
            until(lambda: len(live.sink.numbers) > 9)
    finally:
        busy.stop.append(1)
        thread.join()
    assert set(live.lines) == {4, 5}


def test_generators_and_coroutines_that_were_suspended_before(tmp_path: Path) -> None:
    busy = module(tmp_path, BUSY)
    generator = busy.numbers()
    next(generator)

    async def main() -> Live:
        event = asyncio.Event()
        task = asyncio.create_task(busy.step(event, 0))
        await asyncio.sleep(0)
        with Live(tmp_path) as live:
            next(generator)
            event.set()
            assert await task == 1
        return live

    assert asyncio.run(main()).lines == [25, 15, 16]


def test_a_coroutine_into_which_an_exception_is_thrown(tmp_path: Path) -> None:
    text = "async def wait(event):\n    try:\n        await event.wait()\n    finally:\n        print('cleaning')\n"
    waiting = module(tmp_path, text)

    async def main() -> Live:
        task = asyncio.create_task(waiting.wait(asyncio.Event()))
        await asyncio.sleep(0)
        with Live(tmp_path) as live:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return live

    assert asyncio.run(main()).lines[-1] == 5


def test_modules_imported_and_code_executed_later(tmp_path: Path) -> None:
    with Live(tmp_path) as live:
        late = module(tmp_path, "x = 1\ndef f(): return x\n")
        late.f()
        exec(compile("y = 2\n", str(tmp_path / "made.py"), "exec"), {"__name__": "made"})  # noqa: S102
        exec("z = 3\n", {})  # noqa: S102  # of no file
    assert [(line.module, line.number) for line in live.sink.lines if line.kind == "line"] == [
        (late.__name__, 1),
        (late.__name__, 2),
        (late.__name__, 2),
        ("made", 1),
    ]


def test_libraries_and_other_folders_are_left_out(tmp_path: Path) -> None:
    own, other, library = (tmp_path / name for name in ("own", "other", "own/lib/site-packages"))
    for folder in (own, other, library):
        folder.mkdir(parents=True)
    helper, package = module(other, "def f(x): return x\n"), module(library, "def f(x): return x\n")
    caller = module(own, "def call(*functions):\n    return [f('a') for f in functions]\n")
    with Live(own) as live:
        caller.call(helper.f, package.f, os.path.basename)
    assert {line.module for line in live.sink.lines if line.kind == "line"} == {caller.__name__}
    with Live(library) as live:
        caller.call(helper.f, package.f)
    assert {line.module for line in live.sink.lines if line.kind == "line"} == {package.__name__}


def test_code_of_compiled_templates_is_left_out(tmp_path: Path) -> None:
    code = compile("x = 1\n", str(tmp_path / "template.py"), "exec")
    with Live(tmp_path) as live:
        exec(code, {"__name__": "template", "__jinja_template__": object()})  # noqa: S102
        exec(compile("x = 1\n", str(tmp_path / "page.html"), "exec"), {})  # noqa: S102
    assert live.lines == []


def test_threads_that_begin_later(tmp_path: Path) -> None:
    busy = module(tmp_path, BUSY)
    with Live(tmp_path) as live:
        thread = threading.Thread(target=busy.work, args=(1,))
        thread.start()
        thread.join()
    assert live.lines == WORK
    assert live.sink.lines[0].thread == thread.ident


def test_two_traces_beside_each_other(tmp_path: Path) -> None:
    busy = module(tmp_path, BUSY)
    with Live(tmp_path, selection=Selection.of(job="1")) as first:
        everything = Recorder()
        second = arm.arm([tmp_path], everything, limits=Limits(lines=8))
        with linetrace.bound(job=1):
            busy.work(0)
        busy.work(0)
        busy.other(1)
        busy.other(1)
        assert arm.wait(second, 5)
        busy.other(1)
        with linetrace.bound(job=1):
            busy.other(1)
    assert first.lines == [4, 5, 7, 10]
    assert everything.numbers == [4, 5, 7, 4, 5, 7, 10, 10]


def test_if_no_place_is_free_the_reason_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    sys.monitoring.use_tool_id(3, "three")
    sys.monitoring.use_tool_id(4, "four")
    live = Live(tmp_path)
    try:
        with pytest.raises(NoFreeTool, match=r"held by three \(3\) and four \(4\)"):
            live.__enter__()
    finally:
        sys.monitoring.free_tool_id(3)
        sys.monitoring.free_tool_id(4)
    assert live.sink.closed.is_set()
    assert nothing_is_armed()


def test_another_tool_keeps_its_events(tmp_path: Path) -> None:
    busy = module(tmp_path, BUSY)
    seen: list[int] = []
    monitoring = sys.monitoring
    monitoring.use_tool_id(3, "other")
    try:
        monitoring.register_callback(3, monitoring.events.LINE, lambda _code, number: seen.append(number))
        monitoring.set_local_events(3, busy.work.__code__, monitoring.events.LINE)
        with Live(tmp_path) as live:
            busy.work(1)
        busy.work(1)
    finally:
        monitoring.set_local_events(3, busy.work.__code__, 0)
        monitoring.register_callback(3, monitoring.events.LINE, None)
        monitoring.free_tool_id(3)
    assert live.lines == WORK
    assert seen == WORK * 2


def test_a_forked_child_is_not_traced_and_does_not_disturb(tmp_path: Path) -> None:
    text = """\
import os
def fork():
    child = os.fork()
    if child == 0:
        os._exit(0)
    return os.waitpid(child, 0)[1]
"""
    forking = module(tmp_path, text)
    with Live(tmp_path) as live:
        assert forking.fork() == 0
    assert live.lines == [3, 4, 6]


def test_program_objects_are_not_kept_alive(tmp_path: Path) -> None:
    made = module(tmp_path, "class Thing:\n    pass\ndef make():\n    thing = Thing()\n    return thing\n")
    with Live(tmp_path, options=Options(values=("thing",), returns=True)):
        thing = made.make()
        kept = gc.get_referrers(thing)
        assert all(referrer is sys._getframe() or isinstance(referrer, type(sys._getframe())) for referrer in kept)


def test_a_process_whose_working_directory_is_gone_is_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = module(tmp_path, BUSY)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with Live(tmp_path) as live:
        busy.other(1)
    assert live.lines == [10]
