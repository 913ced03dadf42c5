"""Runs small programs: alone, under linetrace, and under the classic tracer."""

from __future__ import annotations

import importlib
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import linetrace
from linetrace import arm, record
from linetrace.monitor import MONITOR
from linetrace.trace import Trace

PACKAGE = Path(linetrace.__file__).parent
REFERENCE = Path(__file__).with_name("reference.py")
_numbers = itertools.count()


class Ran(NamedTuple):
    """How a program ended, and the lines of its trace."""

    code: int
    output: str
    errors: str
    lines: list[str]


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """Write the files of a program; returns its main.py."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return folder / "main.py"


def run(
    command: Sequence[str | Path], folder: Path, interrupts: signal.Handlers = signal.SIG_DFL, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with linetrace in reach. `interrupts` is what SIGINT does to it."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(PACKAGE.parent),
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        # Where tests run, it may be ignored, and programs would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, interrupts),
    )


def alone(folder: Path, *arguments: str) -> Ran:
    """Run main.py without a tracer."""
    ran = run(["main.py", *arguments], folder)
    return Ran(ran.returncode, ran.stdout, ran.stderr, [])


def traced(folder: Path, *arguments: str, options: Sequence[str] = (), program: Sequence[str] = ("main.py",)) -> Ran:
    """Run a program of the folder under linetrace."""
    trace = folder.parent / f"{folder.name}-{next(_numbers)}.trace"
    ran = run(["-m", "linetrace", "--to", f"file:{trace}", *options, *program, *arguments], folder)
    lines = trace.read_text().splitlines() if trace.exists() else []
    return Ran(ran.returncode, ran.stdout, ran.stderr, lines)


def classic(folder: Path) -> list[str]:
    """The lines of main.py under the classic tracer."""
    trace = folder.parent / f"{folder.name}-classic.trace"
    run([REFERENCE, trace, folder / "main.py"], folder)
    return trace.read_text().splitlines()


def module(folder: Path, text: str) -> ModuleType:
    """Import a text as a module of its own, from a file in the folder."""
    name = f"traced_{next(_numbers)}"
    (folder / f"{name}.py").write_text(text)
    sys.path.insert(0, str(folder))
    try:
        importlib.invalidate_caches()
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


class Recorder:
    """A sink that keeps lines."""

    def __init__(self) -> None:
        self.lines: list[record.Line] = []
        self.closed = threading.Event()

    def send(self, lines: Sequence[record.Line]) -> int:
        """See sinks.Sink."""
        self.lines += lines
        return 0

    def close(self) -> None:
        """See sinks.Sink."""
        self.closed.set()

    @property
    def numbers(self) -> list[int]:
        """Line numbers of the lines of source."""
        return [line.number for line in self.lines if line.kind == "line"]

    def texts(self, *kinds: str) -> list[str]:
        """Texts of the lines of some kinds."""
        return [line.text for line in self.lines if line.kind in kinds]


class Live:
    """`with Live(folder, selection=...) as live:` traces this process; afterwards all lines have been sent."""

    def __init__(self, folder: Path, **how: Any) -> None:
        self.sink = Recorder()
        self._folder = folder
        self._how = how

    def __enter__(self) -> Live:
        self.trace: Trace = arm.arm([self._folder], self.sink, **self._how)
        return self

    def __exit__(self, *_: object) -> None:
        self.trace.stop("the test ends it")
        assert arm.wait(self.trace, 10)
        assert nothing_is_armed()

    @property
    def lines(self) -> list[int]:
        """See Recorder.numbers; only complete after the `with`."""
        return self.sink.numbers


def nothing_is_armed() -> bool:
    """Whether sys.monitoring has nothing of the tracer."""
    monitoring = sys.monitoring
    return not MONITOR.traces and all(monitoring.get_tool(tool) != "linetrace" for tool in (3, 4))
