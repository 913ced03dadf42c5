"""How a task is declared: its options, its rehearsal, and how it fails."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import invoke

from ops.console import console, show_failure, verbose
from ops.errors import Exit, Failure
from ops.lab import rehearsal
from ops.lab.lab import Lab
from ops.paths import ROOT

OPTIONS = {
    "env": "environment that is meant: a folder of inventories/",
    "limit": "these hosts only, comma-separated",
    "reason": "why, for the lock and the record",
    "yes": "do not ask",
    "without-lock": "go ahead although etcd is away: you make sure that you are alone",
    "confirm": "the environment's name, instead of being asked for it",
    "json": "as JSON, for programs",
}
"""Options that mean the same in every task: name -> help. A task that has one need not explain it."""
REHEARSE = inspect.Parameter("rehearse", inspect.Parameter.KEYWORD_ONLY, default="", annotation=str)
VERBOSE = inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=bool)


def task(
    *,
    name: str | None = None,
    rehearses: bool = True,
    outside: Callable[..., list[str]] | None = None,
    **options: Any,
) -> Callable[[Callable[..., None]], invoke.Task[Any]]:
    """Declare an invoke task that shows a Failure as a message and an exit code, without a traceback.

    What it makes in the checkout as root is given to the owner of the checkout.

    Takes the options of invoke.task; `help` need not explain those of OPTIONS. A task of an environment (`env`) also
    has --verbose and, unless it has no host to speak to (`rehearses`), --rehearse: that runs it within the
    environment's rehearsal. `outside` is called with the task's arguments before that, where registries can still be
    reached, and returns more words for the command line.
    """

    def declare(function: Callable[..., None]) -> invoke.Task[Any]:
        signature = inspect.signature(function)
        of_environment = "env" in signature.parameters
        rehearsed_too = rehearses and of_environment
        names = {parameter.rstrip("_").replace("_", "-") for parameter in signature.parameters}
        explained = {name: text for name, text in OPTIONS.items() if name in names}
        options["help"] = {**explained, **options.get("help", {})}

        @functools.wraps(function)
        def run(*arguments: Any, **named: Any) -> None:
            if of_environment:
                verbose.set(named.pop("verbose", False))
            try:
                if rehearsed := named.pop("rehearse", "") if rehearsed_too else "":
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

        more = []
        if of_environment:
            more.append(VERBOSE)
            options["help"]["verbose"] = "show the output of Ansible itself"
        if rehearsed_too:
            more.append(REHEARSE)
            options["help"]["rehearse"] = "environment to rehearse this with, in a lab"
        if more:
            own = list(signature.parameters.values())
            run.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined] # PEP 362
        # No letters for options: invoke hands them out by order, and `-h` would be --rehearse or another one.
        declared: invoke.Task[Any] = invoke.task(name=name, auto_shortflags=False, **options)(run)
        return declared

    return declare


def lab_task(**options: Any) -> Callable[[Callable[..., None]], invoke.Task[Any]]:
    """Declare a task on the lab of LONGHAUL_LAB or, with --rehearse, on that of a rehearsal. Options as for `task`."""

    def declare(function: Callable[..., None]) -> invoke.Task[Any]:
        @functools.wraps(function)
        def run(*arguments: Any, rehearse: str = "", **named: Any) -> None:
            if rehearse:
                os.environ["LONGHAUL_LAB"] = Lab.rehearsing(rehearse).name
            function(*arguments, **named)

        signature = inspect.signature(function)
        own = list(signature.parameters.values())
        run.__signature__ = signature.replace(parameters=[*own, REHEARSE])  # type: ignore[attr-defined] # PEP 362
        which = {"rehearse": "environment whose rehearsal is meant, instead of the lab"}
        return task(**{**options, "help": {**options.get("help", {}), **which}})(run)

    return declare


def _end(failure: Failure) -> NoReturn:
    show_failure(failure)
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
    words = rehearsal.words_within(sys.argv[1:], environment)
    if named.get("env") not in {"lab", environment}:
        raise Failure("Either --env or --rehearse.", "A rehearsal has the names of one environment.", Exit.USAGE)
    rehearsal.require_up(environment)
    more = outside(**named) if outside is not None else []
    rehearsal.enter(environment, [*words, *more])
