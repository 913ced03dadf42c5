"""Asks hosts by SSH: a command, or a program of ops/on_host; all hosts at once."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from invoke.runners import Result

from ops import on_host
from ops.environment import Environment, Host
from ops.errors import Exit, Failure

ANSWER_SECONDS = 20


class NoAnswer(Failure):
    """A host gave no answer: `reason` says why, without its name. Exit.UNAVAILABLE: not in time, or SSH did not get
    there.
    """

    def __init__(self, host: Host, reason: str, code: Exit) -> None:
        unreachable = code == Exit.UNAVAILABLE
        message = f"{host.name} does not answer: {reason}." if unreachable else f"{host.name}: {reason}"
        super().__init__(message, "See ./inv status." if unreachable else "", code)
        self.reason = reason


def run(
    environment: Environment,
    host: Host,
    line: str,
    *,
    stdin: str | None = None,
    seconds: float = ANSWER_SECONDS,
    show_progress: bool = False,
) -> Result:
    """Run a shell's command line on a host, which may fail. With `show_progress` what it says on standard error is
    shown meanwhile.

    Raises NoAnswer if SSH does not get there, or if it takes longer than `seconds`.
    """
    if stdin is not None:
        # In the command line, for what is fed through SSH's standard input may end in the middle.
        line = f"printf %s {base64.b64encode(stdin.encode()).decode()} | base64 --decode | {line}"
    try:
        with environment.connection(host) as connection:
            hide = "out" if show_progress else True
            said: Result = connection.run(line, hide=hide, warn=True, timeout=seconds)
            return said
    except Failure:
        raise
    except Exception as error:
        # Whatever SSH meets, it is this host that cannot be asked.
        raise NoAnswer(host, str(error) or type(error).__name__, Exit.UNAVAILABLE) from error


def answer(
    environment: Environment,
    host: Host,
    command: Sequence[str],
    *,
    stdin: str | None = None,
    seconds: float = ANSWER_SECONDS,
    show_progress: bool = False,
) -> Any:
    """What the command prints as JSON. Parameters as for `run`.

    Raises NoAnswer, with the last words of a command that failed.
    """
    said = run(environment, host, shlex.join(command), stdin=stdin, seconds=seconds, show_progress=show_progress)
    if said.return_code != 0:
        raise NoAnswer(host, said.stderr.strip()[-1500:] or f"exit code {said.return_code}", Exit.FAILED)
    return json.loads(said.stdout or "null")


def ask_program(environment: Environment, host: Host, name: str, *arguments: str, as_root: bool = True) -> Any:
    """What the program `name` of ops/on_host prints as JSON on a host.

    Raises NoAnswer, with the last words of a program that failed.
    """
    become = ["sudo", "-n"] if as_root else []
    command = [*become, "python3", "-c", on_host.path_of(name).read_text(), *arguments]
    return answer(environment, host, command)


def of_all[T](hosts: Sequence[Host], ask: Callable[[Host], T]) -> dict[str, T]:
    """Host name -> what `ask` says of it. Raises Failure with the reasons of all that did not answer."""

    def attempt(host: Host) -> T | Failure:
        try:
            return ask(host)
        except Failure as failure:
            return failure

    with ThreadPoolExecutor(max_workers=max(1, len(hosts))) as pool:
        found = dict(zip([host.name for host in hosts], pool.map(attempt, hosts), strict=True))
    failures = [failure for failure in found.values() if isinstance(failure, Failure)]
    if failures:
        raise Failure(" ".join(failure.message for failure in failures), failures[0].hint, failures[0].code)
    return {name: said for name, said in found.items() if not isinstance(said, Failure)}
