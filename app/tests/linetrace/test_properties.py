"""Random programs: the same result and output traced and untraced, and the lines that sys.settrace has."""

from __future__ import annotations

import contextlib
import io
import itertools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

import linetrace
from linetrace import Limits, Options, Selection
from tests.linetrace.running import Live
from tests.linetrace.test_golden import REPEATED, assert_equal_but_for_repeats

NAMES = ("a", "b", "c")
_numbers = itertools.count()

names = st.sampled_from(NAMES)
expressions = st.one_of(
    st.integers(-3, 9).map(str),
    names,
    st.builds("({} + {})".format, names, names),
    st.builds("({} // {})".format, names, st.integers(0, 3)),
    st.builds("len([{} for _ in range({})])".format, names, st.integers(0, 3)),
    st.builds("sum(x for x in numbers({}))".format, st.integers(0, 3)),
    st.builds("call(lambda: {})".format, names),
    st.builds("(lambda v: v + {})({})".format, names, names),
)
type Lines = list[str]


def indented(body: Lines) -> Lines:
    """A block."""
    return [f"    {line}" for line in body]


def flat(blocks: list[Lines]) -> Lines:
    """Statements one after the other."""
    return [line for block in blocks for line in block]


simple = st.one_of(
    st.builds(lambda name, value: [f"{name} = {value}"], names, expressions),
    st.builds(lambda name, value: [f"{name} += {value}"], names, expressions),
    st.builds(lambda value: [f"print({value})"], expressions),
    st.builds(lambda value: [f"if {value} == 4: raise KeyError({value})"], expressions),
    st.builds(lambda value: [f"if {value} > 8: return {value}"], expressions),
    st.just(["pass"]),
    st.just(["del a", "a = 1"]),
)


def compound(inner: st.SearchStrategy[Lines]) -> st.SearchStrategy[Lines]:
    """Statements with blocks."""
    bodies = st.lists(inner, min_size=1, max_size=3).map(flat).map(indented)
    leaving = st.sampled_from([[], ["    break"], ["    continue"], ["    if a: break"]])
    return st.one_of(
        st.builds(lambda test, yes, no: [f"if {test} % 2:", *yes, "else:", *no], expressions, bodies, bodies),
        st.builds(lambda n, body, leave: [f"for b in range({n}):", *body, *leave], st.integers(0, 3), bodies, leaving),
        st.builds(
            lambda n, body, leave: [f"while c < {n} and spend():", *body, *leave, "else:", "    a = 0"],
            st.integers(0, 9),
            bodies,
            leaving,
        ),
        st.builds(
            lambda body, caught, last: [
                "try:",
                *body,
                "except (KeyError, ZeroDivisionError):",
                *caught,
                "finally:",
                *last,
            ],
            bodies,
            bodies,
            bodies,
        ),
        st.builds(lambda body: ["with manager('m'):", *body], bodies),
        st.builds(lambda body: ["def nested(a=1, b=2, c=3):", *body, "a = nested()"], bodies),
        st.builds(
            lambda value, body: [f"match {value}:", "    case 1 | 2:", *indented(body), "    case _:", "        c = 3"],
            expressions,
            bodies,
        ),
    )


programs = st.lists(st.recursive(simple, compound, max_leaves=8), min_size=1, max_size=5).map(flat)
HEAD = """\
from contextlib import contextmanager

def numbers(n):
    for i in range(n):
        yield i

def call(function):
    return function()

@contextmanager
def manager(name):
    print("enter", name)
    try:
        yield
    finally:
        print("exit", name)

left = []

def spend():
    return left.pop() if left else 0

def main(a, b, c):
    left[:] = range(12)
"""


def outcome(run: Callable[[], object]) -> tuple[object, str]:
    """What a run returns or raises, and prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        try:
            result: object = run()
        except Exception as error:  # noqa: BLE001  # of a random program
            result = (type(error), str(error), _frames(error)[1:])
    return result, output.getvalue()


def _frames(error: BaseException) -> list[int]:
    """The line numbers of a traceback."""
    traceback, numbers = error.__traceback__, []
    while traceback is not None:
        numbers.append(traceback.tb_lineno)
        traceback = traceback.tb_next
    return numbers


def classic_lines(run: Callable[[], object], filename: str) -> list[str]:
    """The line numbers of a file under sys.settrace; a repeated one is marked."""
    found: list[str] = []
    last: dict[int, int] = {}
    kept: list[FrameType] = []

    def local(frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line":
            kept.append(frame)  # so that its address is its own
            repeated = last.get(id(frame)) == frame.f_lineno
            last[id(frame)] = frame.f_lineno
            found.append(f"{REPEATED if repeated else ''}{frame.f_lineno}")
        return local

    def globally(frame: FrameType, _event: str, _argument: object) -> Any:
        return local if frame.f_code.co_filename == filename else None

    before = sys.gettrace()
    sys.settrace(globally)
    try:
        outcome(run)
    finally:
        sys.settrace(before)
    return found


@given(programs)
def test_random_programs_notice_nothing_and_have_the_lines_of_settrace(body: Lines) -> None:
    text = HEAD + "\n".join(indented(body)) + "\n    return a, b, c\n"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        filename = str(folder / f"random_{next(_numbers)}.py")
        Path(filename).write_text(text)
        code: CodeType = compile(text, filename, "exec")
        space: dict[str, Any] = {"__name__": "random_program"}
        exec(code, space)  # noqa: S102

        def run() -> object:
            return space["main"](1, 2, 3)

        untraced = outcome(run)
        expected = classic_lines(run, filename)
        limits = Limits(per_location=10**6)
        with Live(folder, limits=limits) as live:
            assert outcome(run) == untraced
        assert_equal_but_for_repeats([str(number) for number in live.lines], expected)

        options = Options(values=("*",), calls=True, returns=True, exceptions=True, timing=True)
        with Live(folder, limits=limits, options=options, selection=Selection.of(job="1")) as full:
            assert outcome(run) == untraced
            with linetrace.bound(job=1):
                assert outcome(run) == untraced
            assert outcome(run) == untraced
        assert_equal_but_for_repeats([str(number) for number in full.lines], expected)
