"""What a trace selects: a request, job, upload or user, the next request, a function; and nothing of anybody else."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from pathlib import Path

import pytest

import linetrace
from linetrace import Selection, guarded
from linetrace.monitor import MONITOR
from tests.linetrace.programs import BUSY, WORK
from tests.linetrace.running import Live, module


def test_only_the_request_with_this_id(tmp_path: Path) -> None:
    busy = module(tmp_path, BUSY)

    def serve(number: int) -> None:
        with linetrace.request("GET", "/", request=f"r{number}"):
            busy.work(number)

    with Live(tmp_path, selection=Selection.of(request="r2")) as live:
        for number in (1, 2, 1):
            serve(number)
        assert live.trace.ended == "its request was served"
    assert live.lines == [4, 5, 6, 5, 6, 5, 7]
    assert {line.ids["request"] for line in live.sink.lines if line.kind == "line"} == {"r2"}


def test_interleaved_tasks_and_threads_of_which_one_is_selected(tmp_path: Path) -> None:
    busy = module(tmp_path, BUSY)

    async def task(name: str, event: asyncio.Event) -> None:
        with linetrace.bound(job=name):
            await busy.step(event, 1)
            await asyncio.to_thread(busy.work, 1)
            await asyncio.create_task(busy.step(event, 0))

    async def main() -> None:
        event = asyncio.Event()
        tasks = [asyncio.create_task(task(f"j{number}", event)) for number in range(9)]
        await asyncio.sleep(0)
        event.set()
        await asyncio.gather(*tasks)

    with Live(tmp_path, selection=Selection.of(job="j4")) as live:
        asyncio.run(main())
    assert live.lines == [13, *WORK, 14, 15, 16, *WORK, 13, 4, 5, 7, 14, 15, 16]


def test_a_function_that_other_threads_run_at_the_same_time(tmp_path: Path) -> None:
    text = (
        "def both(turns, mine, theirs):\n    for i in range(turns):\n        theirs.release()\n        mine.acquire()\n"
    )
    shared = module(tmp_path, text)
    first, second = threading.Semaphore(0), threading.Semaphore(0)

    def selected() -> None:
        with linetrace.bound(job="mine"):
            shared.both(30, first, second)

    with Live(tmp_path, selection=Selection.of(job="mine")) as live:
        threads = [threading.Thread(target=selected), threading.Thread(target=shared.both, args=(30, second, first))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert live.lines == [2, *[3, 4, 2] * 30]


def test_code_is_put_out_when_only_others_run_it(tmp_path: Path) -> None:
    busy = module(tmp_path, BUSY)
    with Live(tmp_path, selection=Selection.of(job="5")) as live:
        with linetrace.bound(job=5):
            busy.work(1)
        assert MONITOR.code_with_events() == 1
        busy.work(1)
        assert MONITOR.code_with_events() == 0
        with linetrace.bound(job=5):
            busy.work(1)
    assert live.lines == WORK * 2


def test_ids_that_become_known_in_the_middle(tmp_path: Path) -> None:
    text = "import linetrace\ndef serve():\n    a = 1\n    linetrace.add(user='ann')\n    b = 2\n    return a + b\n"
    served = module(tmp_path, text)
    with Live(tmp_path, selection=Selection.of(user="ann")) as live, linetrace.request("GET", "/"):
        served.serve()
    assert live.lines == [5, 6]


def test_a_request_that_began_before_the_trace(tmp_path: Path) -> None:
    busy = module(tmp_path, BUSY)
    with linetrace.request("GET", "/", request="old"):
        with Live(tmp_path, selection=Selection.of(request="old")) as live:
            busy.work(0)
        with Live(tmp_path, selection=Selection.next()) as later:
            busy.work(0)
    assert live.lines == [4, 5, 7]
    assert later.lines == []


def test_the_next_request_that_matches(tmp_path: Path) -> None:
    busy = module(tmp_path, BUSY)
    selection = Selection.next(method="POST", path="/files/*", user="a*")
    with Live(tmp_path, selection=selection) as live:
        for number, (method, path, user) in enumerate(
            [("GET", "/files/1", "ann"), ("POST", "/", "ann"), ("POST", "/files/1", "bob")]
            + [("POST", "/files/1", "ann")] * 2
        ):
            with linetrace.request(method, path, request=number):
                linetrace.add(user=user)
                busy.work(0)
    assert live.lines == [4, 5, 7]
    assert [line.ids["request"] for line in live.sink.lines if line.kind == "line"] == ["3"] * 3


def test_the_next_upload_is_followed_through_later_requests_and_its_job(tmp_path: Path) -> None:
    busy = module(tmp_path, BUSY)
    with Live(tmp_path, selection=Selection.next(method="POST", follow="upload")) as live:
        with linetrace.request("POST", "/files/", request="r1"), linetrace.bound(upload="u1"):
            busy.other(1)
        with linetrace.request("PATCH", "/files/u2", request="r2", upload="u2"):
            busy.other(1)
        with linetrace.request("PATCH", "/files/u1", request="r3"), linetrace.bound(upload="u1"):
            busy.other(1)
        with linetrace.bound(job=1, upload="u1"):
            busy.other(1)
    assert [line.ids for line in live.sink.lines if line.kind == "line"] == [
        {"request": "r1", "upload": "u1"},
        {"request": "r3", "upload": "u1"},
        {"job": "1", "upload": "u1"},
    ]
    assert live.sink.texts("ids")[:2] == ["## request='r1'", "## request='r1' upload='u1'"]


@pytest.mark.parametrize("pattern", ["work", "traced_*.work", "*.work"])
def test_one_function(tmp_path: Path, pattern: str) -> None:
    busy = module(tmp_path, BUSY)
    with Live(tmp_path, selection=Selection.of_function(pattern)) as live:
        busy.other(1)
        busy.work(1)
    assert live.lines == WORK


@pytest.mark.parametrize("ids", [{"job": "5"}, {"upload": "u7"}])
def test_a_trace_of_a_job_ends_with_it(tmp_path: Path, ids: dict[str, str]) -> None:
    busy = module(tmp_path, BUSY)
    with Live(tmp_path, selection=Selection.of(**ids)) as live:
        for number in (4, 5, 5):
            with linetrace.bound(upload=f"u{number + 2}"), linetrace.job(job=number):
                busy.other(1)
        assert live.trace.ended == "its job has ended"
    assert live.lines == [10]


def test_a_job_that_is_to_run_again_does_not_end_its_trace(tmp_path: Path) -> None:
    busy = module(tmp_path, BUSY)
    with Live(tmp_path, selection=Selection.of(upload="u1")) as live:
        with contextlib.suppress(OSError), linetrace.job(job=5, upload="u1"):
            busy.other(1)
            raise OSError
        assert not live.trace.ended
        with linetrace.job(job=5, upload="u1"):
            busy.other(1)
        assert live.trace.ended
    assert live.lines == [10, 10]


def test_a_trace_of_a_user_outlives_jobs_and_requests(tmp_path: Path) -> None:
    busy = module(tmp_path, BUSY)
    with Live(tmp_path, selection=Selection.of(user="ann")) as live:
        with linetrace.job(job=5, user="ann"):
            busy.other(1)
        with linetrace.request("GET", "/", user="ann"):
            busy.other(1)
        assert not live.trace.ended
    assert live.lines == [10, 10]


def test_a_followed_upload_ends_with_its_job(tmp_path: Path) -> None:
    busy = module(tmp_path, BUSY)
    with Live(tmp_path, selection=Selection.next(method="POST", follow="upload")) as live:
        with linetrace.request("POST", "/files"):
            linetrace.add(upload="u1")
            busy.other(1)
        with linetrace.request("PATCH", "/files/u1", upload="u1"):
            busy.other(1)
        begun = live.trace.ended
        with linetrace.job(job=5, upload="u1"):
            busy.other(1)
        assert (begun, live.trace.ended) == ("", "its job has ended")
    assert live.lines == [10] * 3


def test_the_next_request_came_to_another_process(tmp_path: Path) -> None:
    busy = module(tmp_path, BUSY)
    begun = contextvars.copy_context()
    begun.run(linetrace.bound(upload="u1").__enter__)
    with Live(tmp_path, selection=Selection.next(method="POST", follow="upload")) as live:
        begun.run(busy.other, 1)
        MONITOR.follow(live.trace, "u1")
        begun.run(busy.other, 1)
        with linetrace.request("POST", "/files", upload="u2"):  # not chosen any more
            busy.other(1)
    assert live.lines == [10]


def test_a_function_with_those_nested_in_it(tmp_path: Path) -> None:
    text = "def outer():\n    def inner():\n        return 1\n    return inner() + other()\ndef other(): return 1\n"
    nested = module(tmp_path, text)
    with Live(tmp_path, selection=Selection.of_function("outer")) as live:
        nested.outer()
    assert live.lines == [2, 4, 3]


def test_what_others_do_often_does_not_hide_the_selected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded, "ENOUGH_STARTS", 10)
    busy = module(tmp_path, BUSY)
    with Live(tmp_path, selection=Selection.next(follow="upload")) as live:
        for _ in range(30):  # the quick callback of starts is in force now
            busy.other(1)
        late = module(tmp_path, "def f(x):\n    return x\n")
        with linetrace.request("GET", "/", upload="u1"):
            late.f(busy.other(1))
        for _ in range(30):
            late.f(1)
        with linetrace.bound(upload="u1"):
            late.f(busy.other(1))
        with linetrace.bound(upload="u2"):
            late.f(busy.other(1))
    assert [(line.module, line.number) for line in live.sink.lines if line.kind == "line"] == [
        (busy.__name__, 10),
        (late.__name__, 2),
    ] * 2


def test_a_scope_becomes_selected_though_it_was_foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded, "ENOUGH_STARTS", 10)
    busy = module(tmp_path, BUSY)
    with Live(tmp_path, selection=Selection.of(user="ann")) as live, linetrace.request("GET", "/"):
        for _ in range(30):
            busy.other(1)
        linetrace.add(user="ann")
        busy.other(1)
    assert live.lines == [10]


def test_ids_added_inside_hold_outside_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded, "ENOUGH_STARTS", 10)
    busy = module(tmp_path, BUSY)
    with Live(tmp_path, selection=Selection.of(user="ann")) as live, linetrace.request("GET", "/"):
        for _ in range(30):
            busy.other(1)
        with linetrace.bound(upload="u1"):
            linetrace.add(user="ann")
        busy.other(1)
    assert live.lines == [10]


def test_following_reaches_work_that_has_begun_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded, "ENOUGH_STARTS", 10)
    busy = module(tmp_path, BUSY)
    begun = contextvars.copy_context()
    begun.run(linetrace.bound(upload="u1", job=7).__enter__)
    with Live(tmp_path, selection=Selection.next(follow="upload")) as live:
        for _ in range(30):
            begun.run(busy.other, 1)
        with linetrace.request("PATCH", "/", upload="u1"):
            begun.run(busy.other, 1)
    assert [line.ids for line in live.sink.lines if line.kind == "line"] == [{"upload": "u1", "job": "7"}]
