"""The command `python -m linetrace attach SOCKET...`: traces running processes that listen, and prints the lines.

Lines go to standard output, what is said about them to standard error. With `--json` all messages go to standard output
as control.py describes them, each with the `process` that it is from. Ctrl-C ends the traces and waits until each
process has said that its trace is over.

`--status` and `--stacks` trace nothing. They print a JSON object: process -> its answer as control.py describes it, or
`error`.

With `--while-fed`, a caller sends a line to standard input now and then: an empty one, or `follow ID`, which goes to
the processes as the message `follow`.

Exit codes: 0 all traces ended at a limit or as wanted, 1 a process refused, did not answer or its connection was lost,
2 wrong usage.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from functools import partial
from typing import Any

from linetrace import options
from linetrace.client import LEASE_SECONDS, AttachError, Clients, answers, sockets, tell
from linetrace.control import PROTOCOL
from linetrace.limits import LimitError, Limits
from linetrace.selection import Selection

FAILED, USAGE = 1, 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m linetrace attach", description="Trace running processes.")
    made.add_argument(
        "socket", nargs="*", help="the control socket of a process, or a folder: the processes that listen in it"
    )
    made.add_argument(
        "--pid", type=int, help="instead of a socket: a process of Python 3.14 or newer that does not listen"
    )
    asked = made.add_mutually_exclusive_group()
    asked.add_argument("--status", action="store_true", help="say what is armed in the processes, as JSON, and end")
    asked.add_argument("--stacks", action="store_true", help="say where their threads and tasks are, as JSON, and end")
    made.add_argument("--json", action="store_true", help="print the messages of the processes")
    made.add_argument("--to", default="client", help="client, syslog (of the process's host), or both with a comma")
    made.add_argument("--own", action="append", metavar="PATH", help="a folder to trace, instead of the program's own")
    made.add_argument("--id", action="append", default=[], metavar="NAME=VALUE", help="an id to put on each line")
    made.add_argument("--by", default=getpass.getuser(), help="who asks (%(default)s); the program logs it")
    made.add_argument("--reason", default="", help="why; the program logs it")
    made.add_argument(
        "--while-fed",
        type=float,
        metavar="SECONDS",
        help="end when standard input ends, or brings nothing for so long: for a caller behind a line that may break",
    )
    group = made.add_argument_group("what to trace (everything, if nothing is said)")
    for name in ("request", "job", "upload", "user"):
        group.add_argument(f"--{name}", metavar="ID", help=f"what works for this {name}")
    group.add_argument("--next", action="store_true", help="the next request, of --method, --path and --user if given")
    group.add_argument("--method", default="", metavar="PATTERN")
    group.add_argument("--path", default="", metavar="PATTERN", help="* stands for anything")
    group.add_argument("--follow", default="", metavar="NAME", help="with --next: also all later work with its id NAME")
    group.add_argument("--function", metavar="PATTERN", help="the functions module.name that match")
    options.add_options(made)
    options.add_limits(made, Limits())
    return made


def main(words: list[str]) -> int:
    """Run the command line and return its exit code."""
    command = parser()
    given = command.parse_args(words)
    if bool(given.socket) == (given.pid is not None):
        command.error("name sockets or folders of them, or a process with --pid")
    try:
        message = arming(given)
    except (LimitError, ValueError) as error:
        command.print_usage(sys.stderr)
        tell(str(error))
        return USAGE
    try:
        paths = sockets(given.socket)
        if given.status or given.stacks:
            found = answers("stacks" if given.stacks else "status", paths)
            print(json.dumps(found, indent=2 if given.status else None))  # noqa: T201
            return FAILED if any("error" in status for status in found.values()) else 0
        clients = partial(Clients, as_json=given.json, fed_seconds=given.while_fed)
        if given.pid is None:
            return clients(paths).run(message)
        from linetrace.inject import listening

        with listening(given.pid, given.own or ()) as path:
            return clients([path]).run(message)
    except (AttachError, OSError) as error:
        tell(str(error))
        return FAILED


def arming(given: argparse.Namespace) -> dict[str, Any]:
    """The message that asks for the trace of a command line. Raises ValueError."""
    ids = {name: value for name in ("request", "job", "upload", "user") if (value := getattr(given, name)) is not None}
    if given.next or given.method or given.path:
        user = ids.pop("user", "")
        if ids or given.function:
            raise ValueError(
                "--next is for requests that have no id yet; leave out --request, --job, --upload, --function"
            )
        selection = Selection.next(method=given.method, path=given.path, user=user, follow=given.follow)
    elif given.function is not None:
        if ids:
            raise ValueError("a trace is of a function or of ids, not of both")
        selection = Selection.of_function(given.function)
    else:
        selection = Selection.of(**ids) if ids else Selection.everything()
    return {
        "type": "arm",
        "protocol": PROTOCOL,
        "selection": selection.as_json(),
        "limits": options.limits_of(given).as_json(),
        "options": options.options_of(given).as_json(),
        "folders": [os.path.abspath(path) for path in given.own or []],  # noqa: PTH100
        "to": list(options.names(given.to)),
        "ids": options.ids_of(given.id),
        "by": given.by,
        "reason": given.reason,
        "lease": LEASE_SECONDS,
    }
