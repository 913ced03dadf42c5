"""Runs a command, or a program of ops/on_host, on hosts by SSH; on all hosts at once if wanted."""

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
    """A host gave no answer; `reason` says why, without the host's name. The code is Exit.UNAVAILABLE if SSH did not
    reach the host, or if the answer did not come in time.
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
    """Run a shell command on a host; the command may fail. With `show_progress`, its standard error is shown while it
    runs.

    Raises NoAnswer if SSH does not reach the host, or if the command takes longer than `seconds`.
    """
    if stdin is not None:
        # As part of the command line: what is sent as SSH's standard input may be cut off.
        line = f"printf %s {base64.b64encode(stdin.encode()).decode()} | base64 --decode | {line}"
    try:
        with environment.connection(host) as connection:
            hide = "out" if show_progress else True
            said: Result = connection.run(line, hide=hide, warn=True, timeout=seconds)
            return said
    except Failure:
        raise
    except Exception as error:
        # Whatever error SSH raises, it means that this host cannot be asked.
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
    """The JSON that a command prints, parsed. Parameters as for `run`.

    Raises NoAnswer, with the last words of a command that failed.
    """
    said = run(environment, host, shlex.join(command), stdin=stdin, seconds=seconds, show_progress=show_progress)
    if said.return_code != 0:
        raise NoAnswer(host, said.stderr.strip()[-1500:] or f"exit code {said.return_code}", Exit.FAILED)
    return json.loads(said.stdout or "null")


def ask_program(
    environment: Environment,
    host: Host,
    name: str,
    *arguments: str,
    as_root: bool = True,
    seconds: float = ANSWER_SECONDS,
) -> Any:
    """The JSON that the program `name` of ops/on_host prints on a host, parsed.

    Raises NoAnswer, with the last words of a program that failed.
    """
    become = ["sudo", "-n"] if as_root else []
    command = [*become, "python3", "-c", on_host.path_of(name).read_text(), *arguments]
    return answer(environment, host, command, seconds=seconds)


def of_all[T](hosts: Sequence[Host], ask: Callable[[Host], T]) -> dict[str, T]:
    """Host name -> what `ask` returns for it. Raises Failure with the reasons of all hosts that did not answer."""

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
