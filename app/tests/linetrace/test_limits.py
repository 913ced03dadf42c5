"""Limits hold, drops are counted and reported in the trace, errors of the tracer end it and not the program."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from linetrace import Limits, Options, Selection, arm, trace
from linetrace.limits import LimitError
from linetrace.record import Line
from linetrace.sinks import SinkLost
from tests.linetrace.running import Live, Recorder, module, nothing_is_armed

LOOP = "def loop(n):\n    for i in range(n):\n        x = i\n    return n\n"


def test_lines_in_all(tmp_path: Path) -> None:
    loop = module(tmp_path, LOOP)
    with Live(tmp_path, limits=Limits(lines=5)) as live:
        assert loop.loop(1000) == 1000
        assert live.trace.ended == "it has shown 5 lines"
        assert nothing_is_armed()
    assert live.lines == [2, 3, 2, 3, 2]
    assert live.sink.texts("notice") == ["## ended: it has shown 5 lines; 5 lines"]


def test_seconds_also_if_nothing_runs(tmp_path: Path) -> None:
    with Live(tmp_path, limits=Limits(seconds=0.05)) as live:
        assert arm.wait(live.trace, 5)
        assert live.trace.ended == "its 0.05 s are over"
        assert nothing_is_armed()


def test_lines_of_one_location(tmp_path: Path) -> None:
    loop = module(tmp_path, LOOP)
    with Live(tmp_path, limits=Limits(per_location=2)) as live:
        loop.loop(100)
        loop.loop(0)
    assert live.lines == [2, 3, 2, 3, 4, 4]
    counts = [(line.number, line.text) for line in live.sink.lines if line.kind == "count"]
    assert counts == [
        (2, "## shown 2 times, from now on only counted"),
        (3, "## shown 2 times, from now on only counted"),
        (2, "## 100 times more, not shown"),
        (3, "## 98 times more, not shown"),
    ]
    assert live.trace.counts.repeated == 198


def test_lines_per_second_are_dropped_counted_and_reported(tmp_path: Path) -> None:
    loop = module(tmp_path, LOOP)
    with Live(tmp_path, limits=Limits(per_second=10)) as live:
        loop.loop(50)
        time.sleep(1.1)
        loop.loop(0)
    assert live.lines[-2:] == [2, 4]
    assert 12 <= len(live.lines) <= 22  # the loop may lie in two seconds
    dropped = 102 + 2 - len(live.lines)
    assert live.trace.counts.over_rate == dropped
    notices = live.sink.texts("notice")
    assert any(text.endswith(" lines dropped in the last second") for text in notices)
    assert notices[-1].endswith(f"; {len(live.lines)} lines, dropped {dropped} over 10 lines a second")


class Slow(Recorder):
    """A sink that takes nothing until it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may = threading.Event()

    def send(self, lines: Sequence[Line]) -> int:
        self.may.wait(10)
        return super().send(lines)


def test_a_full_queue_drops_and_does_not_hold_up_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "QUEUED_RECORDS", 50)
    loop = module(tmp_path, LOOP)
    live = Live(tmp_path, limits=Limits(per_location=1000))
    live.sink = slow = Slow()
    with live:
        loop.loop(0)
        began = time.monotonic()
        loop.loop(49)
        loop.loop(49)
        assert time.monotonic() - began < 5
        slow.may.set()
    counts = live.trace.counts
    assert counts.queue_full >= 2 * 100 - 50 - 2
    assert len(live.lines) == counts.lines
    assert counts.lines + counts.queue_full == 2 + 2 * 100
    assert f"{counts.queue_full} because the queue was full" in live.sink.texts("notice")[-1]


def test_the_memory_of_a_long_trace_is_bounded(tmp_path: Path) -> None:
    text = "def make(n):\n    for i in range(n):\n        exec(compile('def f(): return 1\\nf()', FILE, 'exec'), {})\n"
    maker = module(tmp_path, text)
    maker.__dict__["FILE"] = str(tmp_path / "made.py")
    with Live(tmp_path, limits=Limits(per_location=1), options=Options(values=("*",), timing=True)):
        maker.make(3000)
        assert len(live_states()) <= 5000
        before = sum(len(state.locations) for state in live_states())
        maker.make(3000)
        assert len(live_states()) <= 5000
        assert before > 0


def live_states() -> list[Any]:
    """What the monitor knows of code."""
    from linetrace.monitor import MONITOR

    return list(MONITOR.states.values())


