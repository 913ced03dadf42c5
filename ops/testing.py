"""Runs the tests: quick ones first, then every role on a lab host, then the whole system from one snapshot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ops.roles
from ops.console import console
from ops.errors import Exit, Failure
from ops.lab import machine
from ops.paths import ARTEFACTS, ROLES, ROOT, tool
from ops.tasks.declare import task

TEST_LAB = "test"
LONG_SCENARIOS = frozenset({"etcd", "postgresql", "storage", "web"})
"""Begun first: begun late, one of them would end alone, on one of several processors."""
APP_TESTS = ("app/tests", "-q", "-n", "2", "--dist")


@dataclass(frozen=True)
class Stage:
    """A part of the test run: its name for --only, what it shows, and how it is run."""

    name: str
    shows: str
    run: Callable[[], None]


@task(
    name="test",
    help={"only": "stages to run, comma-separated: lint, fast, app, molecule (or molecule:ROLE), system, soak"},
)
def run_tests(_context: object, only: str = "") -> None:
    """Run the tests, quick ones first."""
    stages = chosen(only)
    started = time.monotonic()
    failed: list[str] = []
    for stage in stages:
        console.rule(f"{stage.name}: {stage.shows}")
        begun = time.monotonic()
        try:
            stage.run()
            console.print(f"{stage.name}: passed in {time.monotonic() - begun:.0f} s")
        except Failure as failure:
            console.print(f"{stage.name}: FAILED in {time.monotonic() - begun:.0f} s: {failure.message}")
            failed.append(stage.name)
            if stage.name in {"lint", "fast"}:
                break  # a mistake that is seen in a minute is not worth an hour of labs
    console.rule(f"{len(stages)} stages in {time.monotonic() - started:.0f} s")
    if failed:
        raise Failure(f"Failed: {', '.join(failed)}.", f"Run one alone: ./inv test --only={failed[0]}")


@task()
def lint(_context: object) -> None:
    """Check style, types and playbooks."""
    _lint()


def _lint() -> None:
    commands = [
        ["ansible-lint", "--offline", "--strict"],
        ["mypy"],
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["yamllint", "--strict", "."],
    ]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        answers = list(pool.map(_quietly, commands))
    for answer in answers:
        sys.stdout.write(answer.stdout)
    failed = [command[0] for command, answer in zip(commands, answers, strict=True) if answer.returncode != 0]
    if failed:
        raise Failure(f"Not clean: {', '.join(failed)}.")


def _quietly(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run one of several commands at a time; what it says comes with the answer."""
    return subprocess.run(
        [tool(command[0]), *command[1:]],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def _pytest(*arguments: str, environment: dict[str, str] | None = None) -> None:
    command = [sys.executable, "-m", "pytest", *arguments]
    code = _run(command, environment)
    if code != 0:
        raise Failure(f"pytest ended with {code}.")


def _run(command: list[str], environment: dict[str, str] | None = None) -> int:
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **(environment or {})}, check=False).returncode


def _fast() -> None:
    _pytest("tests/unit", "tests/render", "tests/structure", "-q", "-n", "2")


def _ensure_browser() -> None:
    """Install Debian's Chromium where that can be done; elsewhere the tests that use it say what is missing."""
    if shutil.which("chromium") is None and shutil.which("apt-get") is not None and os.geteuid() == 0:
        console.print("installing Chromium for the tests of the pages")
        machine.install("chromium")


def _app() -> None:
    _ensure_browser()
    _pytest(*APP_TESTS, "loadfile")  # the tests of some files share a server


def _molecule(names: list[str]) -> None:
    """Run scenarios beside each other, one more than the machine has processors: scenarios wait a lot."""
    logs = ARTEFACTS / "molecule"
    logs.mkdir(parents=True, exist_ok=True)
    names = sorted(names, key=lambda name: name not in LONG_SCENARIOS)
    with ThreadPoolExecutor(max_workers=(os.cpu_count() or 1) + 1) as pool:
        good = dict(zip(names, pool.map(lambda name: _scenario(name, logs / f"{name}.log"), names), strict=True))
    failed = [name for name in names if not good[name]]
    console.print(f"molecule: {len(names) - len(failed)} passed, {len(failed)} failed")
    if failed:
        raise Failure(f"molecule failed for {', '.join(failed)} (logs in {logs}).")


def _scenario(role: str, log: Path) -> bool:
    """Run one role's scenario, its output going to a log that is shown only if the scenario fails."""
    begun = time.monotonic()
    with log.open("w") as output:
        answer = subprocess.run(
            [tool("molecule"), "test"],
            cwd=ROLES / role,
            env={**os.environ, **ops.roles.settings(role)},
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    good = answer.returncode == 0
    console.print(f"  {role:<12} {'ok' if good else 'FAILED'} {time.monotonic() - begun:5.0f} s")
    if not good:
        lines = log.read_text(errors="replace").splitlines()
        console.print("\n".join(lines[-120:]), markup=False)
    return good


def _system() -> None:
    _ensure_browser()
    _pytest("tests/system", "tests/browser", "-q", environment={"LONGHAUL_LAB": TEST_LAB})


def _soak() -> None:
    _ensure_browser()
    # Two runs: the application's tests have a configuration of their own.
    failed = []
    # Nearly all of the application's time goes into two tests, which stand in one file.
    for arguments in (("tests/soak", "-q"), (*APP_TESTS, "worksteal")):
        try:
            _pytest(*arguments, environment={"LONGHAUL_LAB": TEST_LAB, "LONGHAUL_SOAK": "1"})
        except Failure as failure:
            failed.append(f"{arguments[0]}: {failure.message}")
    if failed:
        raise Failure(" ".join(failed))


STAGES = (
    Stage("lint", "style, types and playbooks", _lint),
    Stage("fast", "unit, render and structure tests", _fast),
    Stage("app", "the application against a throwaway PostgreSQL", _app),
    Stage("molecule", "every role on lab hosts", lambda: _molecule(ops.roles.names())),
    Stage("system", "the whole lab: deploy, uploads, faults, browser", _system),
)
SOAK = Stage("soak", "what takes longer than a test run may", _soak)


def chosen(only: str) -> list[Stage]:
    if not only:
        return list(STAGES)
    known = {stage.name: stage for stage in (*STAGES, SOAK)}
    chosen: list[Stage] = []
    for name in only.split(","):
        stage, _, role = name.strip().partition(":")
        if stage == "molecule" and role:
            if role not in ops.roles.names():
                raise Failure(f"There is no role '{role}'.", f"Roles: {', '.join(ops.roles.names())}.", Exit.USAGE)
            chosen.append(Stage(name, f"the role {role} on lab hosts", partial(_molecule, [role])))
        elif stage in known:
            chosen.append(known[stage])
        else:
            raise Failure(f"There is no test stage '{stage}'.", f"Stages: {', '.join(known)}.", Exit.USAGE)
    return chosen
