"""Runs the tests: quick ones first, then every role on a lab host, then the whole system from one snapshot."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from rich.console import Console

import ops.roles
from ops import flaky, pytest_report
from ops.console import console
from ops.environment import Environment
from ops.errors import Exit, Failure
from ops.flaky import Attempt, Flaky, Result
from ops.inventories import LAB_ENVIRONMENT
from ops.lab import machine
from ops.paths import APP, ARTEFACTS, ROLES, ROOT, tool
from ops.pytest_report import Phase
from ops.timings import StageTiming, Steps, Timings, Use

TEST_LAB = "test"
LOG_WIDTH = 140
"""Columns of tables that go to a file: a terminal has its own width."""
FLAKY_TESTS = ROOT / "docs" / "flaky.md"
LONG_SCENARIOS = frozenset({"etcd", "postgresql", "storage", "web"})
"""Begun first: begun late, one of them would end alone, on one of several processors."""
APP_TESTS = ("app/tests", "-q", "--dist")
_SCENARIO = "molecule:"
"""What the name of a scenario begins with where it stands beside names of tests; --only takes it too."""
SITE = "system:site"
"""The name of the deployment that the tests of the stage `system` begin with."""
LAB_TESTS = "tests/labs/test_*.py"
LAB_TESTS_HOSTS = 3
"""No file of them has more hosts at a time."""
SCENARIOS_BESIDE = 2 * (os.cpu_count() or 1)
"""Two for each processor: they wait a lot."""
ASIDE = ("nice", "-n", "10")
"""What the command of a stage begins with that runs beside another: that one's tests have to answer in time."""
SYSTEM_TESTS = ("tests/system", "tests/browser")
_PASSED, _TESTS_FAILED = 0, 1
"""Exit codes of pytest that say something of the tests; others say that it could not run them."""


@dataclass
class Run:
    """What a run has found so far.

    `retry`: whether a failed test of the lab is tried once more. `needs_site`: whether the stage `system` is to come.
    `log`: where its programs write instead of the terminal, for a stage that runs beside another.
    """

    retry: bool = False
    needs_site: bool = False
    log: Path | None = None
    timings: Timings = field(default_factory=Timings)
    flaky: list[Flaky] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """What runs beside others, with so many hosts of its own.

    `run` writes what it says to a log, and returns whether it succeeded.
    """

    hosts: int
    run: Callable[[Path], bool]


class Room:
    """The hosts that may be up at a time."""

    def __init__(self, hosts: int) -> None:
        self._hosts = hosts
        self._used = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, hosts: int) -> Iterator[None]:
        """Waits for room and holds it. Whoever needs more than there is gets it when nobody else has any."""
        with self._changed:
            self._changed.wait_for(lambda: self._used == 0 or self._used + hosts <= self._hosts)
            self._used += hosts
        try:
            yield
        finally:
            with self._changed:
                self._used -= hosts
                self._changed.notify_all()


@dataclass(frozen=True)
class Stage:
    """A part of the test run: its name for --only, what it shows, how it is run, and the stage beside which it runs if
    that one is chosen too: both wait a lot.
    """

    name: str
    shows: str
    run: Callable[[Run], None]
    beside: str = ""


def run(stages: Sequence[Stage], *, retry: bool) -> None:
    """Run stages in their order and show what they took. Raises Failure with the names of those that failed."""
    started = time.monotonic()
    names = {stage.name for stage in stages}
    done = Run(retry, needs_site="system" in names)
    failed: list[str] = []
    for stage in stages:
        if stage.beside not in names:
            failed += _together(stage, [other for other in stages if other.beside == stage.name], done)
        if {*failed} & {"lint", "fast"}:
            break  # a mistake that is seen in a minute is not worth an hour of labs
    done.timings.write(ARTEFACTS / "timings.json")
    flaky.write(ARTEFACTS / "flaky.json", done.flaky)
    wide = console if console.is_terminal else Console(stderr=True, width=LOG_WIDTH)
    for table in done.timings.tables():
        wide.print(table)
    console.rule(f"{len(stages)} stages in {time.monotonic() - started:.0f} s")
    for one in done.flaky:
        console.print(f"flaky: {one.test} (both logs: artefacts/flaky.json)", markup=False)
    if failed:
        raise Failure(f"Failed: {', '.join(failed)}.", f"Run one alone: ./inv test --only={failed[0]}")
    if objections := flaky.objections(done.flaky, flaky.known(FLAKY_TESTS)):
        raise Failure(" ".join(objections), "docs/flaky.md says what to do with a flaky test.")


