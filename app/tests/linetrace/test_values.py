"""Values are shown short, without the program's code being run and without secrets."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linetrace import Options
from linetrace.limits import LONGEST_TEXT
from linetrace.record import duration
from linetrace.values import Shower, type_name
from tests.linetrace.running import Live, module

SECRET = "hunter2-geheim"
SECRETS = [
    {"password": SECRET},
    {"a": {"api_key": SECRET}},
    {b"authorization": SECRET},
    [(b"cookie", b"sid=" + SECRET.encode())],
    [["X-Auth-Token", SECRET]],
    f"postgresql://ann:{SECRET}@db/app",
    f"Bearer {SECRET}",
    f"password={SECRET}&x=1",
    f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}",
    f"Basic {SECRET}".encode(),
    "x" * (LONGEST_TEXT - 25) + f"postgresql://ann:{SECRET}@db",
    {"deep": [{"csrfmiddlewaretoken": SECRET}]},
    ValueError(f"cannot reach https://ann:{SECRET}@host/"),
]
SECRET_NAMES = ["password", "db_passwd", "API_KEY", "apikey", "token", "csrf_token", "secretValue", "private_key"]
SECRET_NAMES += [
    "Authorization",
    "cookies",
    "auth",
    "pin",
    "key",
    "session_id",
    "credentials",
    "dsn",
    "otp_code",
    "jwt",
]
HARMLESS_NAMES = [
    "compass",
    "keyboard",
    "monkey",
    "author",
    "passed",
    "path",
    "spin",
    "total",
    "size",
    "name",
    "keys_seen",
]


@pytest.mark.parametrize("value", SECRETS, ids=lambda value: repr(value)[:40])
def test_secrets_inside_of_values_are_masked(value: Any) -> None:
    shower = Shower()
    text = shower.exception(value) if isinstance(value, Exception) else shower.show(value)
    assert SECRET not in text
    assert SECRET[:7] not in text
    assert "***" in text


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_secrets_by_name_are_masked(name: str) -> None:
    assert Shower().named(name, SECRET) == "***"


@pytest.mark.parametrize("name", HARMLESS_NAMES)
def test_other_names_are_not(name: str) -> None:
    assert Shower().named(name, 5) == "5"


@given(st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", min_size=24, max_size=64))
def test_random_letters_are_masked_wherever_they_stand(letters: str) -> None:
    """As `secrets.token_urlsafe` makes them; letters of one case only are names, numbers and checksums."""
    masked = letters.upper() != letters != letters.lower()
    for value in (letters, f"https://x/files/{letters}/7", ("id", 5, letters), {"at": [letters]}, letters.encode()):
        assert (letters in Shower().show(value)) != masked


@pytest.mark.parametrize(
    "text",
    [
        "0123456789abcdef" * 4,
        "a-file-with-a-very-long-name.tar.gz",
        "550e8400-e29b-41d4-a716-446655440000",
        "NotSoLongAClassName",
    ],
)
def test_names_and_checksums_are_not(text: str) -> None:
    assert Shower().show(text) == repr(text)


def test_further_names_can_be_masked() -> None:
    assert Shower(secrets=["internal_*"]).named("internal_id", 5) == "***"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (-5, "-5"),
        (1.5, "1.5"),
        ("a'b", '"a\'b"'),
        (b"\x00a", "b'\\x00a'"),
        ([1, "a", (2,)], "[1, 'a', (2,)]"),
        ({"a": {1}}, "{'a': {1}}"),
        (set(), "set()"),
        (frozenset({1}), "frozenset({1})"),
        ([[[[1]]]], "[[[[…]]]]"),
        (list(range(12)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, … 12 items]"),
        (10**200, "<int of 665 bits>"),
        (2**100_000, "<int of 100001 bits>"),
        (int, "<type>"),
        (object, "<type>"),
        (range(3), "range(0, 3)"),
        (sys, "<module>"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_built_in_values(value: object, text: str) -> None:
    assert Shower().show(value) == text


def test_long_values_are_cut() -> None:
    assert Shower().show("x" * 1000) == "'" + "x" * (LONGEST_TEXT - 2) + "…"
    assert len(Shower().show(["y" * 150] * 5)) == LONGEST_TEXT
    assert len(Shower().show({"z" * 500: b"z" * 500})) == LONGEST_TEXT


def test_no_code_of_the_program_is_run(tmp_path: Path) -> None:
    text = """\
ran = []

class Meta(type):
    def __getattribute__(self, name):
        ran.append(name)
        return type.__getattribute__(self, name)

class Touchy(metaclass=Meta):
    def __repr__(self):
        ran.append("repr")
    __str__ = __len__ = __iter__ = __eq__ = __hash__ = __bool__ = __getattr__ = __format__ = __repr__

class Text(str):
    def __repr__(self):
        ran.append("text")
        return "x"

class Failure(Exception):
    def __str__(self):
        ran.append("failure")
        return "x"
    __repr__ = __str__

def go(touchy, text):
    touchy_again = [touchy, text, {"a": touchy}]
    try:
        raise Failure(touchy)
    except Failure:
        touchy_again = None
