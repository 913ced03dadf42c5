"""Runs a script or a module under the tracer exactly as Python alone would: in an interpreter of its own.

The tracer does not call the script, as debuggers do. `run` replaces this process by `python script.py arguments...`
(exec keeps the process id, the descriptors and what signals do), in which the tracer starts by itself before the
program (boot/sitecustomize.py). So `sys.argv`, `__main__`, the exit code, death by a signal, tracebacks, the depth of
the stack and what is imported are Python's own.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.machinery import PathFinder
from typing import Any, NoReturn

from linetrace.arm import arm_directly
from linetrace.limits import Limits, Options
from linetrace.own import in_library
from linetrace.sinks import open_sink

BOOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "boot")  # noqa: PTH100, PTH118, PTH120


class ScriptError(Exception):
    """The script cannot be traced. The text says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a script is traced. `own` are folders or files; `to` and `json` name the sink, `syslog` its parameters."""

    own: tuple[str, ...]
    to: str
    json: bool
    syslog: dict[str, str]
    ids: dict[str, str]
    limits: dict[str, Any]
    options: dict[str, Any]


def as_text(plan: Plan) -> str:
    """The plan as `begin` reads it."""
    return json.dumps(asdict(plan))


def run(plan: Plan, arguments: Sequence[str]) -> NoReturn:
    """Become `python ARGUMENTS`, traced as planned. Raises ScriptError, SinkError."""
    flags = sys.flags
    if flags.ignore_environment or flags.isolated or flags.no_site:
        raise ScriptError("python -E, -I and -S also keep the tracer out: use python without them")
    open_sink(plan.to, json=plan.json, **plan.syslog).close()  # type: ignore[arg-type]  # fail before the program runs
    environment = {**given_environment(), "LINETRACE_BOOT": as_text(plan)}
    before = environment.get("PYTHONPATH")
    if before is not None:
        environment["LINETRACE_PYTHONPATH"] = before
    environment["PYTHONPATH"] = os.pathsep.join([BOOT, before] if before else [BOOT])
    sys.stdout.flush()
    sys.stderr.flush()
    # The name by which Python was called, since the program sees it too.
    command = [sys.orig_argv[0], *interpreter_flags(sys.orig_argv), *arguments]
    os.execve(sys.executable, command, environment)  # noqa: S606


def given_environment() -> dict[str, str]:
    """The environment as this process was given it: Python may have set LC_CTYPE at its start (PEP 538)."""
    environment = dict(os.environ)
    with suppress(OSError), open("/proc/self/environ", "rb") as file:  # noqa: PTH123  # no /proc: kept
        if not any(entry.startswith(b"LC_CTYPE=") for entry in file.read().split(b"\0")):
            environment.pop("LC_CTYPE", None)
    return environment


def interpreter_flags(command: Sequence[str]) -> list[str]:
    """The interpreter's own options of a command `python OPTIONS -m linetrace ...`: `-X`, `dev`, `-W`, `error`, ..."""
    flags: list[str] = []
    for position, word in enumerate(command[1:], start=1):
        following = command[position + 1 : position + 2]
        if word.startswith("-") and not word.startswith("--"):
            if word.endswith("mlinetrace"):
                return flags + _without_m(word.removesuffix("linetrace"))
            if word.endswith("m") and following == ["linetrace"]:
                return flags + _without_m(word)
        flags.append(word)
    return []


def _without_m(word: str) -> list[str]:
    return [word[:-1]] if word != "-m" else []


def own_of_script(script: str) -> tuple[str, ...]:
    """The own files of a script: its folder, or the folder that it is; itself whatever its name. Raises ScriptError."""
    if not os.path.exists(script):  # noqa: PTH110
        raise ScriptError(f"there is no script {script}")
    real = os.path.realpath(script)
    return (real,) if os.path.isdir(real) else (os.path.dirname(real), real)  # noqa: PTH112, PTH120


def own_of_module(name: str) -> tuple[str, ...]:
    """The own files of `-m NAME`: the current folder if the module lies in it, else its package, or its one file.

    Nothing is imported. Raises ScriptError.
    """
    here = os.getcwd()  # noqa: PTH109
    spec = PathFinder.find_spec(name.partition(".")[0], [here, *sys.path])
    if spec is None:
        raise ScriptError(f"there is no module {name}")
    places = [os.path.realpath(place) for place in spec.submodule_search_locations or [spec.origin or here]]
    inside = [place for place in places if place.startswith(os.path.realpath(here) + os.sep) and not in_library(place)]
    return (os.path.realpath(here),) if inside else tuple(places)


def begin(plan_text: str) -> None:
    """Start the trace of this process: called before the program. Raises NoFreeTool, SinkError."""
    values = json.loads(plan_text)
    plan = Plan(**{**values, "own": tuple(values["own"])})
    finish = arm_directly(
        plan.own,
        open_sink(plan.to, json=plan.json, **plan.syslog),  # type: ignore[arg-type]
        limits=Limits.from_json(plan.limits),
        options=Options.from_json(plan.options),
        ids=plan.ids,
    )
    # The first to be registered is the last to be called: what the program does at its exit is traced.
    atexit.register(finish)