def _together(stage: Stage, aside: Sequence[Stage], done: Run) -> list[str]:
    """Run a stage, and others beside it, whose output is shown when they have ended; the names of those that failed."""
    console.rule(" | ".join(f"{one.name}: {one.shows}" for one in (stage, *aside)))
    ARTEFACTS.mkdir(exist_ok=True)
    runs = {one: replace(done, log=ARTEFACTS / f"{one.name}.log", flaky=[]) for one in aside}
    with ThreadPoolExecutor() as pool:
        others = {one: pool.submit(_passes, one, run) for one, run in runs.items()}
        failed = [] if _passes(stage, done) else [stage.name]
        for one, run in runs.items():
            passed = others[one].result()
            if run.log and run.log.exists():
                sys.stdout.write(run.log.read_text(errors="replace"))
            done.flaky += run.flaky
            failed += [] if passed else [one.name]
    return failed


def _passes(stage: Stage, done: Run) -> bool:
    begun, before, known = time.monotonic(), Use.now(), len(done.flaky)
    problem = ""
    try:
        stage.run(done)
    except Failure as failure:
        problem = failure.message
    seconds = time.monotonic() - begun
    done.timings.stages.append(StageTiming(stage.name, seconds, Use.now().since(before)))
    result = f"FAILED in {seconds:.0f} s: {problem}" if problem else f"passed in {seconds:.0f} s"
    new = len(done.flaky) - known
    console.print(f"{stage.name}: {result}{f', {new} flaky' if new else ''}", markup=False)
    return not problem


def _twice(attempt: Attempt, done: Run) -> None:
    """Run tests of the lab, the failed ones once more if the run does that. Raises Failure if any failed for good."""
    found, failed = flaky.run(attempt, retry=done.retry)
    done.flaky += found
    if failed:
        raise Failure(f"{len(failed)} failed: {', '.join(failed)}")


# --- Stages -----------------------------------------------------------------------------------------------------------


def lint(done: Run) -> None:
    """Check style, types, layers and playbooks. Raises Failure naming the tools that found something."""
    commands = [
        ["ansible-lint", "--offline", "--strict"],
        ["lint-imports", "--no-logo"],
        ["lint-imports", "--no-logo", "app/pyproject.toml"],
        ["mypy"],
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["yamllint", "--strict", "."],
    ]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        answers = list(pool.map(_quietly, commands))
    with done.log.open("w") if done.log else contextlib.nullcontext(sys.stdout) as output:
        output.writelines(answer.stdout for answer in answers)
    failed = [command[0] for command, answer in zip(commands, answers, strict=True) if answer.returncode != 0]
    if failed:
        raise Failure(f"Not clean: {', '.join(failed)}.")


