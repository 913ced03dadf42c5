"""What all tasks share: how they are declared, how they ask, and how they fail."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import invoke
from rich.console import Console

from ops.errors import Exit, Failure

console = Console(stderr=True, highlight=False, soft_wrap=True)


def task(*, name: str | None = None, **options: Any) -> Callable[[Callable[..., None]], invoke.Task[Any]]:
    """Declare an invoke task that shows a Failure as a message and an exit code, without a traceback.

    Takes the options of invoke.task.
    """

    def declare(function: Callable[..., None]) -> invoke.Task[Any]:
        @functools.wraps(function)
        def run(*arguments: Any, **named: Any) -> None:
            try:
                function(*arguments, **named)
            except Failure as failure:
                console.print(f"[bold red]error:[/] {_plain(failure.message)}")
                if failure.hint:
                    console.print(f"[bold]what to do:[/] {_plain(failure.hint)}")
                sys.exit(int(failure.code))
            except KeyboardInterrupt:
                console.print("interrupted")
                sys.exit(130)

        declared: invoke.Task[Any] = invoke.task(name=name, **options)(run)
        return declared

    return declare


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is changed, unless `yes`.

    Raises Failure if the answer is not yes, or if there is nobody to ask.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Failure(f"{question} Nobody is there to answer.", "Add --yes to go ahead without asking.", Exit.USAGE)
    if input(f"{question} [y/N] ").strip().lower() not in {"y", "yes"}:
        raise Failure("Nothing was changed.", code=Exit.FAILED)


def name_again(question: str, name: str, *, given: str) -> None:
    """Ask for a name to be typed before something is lost, unless it was `given` as an option.

    Raises Failure if it is another one, or if there is nobody to ask.
    """
    if not given:
        if not sys.stdin.isatty():
            raise Failure(f"{question} Nobody is there to answer.", f"Add --confirm={name} to go ahead.", Exit.USAGE)
        given = input(f"{question} Type its name: ").strip()
    if given != name:
        raise Failure(f"'{given}' is not '{name}': nothing was changed.", code=Exit.USAGE)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
