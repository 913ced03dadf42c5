"""The terminal: prints messages for people, and asks them questions."""

from __future__ import annotations

import sys
from contextvars import ContextVar

from rich.console import Console

from ops.errors import Exit, Failure

console = Console(stderr=True, highlight=False, soft_wrap=True)
"""For people, on standard error. Standard output is for what programs read."""
verbose: ContextVar[bool] = ContextVar("verbose", default=False)
"""Whether the task was called with --verbose: the output of Ansible itself is shown."""


def confirm(question: str, *, yes: bool, unasked: str = "Add --yes to go ahead without asking.") -> None:
    """Ask before something is changed, unless `yes`; `unasked` says how to answer beforehand.

    Raises Failure if the answer is not yes, or if there is nobody to ask.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Failure(f"{question} Nobody is there to answer.", unasked, Exit.USAGE)
    if input(f"{question} [y/N] ").strip().lower() not in {"y", "yes"}:
        raise Failure("Nothing was changed.", code=Exit.FAILED)


def name_again(question: str, name: str, *, given: str) -> None:
    """Let the operator type a name before something is lost, unless it was `given` as an option.

    Raises Failure if another name is typed, or if there is nobody to ask.
    """
    if not given:
        if not sys.stdin.isatty():
            raise Failure(f"{question} Nobody is there to answer.", f"Add --confirm={name} to go ahead.", Exit.USAGE)
        given = input(f"{question} Type its name: ").strip()
    if given != name:
        raise Failure(f"'{given}' is not '{name}': nothing was changed.", code=Exit.USAGE)


def show_failure(failure: Failure) -> None:
    """Print what happened and what to do about it."""
    unbroken = not console.is_terminal  # a line breaks between words where somebody reads it
    console.print(f"[bold red]error:[/] {_plain(failure.message)}", soft_wrap=unbroken)
    if failure.hint:
        console.print(f"[bold]what to do:[/] {_plain(failure.hint)}", soft_wrap=unbroken)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
