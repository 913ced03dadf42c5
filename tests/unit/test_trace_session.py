"""A trace over many hosts: whose lines are shown, in which order, and how it ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ops.environment import Environment, Host, Kind
from ops.errors import Exit, Failure
from ops.trace import session as sessions
from ops.trace.order import Order, order
from ops.trace.recording import HostLine
from ops.trace.session import Progress, TraceSession

ENVIRONMENT = Environment("staging", Path("/nowhere"), Kind.REAL)
WEB1, WEB2, WORKER1 = (
    Host(name, frozenset({group}), {}) for name, group in (("web1", "web"), ("web2", "web"), ("worker1", "workers"))
)
SERVED = "its request was served"
TOLD: list[str] = []
"""What the session of the test has told."""


class FakeTrace:
    """Stands for the command on a host; the test says what its processes say."""

    made: list[FakeTrace]

    def __init__(self, _environment: Environment, host: Host, _order: Order, _about: list[str], events: Any) -> None:
        self.host = host
        self.began, self.heard = time.monotonic(), 0.0
        self.followed: list[str] = []
        self.stopped = False
        self._events = events
        self.made.append(self)

    def follow(self, upload: str) -> None:
        self.followed.append(upload)

    def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            self.over("the client ended it")

    def says(self, message: str, **values: Any) -> None:
        self.heard = time.monotonic()
        self._events.put((self, {"process": "p-1", "type": message, **values}))

    def line(self, at: float, source: str = "x", kind: str = "line", **ids: str) -> None:
        self.says("line", time=at, kind=kind, module="m", line=1, source=source, ids=ids)

    def over(self, reason: str) -> None:
        """All its traces have ended."""
        self.says("ended", reason=reason, lines=0, dropped=0)
        self.gone()

    def gone(self, failure: Failure | None = None) -> None:
        if failure is not None:
            self._events.put((self, failure))
        self._events.put((self, None))


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeTrace]]:
    """The fake commands that were started, in their order."""
    FakeTrace.made = []
    monkeypatch.setattr(sessions, "HostTrace", FakeTrace)
    return iter([FakeTrace.made])


def run(
    wanted: Order, act: Callable[..., None], *, ctrl_c: bool = False, hosts: tuple[Host, ...] = (WEB1, WEB2, WORKER1)
) -> tuple[TraceSession, list[HostLine]]:
    """Run a session whose hosts do what `act` says with them; the session, and the lines that it showed."""
    TOLD.clear()
    session = TraceSession(ENVIRONMENT, wanted, hosts, by="ann", tell=TOLD.append)
    session.start()
    shown: list[HostLine] = []
    act(*FakeTrace.made)
    pressed = not ctrl_c

    def tick(_: Progress) -> None:
        nonlocal pressed
        if not pressed:
            pressed = True
            os.kill(os.getpid(), signal.SIGINT)

    session.run(shown.extend, tick)
    return session, shown


def sources(lines: list[HostLine]) -> list[str]:
    return [line["source"] for line in lines]


def test_lines_are_shown_in_the_order_of_time_whichever_host_was_quicker() -> None:
    def act(*hosts: FakeTrace) -> None:
        for number, host in zip((3.0, 1.0, 2.0), hosts, strict=True):
            host.line(number, f"at {number:g}")
            host.over("its 60 s are over")

    session, shown = run(order(user="ann"), act)
    assert sources(shown) == ["at 1", "at 2", "at 3"]
    assert [line["host"] for line in shown] == ["web2", "worker1", "web1"]
    assert (session.why, TOLD) == ("its 60 s are over", [])


def test_the_next_upload_is_that_of_one_host_and_the_others_follow_it() -> None:
    def act(web1: FakeTrace, web2: FakeTrace, worker1: FakeTrace) -> None:
        web1.line(1, "web1 creates another")
        web2.line(2, "web2 creates it")
        web2.line(3, "web2 knows its id", upload="u1")
        web1.line(4, "web1 goes on with the other", upload="u2")
        worker1.line(5, "worker1 processes it", upload="u1", job="7")
        worker1.over("its job has ended")

    session, shown = run(order(next_upload=True), act)
    assert sources(shown) == ["web2 creates it", "web2 knows its id", "worker1 processes it"]
    assert [host.followed for host in FakeTrace.made] == [["u1"]] * 3
    assert session.why == "its job has ended"
    assert all(host.stopped for host in FakeTrace.made[:2])


def test_a_creation_that_was_refused_is_not_the_next_upload() -> None:
    def act(web1: FakeTrace, _web2: FakeTrace, _worker1: FakeTrace) -> None:
        web1.line(1, "refused")
        web1.over(SERVED)

    wanted = order(next_upload=True)
    session = TraceSession(ENVIRONMENT, wanted, (WEB1, WEB2, WORKER1), by="ann")
    session.start()
    act(*FakeTrace.made)
    shown: list[HostLine] = []

    def tick(_: Progress) -> None:
        if len(FakeTrace.made) == 4 and not shown:
            again = FakeTrace.made[3]
            assert again.host is WEB1
            again.line(2, "created", upload="u1")
            session.stop("seen")

    session.run(shown.extend, tick)
    assert sources(shown) == ["created"]


def test_a_refused_creation_elsewhere_does_not_end_the_upload_that_was_found() -> None:
    def act(web1: FakeTrace, web2: FakeTrace, worker1: FakeTrace) -> None:
        web2.line(1, "web2 refuses a creation")
        web1.line(2, "created", upload="u1")
        web2.over(SERVED)
        worker1.line(3, "processed", upload="u1")
        worker1.over("its job has ended")

    session, shown = run(order(next_upload=True), act)
    assert sources(shown) == ["created", "processed"]
    assert session.why == "its job has ended"
    again = FakeTrace.made[3]
    assert (again.host, again.followed) == (WEB2, ["u1"])


def test_what_a_replaced_command_still_says_does_not_count() -> None:
    session = TraceSession(ENVIRONMENT, order(next_upload=True), (WEB1, WORKER1), by="ann")
    session.start()
    web1, worker1 = FakeTrace.made
    web1.over(SERVED)
    web1.line(1, "too late", upload="u9")
    shown: list[HostLine] = []

    def tick(_: Progress) -> None:
        if len(FakeTrace.made) == 3 and not shown:
            FakeTrace.made[2].line(2, "created", upload="u1")
            worker1.over("its job has ended")

    session.run(shown.extend, tick)
    assert sources(shown) == ["created"]


def test_the_next_request_is_that_of_one_host_and_the_others_are_let_go() -> None:
    def act(web1: FakeTrace, web2: FakeTrace) -> None:
        web2.line(1, "first")
        web1.line(2, "another request")
        web2.line(3, "second")
        web2.over(SERVED)

    session, shown = run(order(path="/x"), act, hosts=(WEB1, WEB2))
    assert sources(shown) == ["first", "second"]
    assert session.why == SERVED
    assert FakeTrace.made[0].stopped


def test_ctrl_c_ends_it_in_good_order() -> None:
    session, shown = run(order(user="ann"), lambda web1, *_: web1.line(1), ctrl_c=True)
    assert session.why == "Ctrl-C"
    assert len(shown) == 1
    assert all(host.stopped for host in FakeTrace.made)


def test_it_ends_at_its_lines_over_all_hosts() -> None:
    def act(*hosts: FakeTrace) -> None:
        for number in range(3):
            for host in hosts:
                host.line(number)

    session, shown = run(order(user="ann", lines=5), act)
    assert session.why == "it has shown 5 lines"
    assert len(shown) >= 5


def test_a_host_that_is_lost_does_not_end_the_others() -> None:
    def act(web1: FakeTrace, web2: FakeTrace, worker1: FakeTrace) -> None:
        web1.gone(Failure("web1 does not answer: no route."))
        web2.says("lost", error="the connection was lost")
        web2.gone()
        worker1.line(1)
        worker1.over("its 60 s are over")

    shown = run(order(user="ann"), act)[1]
    assert len(shown) == 1
    assert TOLD == ["web1 does not answer: no route.", "web2 p-1: the connection was lost"]


def test_a_host_of_which_nothing_is_heard_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(sessions, "LOOK_SECONDS", 0.1)

    def act(web1: FakeTrace, web2: FakeTrace, worker1: FakeTrace) -> None:
        web1.line(1)
        for host in (web2, worker1):
            host.over("its 60 s are over")

    assert len(run(order(user="ann"), act)[1]) == 1
    assert TOLD == ["web1 is silent: its trace is lost, and ends there by itself"]


def test_a_host_that_never_says_a_word_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "STARTING_SECONDS", 0.5)
    monkeypatch.setattr(sessions, "LOOK_SECONDS", 0.1)
    run(order(user="ann"), lambda _web1, *others: [host.over("its 60 s are over") for host in others])
    assert TOLD == ["web1 does not answer"]


def test_lines_that_were_shown_are_kept_though_all_hosts_are_lost() -> None:
    def act(web1: FakeTrace, web2: FakeTrace) -> None:
        web1.line(1)
        for host in (web1, web2):
            host.says("lost", error="the connection was lost")
            host.gone()

    assert len(run(order(request="r1"), act, hosts=(WEB1, WEB2))[1]) == 1


def test_hosts_count_as_armed_when_they_say_so() -> None:
    session = TraceSession(ENVIRONMENT, order(user="ann"), (WEB1, WEB2), by="ann")
    session.start()
    web1, web2 = FakeTrace.made
    web1.says("hello")
    web2.says("hello")
    web1.says("armed")
    seen: list[tuple[int, int]] = []

    def tick(progress: Progress) -> None:
        seen.append((progress.hosts, progress.pending))
        if len(seen) == 1:
            web2.says("armed")
        else:
            session.stop("seen")

    session.run(lambda _lines: None, tick)
    assert seen[:2] == [(1, 1), (2, 0)]


def test_nothing_that_can_be_traced_is_a_failure() -> None:
    def act(*hosts: FakeTrace) -> None:
        for host in hosts:
            host.gone(Failure(f"{host.host.name} does not answer: no route."))

    with pytest.raises(Failure, match=r"Nothing could be traced.*web1 does not answer") as caught:
        run(order(user="ann"), act)
    assert caught.value.code == Exit.UNAVAILABLE


def test_a_function_that_nobody_knows_ends_at_once_with_similar_ones() -> None:
    def act(*hosts: FakeTrace) -> None:
        for host in hosts:
            host.says("armed", functions=[], near=["longhaul.web.tus.Tus"])

    with pytest.raises(Failure, match=r"No process knows a function 'Tuss'") as caught:
        run(order(function="Tuss"), act)
    assert "Similar: longhaul.web.tus.Tus." in caught.value.hint


def test_a_function_that_one_host_knows_is_traced() -> None:
    def act(web1: FakeTrace, web2: FakeTrace, worker1: FakeTrace) -> None:
        for host in (web1, web2, worker1):
            host.says("hello")
        web1.says("armed", functions=[], near=[])
        web2.says("armed", functions=[], near=[])
        worker1.says("armed", functions=["m.f"], near=[])
        worker1.line(1)
        for host in (web1, web2, worker1):
            host.over("its 60 s are over")

    assert len(run(order(function="f"), act)[1]) == 1


def test_what_the_tracer_says_of_itself_is_told() -> None:
    def act(web1: FakeTrace, *others: FakeTrace) -> None:
        web1.line(1, "## 30 lines dropped in the last second", kind="notice")
        web1.line(2, "## ended: Ctrl-C; 5 lines", kind="notice")
        for host in (web1, *others):
            host.over("its 60 s are over")

    run(order(user="ann"), act)
    assert TOLD == ["web1 p-1: 30 lines dropped in the last second"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"request": "r1"}, ["--request=r1", "--seconds=60", "--lines=100000"]),
        ({"upload": "u1", "seconds": 5}, ["--upload=u1", "--seconds=5", "--lines=100000"]),
        ({"seconds": 5, "lines": 9}, ["--seconds=5", "--lines=9"]),
    ],
)
def test_what_is_asked_of_the_processes(options: dict[str, Any], words: list[str]) -> None:
    assert list(order(**options).words) == words


@pytest.mark.parametrize(
    "options", [{}, {"job": "5", "user": "ann"}, {"user": "ann", "seconds": -1}, {"seconds": 700_000}]
)
def test_orders_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(Failure) as caught:
        order(**options)
    assert caught.value.code == Exit.USAGE


# --- The proof --------------------------------------------------------------------------------------------------------


def test_the_proof_tells_this_trace_from_those_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, bobs = {"ids": {"trace": "t1"}, "by": "ann"}, {"ids": {"trace": "t2"}, "by": "bob"}
    answers = {
        "web1": {"web-1": {"traces": [bobs]}, "web-2": {"traces": []}},
        "web2": {"web-1": {"traces": [mine]}},
        "worker1": {"worker-1": {"error": "nobody listens"}},
    }
    monkeypatch.setattr(sessions, "armed", lambda _environment, host, _groups: answers[host.name])
    found = sessions.proof(ENVIRONMENT, order(user="ann"), (WEB1, WEB2, WORKER1), "t1")
    assert found.disarmed == ["web1"]
    assert found.armed == ["web2 web-1"]
    assert found.problems == ["worker1 worker-1: nobody listens."]
    assert found.others == ["web1 web-1 is also traced by bob"]
