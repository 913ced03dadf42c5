"""Plugin of pytest: writes what became of every phase of every test to a file, one JSON object a line.

Used by ops/testing.py: `pytest -p ops.pytest_report --report-to=FILE`. Each phase is written at once: a run that is
killed leaves what it had.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # ops/testing.py reads such files without running tests itself
    import pytest


@dataclass(frozen=True)
class Phase:
    """One phase of a test. `what` is setup, call or teardown; `log` says why it failed, and what it wrote if it did."""

    test: str
    what: str
    outcome: str
    seconds: float
    log: str


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--report-to", type=Path, help="file for what became of every phase of every test")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("report_to")
    # With -n the workers send their reports to the process that started them, which writes all of them.
    if path is not None and not hasattr(config, "workerinput"):
        path.unlink(missing_ok=True)
        config.pluginmanager.register(_Writer(path))


class _Writer:
    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        parts = [report.longreprtext] if report.failed else []
        parts += [f"--- {title} ---\n{text}" for title, text in report.sections] if report.failed else []
        phase = Phase(report.nodeid, report.when or "", report.outcome, report.duration, "\n".join(parts))
        with self._path.open("a") as output:
            output.write(json.dumps(asdict(phase)) + "\n")


def read(path: Path) -> list[Phase]:
    """All phases that were written, in their order; none if pytest did not come so far."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Phase(**json.loads(line)) for line in lines]
