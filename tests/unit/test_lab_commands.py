"""The lab's command line: lists of hosts and commands, which invoke has no word for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from invoke import Collection
from invoke.parser import Parser

from ops.tasks import lab as tasks
from ops.tasks.words import bare_words, words_after_dashes

Parse = Callable[..., dict[str, object]]


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Parse:
    """Parses a command line as invoke does, and returns the arguments of its one task."""

    def parsed(*words: str) -> dict[str, object]:
        monkeypatch.setattr("sys.argv", ["invoke", *words])
        contexts = Collection(Collection.from_module(tasks)).to_contexts()
        (found,) = Parser(contexts=contexts).parse_argv(list(words))
        return dict(found.as_kwargs)

    return parsed


@pytest.mark.parametrize(
    ("words", "hosts"),
    [
        ([], []),
        (["web1"], ["web1"]),
        (["web1", "web2"], ["web1", "web2"]),
        (["--volatile", "web1", "web2"], ["web1", "web2"]),
        (["web1", "--volatile", "web2"], ["web1", "web2"]),
        (["web1", "--rehearse", "prod", "web2"], ["web1", "web2"]),
        (["--rehearse=prod", "web1"], ["web1"]),
        (["--volatile"], []),
    ],
)
def test_up_takes_any_number_of_hosts_anywhere(parse: Parse, words: list[str], hosts: list[str]) -> None:
    found = parse("lab.up", *words)
    assert found["hosts"] == hosts
    assert found["volatile"] is ("--volatile" in words)
    assert found["rehearse"] == ("prod" if any("prod" in word for word in words) else "")


def test_down_takes_hosts_or_none(parse: Parse) -> None:
    assert parse("lab.down")["hosts"] == []
    assert parse("lab.down", "data1", "data2")["hosts"] == ["data1", "data2"]


def test_exec_takes_one_host_and_leaves_the_command_alone(parse: Parse) -> None:
    assert parse("lab.exec", "web1", "--", "ls", "--all") == {"host": "web1", "rehearse": ""}
    assert words_after_dashes(["x", "lab.exec", "web1", "--", "sh", "-c", "a  b", "--"]) == ["sh", "-c", "a  b", "--"]
    assert words_after_dashes(["x", "lab.exec", "web1"]) == []


def test_words_behind_dashes_are_no_hosts() -> None:
    assert bare_words("up", ["x", "lab.up", "web1", "--", "web2"], set()) == 1
    assert bare_words("up", ["x", "lab.down", "web1"], set()) == 0


def test_other_verbs_take_what_the_help_says(parse: Parse) -> None:
    lab = {"rehearse": ""}
    assert parse("lab.partition", "web1", "data1") == {"host": "web1", "other": "data1", **lab}
    assert parse("lab.shape", "web1", "5KB") == {"host": "web1", "rate": "5KB", **lab}
    assert parse("lab.client", "c1", "--rate=5KB") == {"name": "c1", "rate": "5KB", "remove": False, **lab}
    assert parse("lab.status", "--json") == {"json": True, **lab}
