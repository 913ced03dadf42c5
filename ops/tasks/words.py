"""Command-line arguments that invoke itself cannot parse: any number of host names, and a command after `--`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

from invoke import Task
from invoke.parser import Argument
from invoke.parser.context import to_flag

HOSTS = "hosts"


class Names(Argument):
    """A positional argument that takes as many bare words as it is told to expect, none or many.

    invoke asks a positional argument whether it still has no value (None) before each word, and once more at the end.
    """

    def __init__(self, expected: int, **options: Any) -> None:
        super().__init__(name=HOSTS, kind=list, positional=True, **options)
        self._expected = expected
        self._words: list[str] = []

    @property
    def value(self) -> Any:
        """The words so far; None while one is still to come."""
        return self._words if len(self._words) >= self._expected else None

    @value.setter
    def value(self, word: str) -> None:
        self.raw_value = word
        self._words.append(word)


class TaskWithHosts(Task[Callable[..., None]]):
    """A task whose parameter `hosts` is the bare words behind its name: `lab.up --volatile web1 web2`.

    It is the last task of a command line: names of tasks behind it would be taken for hosts.
    """

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        """invoke's own arguments, with `hosts` replaced."""
        listed = super().get_arguments(ignore_unknown_help)
        others = [argument for argument in listed if argument.name != HOSTS]
        valued = {to_flag(name) for argument in others if argument.takes_value for name in argument.names}
        help_text = next(argument.help for argument in listed if argument.name == HOSTS)
        return [Names(bare_words(self.name, sys.argv, valued), help=help_text), *others]


def bare_words(task: str, line: Sequence[str], valued: Collection[str]) -> int:
    """Count the words behind the task's name (`up` or `lab.up`) that are neither flags nor values of flags.

    `valued` are the flags that take a value (`--env`).
    """
    begin = next((place for place, word in enumerate(line) if word.rpartition(".")[2] == task), None)
    if begin is None:
        return 0
    count = 0
    words = iter(line[begin + 1 :])
    for word in words:
        if word == "--":
            break
        if word in valued:
            next(words, None)
        elif not word.startswith("-"):
            count += 1
    return count


def words_after_dashes(line: Sequence[str]) -> list[str]:
    """The command after `--`, word by word; invoke itself would join them with blanks."""
    return list(line[line.index("--") + 1 :]) if "--" in line else []
