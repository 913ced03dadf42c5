"""How long Chromium takes to open the page of a long trace, until it can be used.

    .venv/bin/python -m tests.benchmarks.trace_page [LINES]

Prints the seconds of five loads, the size of the page, and what making it took. The trace is of this repository's own
files, which are walked through in loops by twelve hosts.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from ops.paths import APP
from ops.trace.page import page
from ops.trace.recording import About, HostLine, Recording
from tests.support.chromium import FLAGS, chromium_program

LOADS = 5
HOSTS = 12
PASS = 40
"""Lines of a file that a host walks through before it goes to another."""


def recording(count: int) -> Recording:
    """A trace of so many lines."""
    files = sorted((APP / "longhaul").rglob("*.py"))
    sources = {str(path): path.read_text() for path in files}
    lines: list[HostLine] = []
    for number in range(count):
        turn, place = divmod(number, PASS)
        path = str(files[turn % len(files)])
        texts = sources[path].splitlines() or [""]
        lines.append(
            {
                "time": 1_800_000_000 + number / 100_000,
                "host": f"host{turn % HOSTS}",
                "process": "web-1",
                "kind": "line",
                "module": Path(path).stem,
                "line": place % len(texts) + 1,
                "source": texts[place % len(texts)],
                "file": path,
                "thread": 1,
                "ids": {"request": f"r{turn % 500}"},
                "since": 0.00001,
            }
        )
    about: About = {
        "environment": "none",
        "what": "a long trace",
        "by": "a benchmark",
        "reason": "",
        "began": "2027-01-15T08:00:00+00:00",
        "seconds": 2.0,
        "ended": "",
        "lines": count,
        "dropped": 0,
        "hosts": [f"host{number}" for number in range(HOSTS)],
    }
    return Recording(about, sources, lines)


def main() -> None:
    """Measure and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    made = recording(count)
    began = time.perf_counter()
    html = page(made)
    making = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "trace.html"
        path.write_text(html)
        browser = playwright.chromium.launch(executable_path=chromium_program(), args=list(FLAGS))
        seconds = []
        for _ in range(LOADS):
            view = browser.new_page(viewport={"width": 1600, "height": 900})
            view.goto(path.as_uri())
            view.wait_for_function("performance.getEntriesByName('usable').length > 0")
            seconds.append(view.evaluate("performance.getEntriesByName('usable')[0].startTime") / 1000)
            view.close()
        browser.close()
    shown = ", ".join(f"{each:.2f}" for each in sorted(seconds))
    print(f"{count:,} lines: usable after {shown} s; {len(html) / 1e6:.1f} MB, made in {making:.1f} s")  # noqa: T201


if __name__ == "__main__":
    main()