def _quietly(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run one of several commands at a time; what it says comes with the answer."""
    return subprocess.run(
        [tool(command[0]), *command[1:]],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{APP}"},  # lint-imports imports what it looks at
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def _reporting(path: Path) -> list[str]:
    """Options with which pytest writes a file that `pytest_report.read` reads."""
    return ["-p", pytest_report.__name__, f"--report-to={path}"]


def _pytest(
    done: Run, stage: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> tuple[int, list[Phase]]:
    """Run pytest; its exit code, and what became of each phase of each test."""
    with tempfile.TemporaryDirectory(prefix="longhaul-pytest-") as directory:
        report = Path(directory) / "report"
        command = [sys.executable, "-m", "pytest", *_reporting(report), *arguments]
        with done.log.open("w") if done.log else contextlib.nullcontext() as output:
            code = subprocess.run(
                command if output is None else [*ASIDE, *command],
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                stdout=output,
                stderr=None if output is None else subprocess.STDOUT,
                check=False,
            ).returncode
        phases = pytest_report.read(report)
    done.timings.add_phases(stage, phases)
    return code, phases


def _once(done: Run, stage: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
    """Run tests of which none may fail."""
    code, _ = _pytest(done, stage, *arguments, environment=environment)
    if code != _PASSED:
        raise Failure(f"pytest ended with {code}.")


def _fast(done: Run) -> None:
    _once(done, "fast", "tests/unit", "tests/render", "tests/structure", "-q", "-n", "2")


def _ensure_browser() -> None:
    """Install Debian's Chromium where that can be done; elsewhere the tests that use it say what is missing."""
    if shutil.which("chromium") is None and shutil.which("apt-get") is not None and os.geteuid() == 0:
        console.print("installing Chromium for the tests of the pages")
        machine.install("chromium")


def _app(done: Run) -> None:
    _ensure_browser()
    processes = "1" if done.log else "2"  # beside others, which have to answer in time, one for longer
    _once(done, "app", *APP_TESTS, "loadfile", "-n", processes)  # the tests of some files share a server


def _system(done: Run) -> None:
    """Run the tests of the deployed site, and beside them those that have labs of their own, one file at a time."""
    _ensure_browser()
    files = sorted(ROOT.glob(LAB_TESTS))
    jobs = {str(path.relative_to(ROOT)): Job(LAB_TESTS_HOSTS, partial(_lab_tests, path, done)) for path in files}
    problems = []
    with ThreadPoolExecutor() as pool:
        others = pool.submit(_beside, jobs, done, lanes=1)
        for part in (partial(_twice, partial(_system_tests, done), done), others.result):
            try:
                part()
            except Failure as failure:
                problems.append(failure.message)
    if problems:
        raise Failure(" ".join(problems))


def _system_tests(done: Run, names: Sequence[str]) -> dict[str, Result]:
    """Run the named tests, or all. Each pytest has its own fixtures: the lab is restored from its snapshot."""
    code, phases = _pytest(done, "system", *(names or SYSTEM_TESTS), "-q", environment={"LONGHAUL_LAB": TEST_LAB})
    results: dict[str, Result] = {}
    for phase in phases:
        before = results.get(phase.test, Result(passed=True, log=""))
        log = f"{before.log}{phase.what} {phase.outcome} in {phase.seconds:.1f} s\n{phase.log}"
        results[phase.test] = Result(before.passed and phase.outcome != "failed", log)
    if code not in {_PASSED, _TESTS_FAILED}:
        raise Failure(f"pytest ended with {code}.")
    return results


def _molecule(done: Run) -> None:
    """Run all scenarios, and beside them the deployment that the stage `system` begins with."""
    jobs: dict[str, Job] = {}
    if done.needs_site:
        # What takes longest begins first. The stage `system` then only has to restore a snapshot.
        hosts = len(Environment.of_checkout(LAB_ENVIRONMENT).hosts)
        jobs[SITE] = Job(hosts, lambda log: _logged([sys.executable, "-m", "tests.support.converged"], log))
    for role in sorted(ops.roles.names(), key=lambda name: name not in LONG_SCENARIOS):
        jobs |= _scenario_of(role, done)
    _beside(jobs, done, SCENARIOS_BESIDE)


def _one_scenario(role: str, done: Run) -> None:
    _beside(_scenario_of(role, done), done, lanes=1)


def _scenario_of(role: str, done: Run) -> dict[str, Job]:
    return {f"{_SCENARIO}{role}": Job(len(ops.roles.hosts(role)), partial(_scenario, role, done))}


def _beside(jobs: Mapping[str, Job], done: Run, lanes: int) -> None:
    """Run jobs, so many beside each other. A job that fails says why."""
    logs = ARTEFACTS / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    room = Room(machine.room_for_hosts())

    def run(name: str) -> Result:
        log = logs / f"{name.removeprefix(_SCENARIO).replace('/', '-').replace(':', '-')}.log"
        with room.taken(jobs[name].hosts):
            begun = time.monotonic()
            good = jobs[name].run(log)
            seconds = time.monotonic() - begun
        said = log.read_text(errors="replace")
        console.print(f"  {name:<32} {'ok' if good else 'FAILED'} {seconds:5.0f} s", markup=False)
        if not good:
            console.print("\n".join(said.splitlines()[-120:]), markup=False)
        return Result(good, said)

    def attempt(failed: Sequence[str]) -> dict[str, Result]:
        names = list(failed) or list(jobs)
        with ThreadPoolExecutor(max_workers=lanes) as pool:
            results = dict(zip(names, pool.map(run, names), strict=True))
        lost = sum(not result.passed for result in results.values())
        console.print(f"{len(names) - lost} passed, {lost} failed")
        return results

    _twice(attempt, done)


def _logged(command: list[str], log: Path) -> bool:
    """Run a command with the lab of the stage `system`, its output going to a log."""
    environment = {**os.environ, "LONGHAUL_LAB": TEST_LAB}
    with log.open("w") as output:
        answer = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    return answer.returncode == 0


def _lab_tests(path: Path, done: Run, log: Path) -> bool:
    """Run one file of tests that have labs of their own; pytest's closing line is shown."""
    report = log.with_suffix(".tests")
    good = _logged([sys.executable, "-m", "pytest", "-q", *_reporting(report), str(path)], log)
    done.timings.add_phases("system", pytest_report.read(report))
    report.unlink(missing_ok=True)
    sys.stdout.write(log.read_text(errors="replace").splitlines()[-1] + "\n")
    return good


def _scenario(role: str, done: Run, log: Path) -> bool:
    """Run one role's scenario on hosts of its own. Its output goes to a log."""
    report, steps = log.with_suffix(".tests"), Steps("molecule", role)
    # molecule calls pytest by itself, from another folder.
    options = {"PYTEST_ADDOPTS": shlex.join(_reporting(report)), "PYTHONPATH": str(ROOT)}
    command = [tool("molecule"), "test"]
    environment = {**os.environ, **ops.roles.settings(role), **options}
    with (
        log.open("w", buffering=1) as output,
        subprocess.Popen(
            command,
            cwd=ROLES / role,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
        ) as scenario,
    ):
        assert scenario.stdout is not None
        for line in scenario.stdout:
            output.write(line)
            steps.read(line, time.monotonic())
    done.timings.parts += steps.found
    done.timings.add_phases("molecule", pytest_report.read(report))
    report.unlink(missing_ok=True)
    return scenario.returncode == 0


def _soak(done: Run) -> None:
    _ensure_browser()
    # Two runs: the application's tests have a configuration of their own.
    failed = []
    # Nearly all of the application's time goes into two tests, which stand in one file.
    for arguments in (("tests/soak", "-q"), (*APP_TESTS, "worksteal", "-n", "2")):
        try:
            _once(done, "soak", *arguments, environment={"LONGHAUL_LAB": TEST_LAB, "LONGHAUL_SOAK": "1"})
        except Failure as failure:
            failed.append(f"{arguments[0]}: {failure.message}")
    if failed:
        raise Failure(" ".join(failed))


STAGES = (
    Stage("lint", "style, types and playbooks", lint, beside="fast"),
    Stage("fast", "unit, render and structure tests", _fast),
    Stage("app", "the application against a throwaway PostgreSQL", _app, beside="system"),
    Stage("molecule", "every role on lab hosts", _molecule),
    Stage("system", "the whole lab: deploy, uploads, faults, browser", _system),
)
SOAK = Stage("soak", "what takes longer than a test run may", _soak)


def chosen(only: str) -> list[Stage]:
    """The stages that --only names; all but the soak if it names none. Raises Failure for what is not known."""
    if not only:
        return list(STAGES)
    known = {stage.name: stage for stage in (*STAGES, SOAK)}
    chosen: list[Stage] = []
    for name in only.split(","):
        stage, _, role = name.strip().partition(":")
        if stage == "molecule" and role:
            if role not in ops.roles.names():
                raise Failure(f"There is no role '{role}'.", f"Roles: {', '.join(ops.roles.names())}.", Exit.USAGE)
            chosen.append(Stage(name, f"the role {role} on lab hosts", partial(_one_scenario, role)))
        elif stage in known:
            chosen.append(known[stage])
        else:
            raise Failure(f"There is no test stage '{stage}'.", f"Stages: {', '.join(known)}.", Exit.USAGE)
    return chosen
