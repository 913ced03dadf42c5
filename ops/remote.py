"""Asks hosts by SSH for an answer in JSON: one command each, all hosts at once."""

from __future__ import annotations

import base64
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ops.environment import Environment, Host
from ops.errors import Exit, Failure

ANSWER_SECONDS = 20


def answer(
    environment: Environment,
    host: Host,
    command: Sequence[str],
    *,
    stdin: str = "",
    seconds: float = ANSWER_SECONDS,
    show_progress: bool = False,
) -> Any:
    """What the command prints as JSON. With `show_progress` what it says on standard error is shown meanwhile.

    Raises Failure with the last words of the command, or if the host does not answer within `seconds`; its code is
    Exit.UNAVAILABLE if SSH does not get there.
    """
    line = shlex.join(command)
    if stdin:
        # In the command line, for what is fed through SSH's standard input may end in the middle.
        line = f"printf %s {base64.b64encode(stdin.encode()).decode()} | base64 --decode | {line}"
    try:
        with environment.connection(host) as connection:
            hide = "out" if show_progress else True
            said = connection.run(line, hide=hide, warn=True, timeout=seconds, err_stream=sys.stderr)
    except Failure:
        raise
    except Exception as error:
        raise Failure(
            f"{host.name} does not answer: {str(error) or type(error).__name__}.", "See ./inv status.", Exit.UNAVAILABLE
        ) from error
    if said.return_code != 0:
        raise Failure(f"{host.name}: {said.stderr.strip()[-1500:] or f'exit code {said.return_code}'}")
    return json.loads(said.stdout or "null")


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
