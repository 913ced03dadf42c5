"""What it costs a browser to prove that a file is the one that an upload began with, and to know its SHA-256.

    cd app && PYTHONPATH=.:.. ../.venv/bin/python -m benchmarks.identity [BYTES] [RUNS]

Prints, for files of BYTES (3 GB unless told), web process and Chromium on this machine:

- going on after the page was closed with two thirds stored: the time from choosing the file to the first byte that is
  sent, and what Chromium has read meanwhile;
- a whole upload: the time until all bytes have arrived, until the server knows the SHA-256, and Chromium's CPU time;

each with the comparisons and in a browser that makes none.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Playwright, sync_playwright

from ops.local_app import running
from tests.browser.person import ARGUMENTS, Person, chromium

WITHOUT = """
window.Worker = class extends EventTarget {
  postMessage({ id, ranges }) {
    const digests = ranges?.map(() => "") ?? ["0".repeat(64)];
    setTimeout(() => this.dispatchEvent(new MessageEvent("message", { data: { id, digests } })));
  }
};
const real = window.fetch;
window.fetch = (url, options) =>
  String(url).endsWith("/digests") ? Promise.resolve(new Response('{"sha256":null,"blocks":[]}')) : real(url, options);
"""
"""A browser in which nothing is compared and nothing is hashed."""
LINE = 100_000_000
"""Bytes a second of the line of the upload that is interrupted: there must be time to interrupt it."""
TICKS = os.sysconf("SC_CLK_TCK")


def processes() -> list[Path]:
    """/proc folders of the browser's processes: those of its name below this one."""
    found: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit():
                found[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    wanted = {os.getpid()}
    for _ in range(8):
        wanted |= {child for child, parent in found.items() if parent in wanted}
    return [
        folder
        for child in wanted
        if (folder := Path(f"/proc/{child}")).exists() and "chrom" in (folder / "comm").read_text()
    ]


def cpu_seconds() -> float:
    """CPU time of all its processes."""
    fields = [(folder / "stat").read_text().rpartition(")")[2].split() for folder in processes()]
    return sum(int(field[11]) + int(field[12]) for field in fields) / TICKS


def bytes_read() -> int:
    """What all its processes have read, from the disk or the page cache."""
    lines = [(folder / "io").read_text().splitlines()[0] for folder in processes()]
    return sum(int(line.split()[1]) for line in lines)


def signed_in(browser: Browser, folder: Path, work: Callable[[Person], Any], *, proving: bool) -> Any:
    """What `work` gives, with a site and a browser's profile of its own; nothing processes the files."""
    with running(folder, port=0) as app:
        app.stop("worker")
        context = browser.new_context()
        if not proving:
            context.add_init_script(WITHOUT)
        person = Person(context, app)
        person.sign_in()
        try:
            return work(person)
        finally:
            context.close()


def whole(browser: Browser, path: Path, *, proving: bool) -> dict[str, float]:
    """Seconds and CPU seconds of an upload."""

    def work(person: Person) -> dict[str, float]:
        cpu, began = cpu_seconds(), time.monotonic()
        person.choose(path)
        while not any(upload["offset"] == path.stat().st_size for upload in person.uploads()):
            person.page.wait_for_timeout(50)
        arrived = time.monotonic() - began
        if proving:
            while not any(upload["expected_sha256"] for upload in person.uploads()):
                person.page.wait_for_timeout(50)
        return {"arrived s": arrived, "compared s": time.monotonic() - began, "CPU s": cpu_seconds() - cpu}

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        return signed_in(browser, Path(folder), work, proving=proving)


def resumed(browser: Browser, path: Path, *, proving: bool) -> dict[str, float]:
    """Seconds until an upload goes on, and megabytes that were read until then."""

    def work(person: Person) -> dict[str, float]:
        person.line(LINE)
        person.choose(path)
        while not any(upload["offset"] > path.stat().st_size * 2 / 3 for upload in person.uploads()):
            person.page.wait_for_timeout(20)
        person.page.reload()
        person.see_live()
        person.line(-1)
        before = bytes_read()
        began = time.monotonic()
        with person.page.expect_request(lambda request: request.method == "PATCH", timeout=60_000):
            person.choose(path)
        seconds = time.monotonic() - began
        return {"resumed s": seconds, "read MB": (bytes_read() - before) / 1e6}

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        return signed_in(browser, Path(folder), work, proving=proving)


def main(playwright: Playwright, size: int, runs: int) -> None:
    """Measure in pairs, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.bin"
        with path.open("wb") as file:
            for start in range(0, size, 1 << 24):
                file.write(os.urandom(min(1 << 24, size - start)))
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        found: dict[str, list[dict[str, float]]] = {}
        for _ in range(runs):
            found.setdefault("resumed, compared", []).append(resumed(browser, path, proving=True))
            found.setdefault("resumed, not compared", []).append(resumed(browser, path, proving=False))
            found.setdefault("whole, with SHA-256", []).append(whole(browser, path, proving=True))
            found.setdefault("whole, without", []).append(whole(browser, path, proving=False))
        browser.close()
    for name, results in found.items():
        figures = {key: [result[key] for result in results] for key in results[0]}
        print(  # noqa: T201  # the benchmark's result
            f"{name}: "
            + ", ".join(
                f"{key} {statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"
                for key, values in figures.items()
            )
        )


if __name__ == "__main__":
    with sync_playwright() as started:
        main(started, *(int(argument) for argument in [*sys.argv[1:], "3000000000", "3"][:2]))
