"""What a test run took: its slowest tests, set-ups and steps of scenarios, and what the processors did meanwhile."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich import box
from rich.table import Table

from ops import pytest_report

SHOWN = 20
_PHASES = {"setup": "set-up", "call": "test", "teardown": "tear-down"}
_STEP = re.compile(r"➜ (\w+): (Executing|Executed: .+)$")
_STEP_NAMES = {"side_effect": "check"}  # what .config/molecule/config.yml has in the place of a side effect
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_RESOURCES = ("cpu", "io", "memory")


@dataclass(frozen=True)
class Timing:
    """Something that took time. `kind` is test, set-up, tear-down or step."""

    stage: str
    kind: str
    what: str
    seconds: float


@dataclass(frozen=True)
class Use:
    """What all processors together did, in seconds of one processor, as /proc/stat counts it since the machine's boot.

    `waiting` is idle while a disk is asked; `taken` is what the machine below a virtual one took for others. `pressure`
    is for how many seconds somebody had to wait for a resource (/proc/pressure), where the kernel tells.
    """

    working: float
    waiting: float
    idle: float
    taken: float
    pressure: dict[str, float]

    @classmethod
    def now(cls, proc: Path = Path("/proc")) -> Use:
        """The counters as they stand."""
        ticks = [int(word) for word in (proc / "stat").read_text().splitlines()[0].split()[1:9]]
        user, nice, system, idle, waiting, interrupts, soft, taken = (tick / os.sysconf("SC_CLK_TCK") for tick in ticks)
        pressure = {}
        for resource in _RESOURCES:
            path = proc / "pressure" / resource
            if path.exists():
                some = path.read_text().splitlines()[0]
                pressure[resource] = int(some.rpartition("total=")[2]) / 1e6
        return cls(user + nice + system + interrupts + soft, waiting, idle, taken, pressure)

    def since(self, before: Use) -> Use:
        """What was done between two readings."""
        return Use(
            self.working - before.working,
            self.waiting - before.waiting,
            self.idle - before.idle,
            self.taken - before.taken,
            {name: seconds - before.pressure[name] for name, seconds in self.pressure.items()},
        )

    def share(self, seconds: float) -> float:
        """A part of all processors' time, in percent."""
        return 100 * seconds / ((self.working + self.waiting + self.idle + self.taken) or 1)


class Steps:
    """The steps of one scenario, found in what molecule writes while it runs."""

    def __init__(self, stage: str, role: str) -> None:
        self._stage, self._role = stage, role
        self._began: dict[str, float] = {}
        self.found: list[Timing] = []

    def read(self, line: str, now: float) -> None:
        """Takes one line, written `now` (in seconds of a clock that never goes back)."""
        match = _STEP.search(_COLOUR.sub("", line).rstrip())
        if match is None:
            return
        step, ended = match[1], match[2] != "Executing"
        if not ended:
            self._began[step] = now
        elif step in self._began:
            name = _STEP_NAMES.get(step, step)
            self.found.append(Timing(self._stage, "step", f"{self._role}: {name}", now - self._began.pop(step)))


@dataclass(frozen=True)
class StageTiming:
    """A stage: its name, how many seconds it took, and what the processors did."""

    name: str
    seconds: float
    use: Use


@dataclass
class Timings:
    """What one run took."""

    stages: list[StageTiming] = field(default_factory=list)
    parts: list[Timing] = field(default_factory=list)

    def add_phases(self, stage: str, phases: list[pytest_report.Phase]) -> None:
        """Adds what pytest has reported."""
        self.parts += [Timing(stage, _PHASES[one.what], one.test, one.seconds) for one in phases]

    def slowest(self) -> list[Timing]:
        """All parts, the slowest first."""
        return sorted(self.parts, key=lambda part: -part.seconds)

    def write(self, path: Path) -> None:
        """Writes everything as JSON."""
        found = {
            "stages": [asdict(stage) for stage in self.stages],
            "parts": [asdict(part) for part in self.slowest()],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")

    def tables(self) -> list[Table]:
        """What the end of a run shows."""
        slow = Table(
            title=f"The slowest {SHOWN} tests, set-ups and steps", title_justify="left", box=box.SIMPLE, pad_edge=False
        )
        for name in ("seconds", "stage", "kind", "what"):
            slow.add_column(name, justify="right" if name == "seconds" else "left", overflow="fold")
        for part in self.slowest()[:SHOWN]:
            slow.add_row(f"{part.seconds:.1f}", part.stage, part.kind, part.what)
        title = f"What the {os.cpu_count()} processors did, and for how long somebody waited, in percent"
        used = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
        for name in ("stage", "seconds", "working", "idle", "disk", "taken", *(f"for {name}" for name in _RESOURCES)):
            used.add_column(name, justify="left" if name == "stage" else "right")
        for stage in self.stages:
            use = stage.use
            shares = [use.share(part) for part in (use.working, use.idle, use.waiting, use.taken)]
            waited = [
                f"{100 * use.pressure[name] / stage.seconds:.0f}" if name in use.pressure else "?"
                for name in _RESOURCES
            ]
            used.add_row(stage.name, f"{stage.seconds:.0f}", *(f"{share:.0f}" for share in shares), *waited)
        return [slow, used]