class Broken(Recorder):
    """A sink that fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def send(self, lines: Sequence[Line]) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"),
    [(SinkLost("nobody reads"), "nobody reads"), (KeyError("x"), "the tracer failed: KeyError: 'x'")],
    ids=str,
)
def test_a_failing_sink_ends_the_trace(tmp_path: Path, error: Exception, reason: str) -> None:
    loop = module(tmp_path, LOOP)
    live = Live(tmp_path)
    live.sink = Broken(error)
    with live:
        assert loop.loop(3) == 3
        assert arm.wait(live.trace, 5)
        assert live.trace.ended == reason
        assert nothing_is_armed()
    assert live.sink.closed.is_set()


def test_an_error_of_the_tracer_ends_it_and_not_the_program(tmp_path: Path) -> None:
    loop = module(tmp_path, LOOP)
    with Live(tmp_path) as live:
        loop.loop(0)
        for state in live_states():
            state.locations.clear()
        assert loop.loop(3) == 3
        reason = live.trace.ended
        assert reason.startswith("the tracer failed: KeyError: ")
        assert " in Trace._make_line.<locals>.line, line " in reason
        assert nothing_is_armed()
    assert reason in live.sink.texts("notice")[-1]


def test_what_a_signal_handler_raises_inside_the_tracer_reaches_the_program(tmp_path: Path) -> None:
    text = (
        "import time\ndef spin():\n    end = time.monotonic() + 2\n    while time.monotonic() < end:\n        i = 1\n"
    )
    long = module(tmp_path, text)

    class Alarm(Exception):
        pass

    def ring(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        for _ in range(20):
            with Live(tmp_path, limits=Limits(per_location=1)) as live:
                signal.setitimer(signal.ITIMER_REAL, 0.01)
                with pytest.raises(Alarm):
                    long.spin()
                assert not live.trace.ended
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_keyboard_interrupt_reaches_the_program(tmp_path: Path) -> None:
    text = "import _thread\ndef spin():\n    _thread.interrupt_main()\n    for _ in range(10**6):\n        i = 1\n"
    long = module(tmp_path, text)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run, it may be ignored
    try:
        with Live(tmp_path) as live:
            with pytest.raises(KeyboardInterrupt):
                long.spin()
            assert not live.trace.ended
    finally:
        signal.signal(signal.SIGINT, before)


def test_deep_recursion_does_not_end_the_trace(tmp_path: Path) -> None:
    deep = module(
        tmp_path, "def deep(n):\n    try:\n        return deep(n + 1)\n    except RecursionError:\n        return n\n"
    )
    expected = deep.deep(0)
    with Live(tmp_path, limits=Limits(per_location=1)) as live:
        assert expected - 1 <= deep.deep(0) <= expected
        assert not live.trace.ended


@pytest.mark.parametrize(
    "values",
    [{"lines": 0}, {"lines": 10**9}, {"seconds": -1}, {"seconds": float("nan")}, {"per_second": 1.5}, {"lines": True}],
    ids=str,
)
def test_limits_are_always_on(values: dict[str, Any]) -> None:
    with pytest.raises(LimitError):
        Limits(**values)


@pytest.mark.parametrize(
    ("kind", "values", "reason"),
    [
        (Limits, {"bytes": 5}, "limits have no bytes"),
        (Limits, [], "limits are an object"),
        (Options, {"values": "x"}, "the option values is a list of texts"),
        (Options, {"calls": 1}, "the option calls is true or false"),
        (Selection, {"kind": "some"}, "a selection has one of these kinds"),
        (Selection, {"kind": "ids"}, "names at least one"),
        (Selection, {"kind": "ids", "ids": {"job": 5}}, "the values of a selection are texts"),
        (Selection, {"kind": "function"}, "a function is named"),
        (Selection, {"kind": "next", "color": "red"}, "a selection has no color"),
    ],
    ids=str,
)
def test_wrong_messages_are_refused_with_the_reason(kind: Any, values: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        kind.from_json(values)


@pytest.mark.parametrize(
    "made",
    [
        Selection.everything(),
        Selection.of(job=5, user="ann"),
        Selection.next(method="POST", path="/f/*", follow="upload"),
        Selection.of_function("a.*"),
        Limits(lines=7),
        Options(values=("a", "b"), calls=True),
    ],
    ids=str,
)
def test_messages_give_what_they_were_made_from(made: Any) -> None:
    assert type(made).from_json(made.as_json() if not isinstance(made, Options) else _lists(made.as_json())) == made


def _lists(values: dict[str, Any]) -> dict[str, Any]:
    """As JSON has it: no tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def test_nothing_is_left_in_the_interpreter(tmp_path: Path) -> None:
    loop = module(tmp_path, LOOP)
    with Live(tmp_path):
        loop.loop(3)
        code = loop.loop.__code__
        tool = 3
        assert sys.monitoring.get_local_events(tool, code)
    sys.monitoring.use_tool_id(tool, "look")
    try:
        assert sys.monitoring.get_events(tool) == sys.monitoring.get_local_events(tool, code) == 0
    finally:
        sys.monitoring.free_tool_id(tool)
