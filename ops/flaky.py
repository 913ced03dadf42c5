"""A failed test of the lab is tried once more; what passes then is flaky, and a run with flaky tests may still fail.

docs/flaky.md says what the policy is and why, and lists the flaky tests that were seen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ops.errors import Exit, Failure

TOLERATED = 2
"""So many flaky tests a run may have."""
TRIED_AGAIN = 5
"""If more tests than this fail, it is no accident: none of them is tried again."""
COLUMNS = ("test", "first seen", "cause", "mended in")


@dataclass(frozen=True)
class Result:
    """What became of a test, and what it said."""

    passed: bool
    log: str


@dataclass(frozen=True)
class Flaky:
    """A test that failed and passed when it was run again, with what it said both times."""

    test: str
    first: str
    second: str


Attempt = Callable[[Sequence[str]], Mapping[str, Result]]
"""Runs the named tests, or all if none is named; test -> what became of it. Each call begins with fresh hosts."""


def run(attempt: Attempt, *, retry: bool) -> tuple[list[Flaky], list[str]]:
    """Runs the tests, and if `retry` the failed ones once more. Returns the flaky ones, and those that failed."""
    first = attempt(())
    failed = [test for test, result in first.items() if not result.passed]
    if not retry or not 0 < len(failed) <= TRIED_AGAIN:
        return [], failed
    second = attempt(failed)
    passed = [test for test in failed if test in second and second[test].passed]
    flaky = [Flaky(test, first[test].log, second[test].log) for test in passed]
    return flaky, [test for test in failed if test not in passed]


def objections(flaky: Sequence[Flaky], listed: Mapping[str, str]) -> list[str]:
    """Why a run with these flaky tests fails; empty if it may pass. `listed` is test -> cause, as `known` reads it."""
    found = []
    if len(flaky) > TOLERATED:
        found.append(f"{len(flaky)} tests are flaky; a run may have {TOLERATED}.")
    found += [
        f"{one.test} is flaky again, and docs/flaky.md has no cause for it."
        for one in flaky
        if listed.get(one.test) == ""
    ]
    return found


def known(document: Path) -> dict[str, str]:
    """Test -> cause, from the table of docs/flaky.md; the cause is empty if none was found yet.

    Raises Failure if the document has no such table, or a row of another shape.
    """
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        for line in document.read_text().splitlines()
        if line.startswith("|")
    ]
    if not rows or tuple(rows[0]) != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        raise Failure(
            f"The table of {document} is not one of {len(COLUMNS)} columns: {', '.join(COLUMNS)}.",
            "Give every row a cell for each, an empty one for what is not known.",
            Exit.BAD_CONFIGURATION,
        )
    causes: dict[str, str] = {}
    for test, _seen, cause, _mended in rows[2:]:
        name = test.strip("`")
        # One test may have had several causes; one that was not found counts.
        causes[name] = cause if causes.get(name, cause) else ""
    return causes


def write(path: Path, flaky: Sequence[Flaky]) -> None:
    """Writes the flaky tests of a run with both logs, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(one) for one in flaky], indent=1) + "\n")
