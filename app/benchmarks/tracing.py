"""What tracing costs: the process when nothing is armed, other requests, the traced one, and the drain to a file.

    cd app && PYTHONPATH=. ../.venv/bin/python -m benchmarks.tracing

Prints one JSON line. All numbers but the rates are ratios of CPU time within one run to the same work untraced, the
median of several rounds: 1.0 costs nothing. The work is own Python code, without waiting: real requests pay less.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import linecache
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import linetrace
from linetrace import Limits, Selection, arm
from linetrace.sinks import open_sink
from linetrace.trace import Trace

ROUNDS = 7
TASKS = 10
STEPS = 15
LINES = 100_000
FREE = Limits(per_location=10**7, lines=10**7, per_second=10**6, seconds=600)

WORK = """\
import asyncio

def clean(word):
    text = word.strip().lower()
    if not text:
        return "-"
    return text

def count(words):
    found = {}
    for word in words:
        name = clean(word)
        if name in found:
            found[name] += 1
        else:
            found[name] = 1
    best = sorted(found, key=found.get)
    return best[-1], len(found)

def step(words):
    total = 0
    for turn in range(4):
        best, number = count(words)
        total += number
    return total

def loop(n):
    total = 0
    for i in range(n):
        total += i
        total -= 1
    return total
"""
WORDS = ["Alpha ", "beta", " gamma", "", "Beta"] * 8


def cpu(run: Callable[[], object]) -> float:
    """CPU seconds of this thread for a run."""
    began = time.thread_time()
    run()
    return time.thread_time() - began


def others(work: ModuleType, selected: str) -> float:
    """CPU seconds that nine of ten interleaved requests take, the one with the id `selected` left out."""
    spent = [0.0] * TASKS

    async def request(number: int) -> None:
        with linetrace.request("GET", "/", request=f"{selected}{number}"):
            for _ in range(STEPS):
                began = time.thread_time()
                work.step(WORDS)
                spent[number] += time.thread_time() - began
                await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(request(number) for number in range(TASKS)))

    asyncio.run(main())
    return sum(spent[1:])


def classic(run: Callable[[], object], folder: str, syslog: socket.socket) -> float:
    """CPU seconds of a run under the tracer that people put into an entry point: settrace, linecache, a datagram."""

    def local(frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line":
            name, number = frame.f_globals["__name__"], frame.f_lineno
            source = linecache.getline(frame.f_code.co_filename, number).rstrip()
            syslog.send(f"<14>app: {name}:{number}: {source}".encode())
        return local

    def globally(frame: FrameType, _event: str, _argument: object) -> Any:
        return local if frame.f_code.co_filename.startswith(folder) else None

    sys.settrace(globally)
    try:
        return cpu(run)
    finally:
        sys.settrace(None)


def traced(run: Callable[[], object], folder: Path, sink: str, **how: Any) -> tuple[float, Trace]:
    """CPU seconds that the thread of the program takes for a run, and the trace, all of whose lines were sent."""
    trace = arm.arm([folder], open_sink(sink), limits=FREE, **how)
    spent = cpu(run)
    trace.stop("done")
    arm.wait(trace)
    return spent, trace


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "measured_work.py").write_text(WORK)
        sys.path.insert(0, name)
        work = importlib.import_module("measured_work")
        reader = _reader(folder / "log")
        try:
            print(json.dumps(_measure(work, folder)))  # noqa: T201
        finally:
            reader.kill()
            reader.wait()


def _measure(work: ModuleType, folder: Path) -> dict[str, float]:
    log, listening = str(folder / "log"), linetrace.listen(folder, "bench", [folder])
    ratios: dict[str, list[float]] = {}

    def note(what: str, spent: float, untraced: float) -> None:
        ratios.setdefault(what, []).append(spent / untraced)

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.connect(log)
        for number in range(ROUNDS):
            plain = cpu(lambda: work.loop(100_000))
            untraced = others(work, f"u{number}-")
            sink = f"syslog:{log}"
            for what, chosen in (("others, while a request is awaited", "none"), ("others, while one is traced", "r0")):
                trace = arm.arm([folder], open_sink(sink), limits=FREE, selection=Selection.of(request=chosen))
                note(what, others(work, "r"), untraced)
                trace.stop("done")
                arm.wait(trace)
                assert (trace.counts.lines > 1000) == (chosen == "r0")
            note("after disarming: a loop", cpu(lambda: work.loop(100_000)), plain)
            note("after disarming: requests", others(work, f"d{number}-"), untraced)
            alone = cpu(lambda: work.step(WORDS))
            note("the traced request", traced(lambda: work.step(WORDS), folder, sink)[0], alone)
            note("the classic tracer", classic(lambda: work.step(WORDS), str(folder), syslog), alone)
    listening.close()
    found = {what: round(statistics.median(values), 2) for what, values in ratios.items()}
    _, trace = traced(lambda: _paced(work), folder, f"file:{folder / 'trace'}")
    found["lines at 50,000 a second"], found["of them dropped"] = trace.counts.lines, trace.counts.dropped
    before = _resident()
    traced(lambda: work.loop(LINES), folder, f"file:{os.devnull}")
    found["MB more after a long trace"] = round(_resident() - before, 1)
    found["peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return found


def _paced(work: ModuleType) -> None:
    """LINES lines at 50,000 a second: 500 each 10 ms."""
    began = time.monotonic()
    for turn in range(LINES // 500):
        work.loop(166)
        time.sleep(max(0.0, began + (turn + 1) * 0.01 - time.monotonic()))


def _resident() -> float:
    """Resident memory in MB."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _reader(path: Path) -> subprocess.Popen[bytes]:
    """A process that takes what is sent to a datagram socket, as a syslog daemon."""
    code = f"""if True:
        import socket
        log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        log.bind({str(path)!r})
        while True:
            log.recv(4096)
    """
    process = subprocess.Popen([sys.executable, "-c", code])
    while not path.exists():
        time.sleep(0.01)
    return process


if __name__ == "__main__":
    main()
