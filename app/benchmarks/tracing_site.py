"""What the tracer costs the application: a real web process, its uploads and its requests.

    cd app && PYTHONPATH=.:.. ../.venv/bin/python -m benchmarks.tracing_site [MEGABYTES] [ROUNDS]

Prints one JSON line: ratios of the CPU time of the web process's main thread, or of the time that a request takes, each
the median of some rounds. Compared is the same work without the tracer in the program, or while nothing is armed.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from longhaul import schema
from longhaul.settings import Settings
from ops.throwaway_postgresql import throwaway_postgresql
from tests.processes import Site, Web, site

REQUESTS = 300
PART = b"\xa5" * (1 << 18)
TRACED_PART = 50_000
"""Bytes at a time of the upload that is traced; it goes on while others are measured."""


def cpu(web: Web, work: Callable[[], object]) -> float:
    """CPU seconds that the main thread of the process takes meanwhile (/proc/PID/task/TID/schedstat, see proc(5))."""
    assert web.process is not None
    path = Path(f"/proc/{web.process.pid}/task/{web.process.pid}/schedstat")
    before = int(path.read_text().split()[0])
    work()
    return (int(path.read_text().split()[0]) - before) / 1e9


def requests(web: Web, url: str) -> Callable[[], None]:
    """REQUESTS questions for the offset of an upload."""

    def ask() -> None:
        for _ in range(REQUESTS):
            web.offset(url)

    return ask


def answer_seconds(web: Web, url: str) -> float:
    """The median of what REQUESTS questions for the offset of an upload take."""
    taken = []
    for _ in range(REQUESTS):
        began = time.perf_counter()
        web.offset(url)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def upload(web: Web, size: int) -> Callable[[], None]:
    """One upload of `size` bytes."""

    def send() -> None:
        patch = web.open_patch(web.create(size), 0, size)
        for start in range(0, size, len(PART)):
            patch.send(PART[: size - start])
        assert patch.answer_head().startswith(b"HTTP/1.1 204 ")

    return send


@contextlib.contextmanager
def armed(web: Web, *selection: str) -> Iterator[None]:
    """The process is armed with this selection."""
    assert web.process is not None
    socket = f"/tmp/linetrace-{os.geteuid()}/web-{web.process.pid}.sock"  # noqa: S108  # linetrace's default
    limits = ["--seconds", "3600", "--lines", "10000000", "--per-second", "1000000"]
    command = [sys.executable, "-m", "linetrace", "attach", "--json", socket, *limits, *selection]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tracing:
        assert tracing.stdout is not None
        while '"armed"' not in (line := tracing.stdout.readline()):
            assert line, "the process cannot be traced"
        drain = subprocess.Popen(["cat"], stdin=tracing.stdout, stdout=subprocess.DEVNULL)
        try:
            yield
        finally:
            tracing.terminate()
            tracing.wait()
            drain.wait()


@contextlib.contextmanager
def busy_upload(web: Web) -> Iterator[str]:
    """An upload that receives a little all the time; its id."""
    import threading

    size = 10**9
    url = web.create(size)
    patch = web.open_patch(url, 0, size)
    over = threading.Event()

    def send() -> None:
        while not over.wait(0.02):
            patch.send(PART[:TRACED_PART])

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield url.rpartition("/")[2]
    finally:
        over.set()
        sender.join()
        patch.cut()


def main() -> None:
    """Measure and print."""
    size = int(sys.argv[1]) * 10**6 if len(sys.argv) > 1 else 300 * 10**6
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with throwaway_postgresql() as server, tempfile.TemporaryDirectory() as folder:
        schema.migrate(Settings(database=server.conninfo, store="directory:/nowhere"))
        with site(Path(folder) / "site", server.conninfo) as made:
            print(json.dumps(measure(made, size, rounds)))  # noqa: T201


def measure(made: Site, size: int, rounds: int) -> dict[str, float]:
    """The ratios by what they are of."""
    web, other = made.web("web1"), made.web("web2")
    plain = made.web("web3", module="benchmarks.untraced_web")
    webs = (web, other, plain)
    urls = {each.name: each.create(5) for each in webs}
    found: dict[str, list[float]] = {}

    def note(what: str, spent: float, compared: float) -> None:
        found.setdefault(what, []).append(spent / compared)

    for each in webs:
        requests(each, urls[each.name])()  # all code has run once
    for _ in range(rounds):
        ask = requests(web, urls["web1"])
        without = cpu(plain, requests(plain, urls["web3"]))
        unarmed = cpu(web, ask)
        note("nothing armed: requests", unarmed, without)
        note("nothing armed: an upload", cpu(web, upload(web, size)), cpu(plain, upload(plain, size)))
        with armed(web, "--request", "none"):
            note("others, while a request is awaited", cpu(web, ask), unarmed)
            beside = cpu(other, requests(other, urls["web2"]))
        note("another process of the host", beside, cpu(other, requests(other, urls["web2"])))
        with busy_upload(web) as upload_id:
            time.sleep(0.2)
            busy = answer_seconds(web, urls["web1"])
            with armed(web, "--upload", upload_id):
                note("others, while an upload is traced: time", answer_seconds(web, urls["web1"]), busy)
        note("after disarming: requests", cpu(web, ask), unarmed)
    return {what: round(statistics.median(values), 2) for what, values in found.items()}


if __name__ == "__main__":
    main()
