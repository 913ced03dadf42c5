"""The options of the command line that scripts and attached processes share."""

from __future__ import annotations

import argparse
from typing import Any

from linetrace.limits import LimitError, Limits, Options


def add_limits(parser: argparse.ArgumentParser, defaults: Limits) -> None:
    """Add an option for each limit."""
    group = parser.add_argument_group("limits")
    group.add_argument("--lines", type=int, default=defaults.lines, metavar="N", help="end after N lines (%(default)s)")
    group.add_argument(
        "--seconds", type=float, default=defaults.seconds, metavar="N", help="end after N seconds (%(default)s)"
    )
    group.add_argument(
        "--per-second", type=int, default=defaults.per_second, metavar="N", help="show N lines a second (%(default)s)"
    )
    group.add_argument(
        "--per-location",
        type=int,
        default=defaults.per_location,
        metavar="N",
        help="show each line of the source N times, then only count it (%(default)s)",
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of what is shown beside lines."""
    group = parser.add_argument_group("beside lines, show")
    group.add_argument("--values", default="", metavar="NAME,...", help="values of local variables when they change")
    group.add_argument(
        "--allow-repr",
        default="",
        metavar="CLASS,...",
        help="call repr() of these classes (module.Class; * is a pattern)",
    )
    group.add_argument("--secrets", default="", metavar="NAME,...", help="mask the values of these names too")
    group.add_argument("--calls", action="store_true", help="calls with depth and arguments")
    group.add_argument("--returns", action="store_true", help="returned and yielded values")
    group.add_argument("--exceptions", action="store_true", help="exceptions, in each function that they pass")
    group.add_argument("--timing", action="store_true", help="the time since the line before")


def add_syslog(parser: argparse.ArgumentParser) -> None:
    """Add the options of the sink `syslog`."""
    group = parser.add_argument_group("syslog")
    group.add_argument("--facility", default="user", help="(%(default)s)")
    group.add_argument("--tag", default="linetrace", help="(%(default)s)")
    group.add_argument("--form", choices=["plain", "rfc5424"], default="plain", help="of messages (%(default)s)")


def limits_of(arguments: argparse.Namespace) -> Limits:
    """The limits of a command line. Raises LimitError."""
    return Limits(
        per_second=arguments.per_second,
        lines=arguments.lines,
        seconds=arguments.seconds,
        per_location=arguments.per_location,
    )


def options_of(arguments: argparse.Namespace) -> Options:
    """The options of a command line."""
    return Options(
        values=names(arguments.values),
        allow_repr=names(arguments.allow_repr),
        secrets=names(arguments.secrets),
        calls=arguments.calls,
        returns=arguments.returns,
        exceptions=arguments.exceptions,
        timing=arguments.timing,
    )


def names(text: str) -> tuple[str, ...]:
    """The names of a comma-separated list."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def ids_of(given: list[str]) -> dict[str, str]:
    """`["job=5"]` as ids. Raises LimitError."""
    ids: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise LimitError(f"an id is written NAME=VALUE, not {text!r}")
        ids[name] = value
    return ids
