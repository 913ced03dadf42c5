"""The lines of a corpus of small programs equal those of sys.settrace, and the programs notice nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.linetrace.corpus import PROGRAMS, REPEATED_BY_SETTRACE
from tests.linetrace.running import alone, classic, traced, write

REPEATED = "~"  # as in reference.py


def assert_equal_but_for_repeats(lines: list[str], expected: list[str]) -> None:
    """The lines are those expected, with or without each of those that settrace repeats."""
    if not any(line.startswith(REPEATED) for line in expected):
        assert lines == expected
    reached = {0}
    for wanted in expected:
        text = wanted.removeprefix(REPEATED)
        before, reached = reached, {at + 1 for at in reached if at < len(lines) and lines[at] == text}
        if text != wanted:
            reached |= before
        farthest = max(before)
        assert reached, f"line {farthest} is {lines[farthest : farthest + 1]} instead of {text!r}"
    assert len(lines) in reached, f"nothing of this should follow: {lines[max(reached) :]}"


@pytest.mark.parametrize("name", PROGRAMS)
def test_lines_equal_those_of_settrace(tmp_path: Path, name: str) -> None:
    folders = [tmp_path / kind for kind in ("alone", "classic", "traced")]
    for folder in folders:
        write(folder, PROGRAMS[name])
    untraced, expected, ran = alone(folders[0]), classic(folders[1]), traced(folders[2])
    assert untraced.code == 0, untraced.errors
    assert (ran.code, ran.output, ran.errors) == (untraced.code, untraced.output, untraced.errors)
    repeated = [line for line in expected if line.startswith(REPEATED)]
    assert bool(repeated) == (name in REPEATED_BY_SETTRACE)
    assert_equal_but_for_repeats(ran.lines, expected)
    assert len(ran.lines) > 2
