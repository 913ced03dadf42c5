"""What all tasks share: how they are declared, how they ask, and how they fail."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import stat
import sys
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

import invoke
from rich.console import Console

from ops.errors import Exit, Failure
from ops.paths import ROOT

# What has no host to speak to.
NEVERREHEARSED = frozenset({"ops.secret_tasks", "ops.bootstrap"})
REHEARSE = inspect.Parameter("rehearse", inspect.Parameter.KEYWORD_ONLY, default="", annotation=str)
VERBOSE = inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=bool)

console = Console(stderr=True, highlight=False, soft_wrap=True)
verbose: ContextVar[bool] = ContextVar("verbose", default=False)
"""Whether the task was called with --verbose: what runs shows its own output."""


def task(
    *, name: str | None = None, outside: Callable[..., list[str]] | None = None, **options: Any
) -> Callable[[Callable[..., None]], invoke.Task[Any]]:
    """Declare an invoke task that shows a Failure as a message and an exit code, without a traceback.

    What it makes in the checkout as root is given to the owner of the checkout.

    Takes the options of invoke.task. A task of an environment (`env`) has also --verbose, and --rehearse, which runs it
    within the environment's rehearsal; `outside` is called with its arguments before that, where registries can still
    be reached, and returns more words for the command line.
    """

    def declare(function: Callable[..., None]) -> invoke.Task[Any]:
        signature = inspect.signature(function)
        of_environment = "env" in signature.parameters
        rehearses = of_environment and function.__module__ not in NEVERREHEARSED

        @functools.wraps(function)
        def run(*arguments: Any, **named: Any) -> None:
            if of_environment:
                verbose.set(named.pop("verbose", False))
            try:
                if rehearsed := named.pop("rehearse", "") if rehearses else "":
                    _rehearse(rehearsed, outside, named)
                function(*arguments, **named)
            except Failure as failure:
                _end(failure)
            except PermissionError as error:
                _end(_denied(error))
            except KeyboardInterrupt:
                console.print("interrupted")
                sys.exit(130)
            finally:
                give_to_owner(ROOT)

        more, explained = [], {}
        if of_environment:
            more.append(VERBOSE)
            explained["verbose"] = "show the output of Ansible itself"
        if rehearses:
            more.append(REHEARSE)
            explained["rehearse"] = "environment to rehearse this with, in a lab"
        if more:
            own = list(signature.parameters.values())
            run.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined] # PEP 362
            options["help"] = {**options.get("help", {}), **explained}
        declared: invoke.Task[Any] = invoke.task(name=name, **options)(run)
        return declared

    return declare


def _end(failure: Failure) -> NoReturn:
    unbroken = not console.is_terminal  # a line breaks between words where somebody reads it
    console.print(f"[bold red]error:[/] {_plain(failure.message)}", soft_wrap=unbroken)
    if failure.hint:
        console.print(f"[bold]what to do:[/] {_plain(failure.hint)}", soft_wrap=unbroken)
    sys.exit(int(failure.code))


def _denied(error: PermissionError) -> Failure:
    return Failure(
        f"{error.filename or 'This'} is not for this user: {error.strerror or error}.",
        "Run the same command as root: sudo ./inv ... (its end also gives what root has left in a checkout to the "
        "owner of the checkout).",
        Exit.NO_PERMISSION,
    )


def give_to_owner(tree: Path) -> None:
    """Give what root has made in a tree to the owner of the tree, who works there without sudo next.

    Files that have another name elsewhere stay root's: a package may share them with root's own cache.
    """
    owner = tree.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    for _, folders, files, place in os.fwalk(tree):
        for name in (*folders, *files):
            with contextlib.suppress(OSError):  # gone meanwhile, or on a file system that knows no owners
                found = os.stat(name, dir_fd=place, follow_symlinks=False)
                if found.st_uid == 0 and (stat.S_ISDIR(found.st_mode) or found.st_nlink == 1):
                    os.chown(name, owner.st_uid, owner.st_gid, dir_fd=place, follow_symlinks=False)


def _rehearse(environment: str, outside: Callable[..., list[str]] | None, named: dict[str, Any]) -> None:
    """Go on within a rehearsal. Raises Failure if it is not up."""
    from ops.lab import rehearsal

    words = rehearsal.words_within(sys.argv[1:], environment)
    if named.get("env") not in {"lab", environment}:
        raise Failure("Either --env or --rehearse.", "A rehearsal has the names of one environment.", Exit.USAGE)
    rehearsal.require_up(environment)
    more = outside(**named) if outside is not None else []
    rehearsal.enter(environment, [*words, *more])


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