"""
    touchy = module(tmp_path, text)
    thing = touchy.Touchy()
    touchy.ran.clear()
    options = Options(values=("t*",), calls=True, returns=True, exceptions=True)
    with Live(tmp_path, options=options) as live:
        touchy.go(thing, touchy.Text("a"))
    assert touchy.ran == []
    name = touchy.__name__
    assert f"!! {name}.Failure(<{name}.Touchy>)" in live.sink.texts("exception")
    assert f"-> go(touchy=<{name}.Touchy>, text=<{name}.Text>) depth 1" in live.sink.texts("call")


def test_a_repr_that_is_allowed_is_called_and_may_fail() -> None:
    class Good:
        def __repr__(self) -> str:
            return f"Good({'x' * 500}, password={SECRET})"

    class Bad:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    shower = Shower(allow_repr=["*.Good", "*.Bad"])
    assert shower.show(Good()).startswith("Good(xxx")
    assert len(shower.show(Good())) == LONGEST_TEXT
    assert shower.show([Bad()]) == f"[<{type_name(Bad)}: RuntimeError>]"
    assert Shower().show(Good()) == f"<{type_name(Good)}>"


def test_values_are_shown_when_they_change_at_the_line_that_changed_them(tmp_path: Path) -> None:
    text = """\
def f(items):
    total = 0
    for item in items:
        total += item
        same = 1
    del total
    items.append(5)
    return 3
class Space:
    total = 7
    other = 8
total = 9
"""
    with Live(tmp_path, options=Options(values=("total", "same", "items"))) as live:
        made = module(tmp_path, text)
        made.f([1, 2])
    shown = [(line.number, line.text) for line in live.sink.lines if line.kind == "value"]
    assert shown == [
        (10, "== total = 7"),
        (12, "== total = 9"),
        (1, "== items = [1, 2]"),
        (2, "== total = 0"),
        (4, "== total = 1"),
        (5, "== same = 1"),
        (4, "== total = 3"),
        (7, "== items = [1, 2, 5]"),
    ]


def test_values_of_recursive_calls_and_generators_are_kept_apart(tmp_path: Path) -> None:
    text = """\
def fall(n):
    if n:
        fall(n - 1)
    return n
def count():
    n = 1
    yield n
    n = 2
    yield n
"""
    made = module(tmp_path, text)
    with Live(tmp_path, options=Options(values=("n",))) as live:
        made.fall(2)
        list(zip(made.count(), made.count(), strict=True))
    shown = [(line.number, line.text) for line in live.sink.lines if line.kind == "value"]
    assert shown == [
        *[(1, f"== n = {n}") for n in (2, 1, 0)],
        *[(6, "== n = 1")] * 2,
        *[(8, "== n = 2")] * 2,
    ]  # fmt: skip


def test_reading_values_leaves_locals_as_they_are(tmp_path: Path) -> None:
    made = module(tmp_path, "def f():\n    x = 1\n    kept = locals()\n    y = 2\n    return sorted(kept)\n")
    with Live(tmp_path, options=Options(values=("x", "y"))):
        found = made.f()
    # Python 3.12 refreshes the dictionary of locals() when a tracer looks (PEP 667 has changed that in 3.13).
    assert found == (["x"] if sys.version_info >= (3, 13) else ["kept", "x", "y"])


def test_returns_and_yields_of_functions_with_secret_names_are_masked(tmp_path: Path) -> None:
    made = module(tmp_path, "def get_token():\n    return 'abc'\ndef numbers():\n    yield 1\n    return 2\n")
    with Live(tmp_path, options=Options(returns=True)) as live:
        made.get_token()
        list(made.numbers())
    assert live.sink.texts("return", "yield") == ["<- get_token = ***", "<~ numbers = 1", "<- numbers = 2"]


def test_an_exception_is_shown_in_each_function_that_it_passes(tmp_path: Path) -> None:
    text = """\
def inner():
    raise KeyError('k')
def outer():
    try:
        inner()
    except KeyError:
        return 1
"""
    made = module(tmp_path, text)
    with Live(tmp_path, options=Options(exceptions=True)) as live:
        made.outer()
    shown = [(line.number, line.text) for line in live.sink.lines if line.kind == "exception"]
    assert shown == [(2, "!! KeyError('k')"), (5, "!! KeyError('k')")]


def test_timing_is_the_time_since_the_line_before_of_the_same_thread(tmp_path: Path) -> None:
    made = module(tmp_path, "import time\ndef f():\n    time.sleep(0.05)\n    return 1\n")
    with Live(tmp_path, options=Options(timing=True)) as live:
        made.f()
    first, second = [line.since for line in live.sink.lines if line.kind == "line"]
    assert first is None
    assert second is not None
    assert 0.05 <= second < 5


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.234, "1.23 s"), (0.01234, "12.34 ms"), (0.0000071, "7 us"), (0, "0 us")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_values_in_json_are_json(tmp_path: Path) -> None:
    from linetrace.record import as_json

    made = module(tmp_path, "def f():\n    x = '\\udc80ä\\n'\n    return x\n")
    with Live(tmp_path, options=Options(values=("x",))) as live:
        made.f()
    for line in live.sink.lines:
        assert json.loads(as_json(line))["source"] == line.text
        assert "\n" not in as_json(line)
