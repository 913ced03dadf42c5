"""The command `python -m linetrace`: traces a script or a module from its start, or attaches to running processes.

Exit codes: those of the traced program; 2 wrong usage. `attach` has its own, see attach.py.
"""

# The current folder is in the path, and may hold a `json.py` of the traced program: it is taken out before any import.
import sys

if not sys.flags.safe_path and sys.path:
    del sys.path[0]

import argparse
from typing import NoReturn

from linetrace import options, script
from linetrace.limits import LimitError, Limits
from linetrace.sinks import SinkError

USAGE = 2


def parser() -> argparse.ArgumentParser:
    """The command line of scripts."""
    made = argparse.ArgumentParser(
        prog="python -m linetrace",
        usage="%(prog)s [options] script.py [arguments]\n       %(prog)s [options] -m module [arguments]\n"
        "       %(prog)s attach SOCKET... [options]\n       %(prog)s token ENVIRONMENT [options]",
        description="Show each line that a program executes, of its own files only: module:lineno: source.",
    )
    made.add_argument(
        "--to", default="stdout", help="stdout, stderr, fd:N, file:PATH, syslog or syslog:PATH (%(default)s)"
    )
    made.add_argument("--json", action="store_true", help="a JSON object for each line")
    made.add_argument(
        "--own", action="append", metavar="PATH", help="a folder or file to trace, instead of the script's"
    )
    made.add_argument(
        "--id", action="append", default=[], metavar="NAME=VALUE", help="an id to put on each line (job=5)"
    )
    options.add_options(made)
    options.add_limits(made, Limits.of_script())
    options.add_syslog(made)
    made.add_argument("-m", dest="module", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    made.add_argument("script", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return made


def main(words: list[str]) -> NoReturn:
    """Run the command line; does not return."""
    if words[:1] == ["attach"]:
        from linetrace import attach

        sys.exit(attach.main(words[1:]))
    if words[:1] == ["token"]:
        from linetrace import tokens

        sys.exit(tokens.main(words[1:]))
    command = parser()
    given = command.parse_args(words)
    program = ["-m", *given.module] if given.module else given.script
    if not program or program == ["-m"]:
        command.error("name a script or -m module")
    try:
        own = given.own or (script.own_of_module(program[1]) if given.module else script.own_of_script(program[0]))
        syslog = {"facility": given.facility, "tag": given.tag, "form": given.form}
        plan = script.Plan(
            own=tuple(own),
            to=given.to,
            json=given.json,
            syslog=syslog,
            ids=options.ids_of(given.id),
            limits=options.limits_of(given).as_json(),
            options=options.options_of(given).as_json(),
        )
        script.run(plan, program)
    except (script.ScriptError, SinkError, LimitError) as error:
        print(f"linetrace: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(USAGE)


if __name__ == "__main__":
    main(sys.argv[1:])
