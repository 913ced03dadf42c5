"""The command `longhaul`: one subcommand per kind of process.

Exit codes: 0 done, 1 failed, 64 wrong usage, 78 wrong settings (as in sysexits.h).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from longhaul import __version__, logs
from longhaul.settings import Settings, SettingsError

FAILED, USAGE, CONFIGURATION = 1, 64, 78


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand: its line of help, what adds its arguments, and what runs it and returns the exit code."""

    help: str
    run: Callable[[argparse.Namespace], int]
    arguments: Callable[[argparse.ArgumentParser], object] = lambda _: None


def _settings() -> Settings:
    """The settings of this process. Sets up logging too. Raises SettingsError."""
    settings = Settings.from_environment()
    logs.setup(settings.server)
    return settings


def web(_: argparse.Namespace) -> int:
    """Serve uploads and pages until SIGTERM."""
    from longhaul import tracing
    from longhaul.web.server import serve

    settings = _settings()
    tracing.listen("web")
    serve(settings)
    return 0


def worker(_: argparse.Namespace) -> int:
    """Process uploaded files until SIGTERM."""
    import asyncio

    from longhaul import tracing
    from longhaul.processing.worker import run

    settings = _settings()
    tracing.listen("worker")
    return asyncio.run(run(settings))


def processor(_: argparse.Namespace) -> int:
    """Run one job for the worker at the other end of standard input. This process has no settings and no secrets."""
    from longhaul.processing.sandbox import main

    return main()


def migrate(arguments: argparse.Namespace) -> int:
    """Bring the database's tables to this release's shape."""
    from longhaul import schema

    heads = [head for head in arguments.kept_heads.split(",") if head]
    try:
        applied = schema.migrate(_settings(), arguments.phase, heads)
    except schema.MigrationError as error:
        logs.get(__name__).error(str(error))
        return FAILED
    logs.get(__name__).info("database is up to date", extra={"applied": applied})
    return 0


def _migrate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--phase", choices=["expand", "contract"], default="expand")
    parser.add_argument(
        "--kept-heads", default="", metavar="REVISION,...", help="for contract: newest revisions of all kept releases"
    )


COMMANDS = {
    "web": Command("serve uploads and pages", web),
    "worker": Command("process uploaded files", worker),
    "processor": Command("run one processor for a worker (systemd starts this for a socket)", processor),
    "migrate": Command(
        "bring the database to this release's shape",
        migrate,
        _migrate_arguments,
    ),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]  # exits like the one it overrides
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run the subcommand and return its exit code."""
    parser = _Parser(prog="longhaul", description="Upload-and-process application.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        command.arguments(subparsers.add_parser(name, help=command.help, description=command.help))
    chosen = parser.parse_args(arguments)
    try:
        return COMMANDS[chosen.command].run(chosen)
    except SettingsError as error:
        print(f"longhaul: {error}", file=sys.stderr)  # noqa: T201  # before there is a log
        return CONFIGURATION


if __name__ == "__main__":
    sys.exit(main())
