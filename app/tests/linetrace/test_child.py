"""Child processes that work for a traced scope: their lines are lines of the same trace, and nothing else changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from time import time as clock
from types import ModuleType
from typing import Any

import pytest

import linetrace
from linetrace import Options, Selection, arm, child, control
from linetrace.limits import Limits
from tests.linetrace.running import Live, run, write

PROGRAM = """\
import os, sys
def double(n):
    total = n * 2
    return total
print(double(21), sorted(name for name in os.environ if "PYTHON" in name or "LINE" in name))
sys.exit(3)
"""


def start(folder: Path, how: dict[str, Any] | None, script: str = "child.py") -> tuple[subprocess.Popen[str], int]:
    """The program as a child process, and the end of the pipe for its lines."""
    source, target = os.pipe()
    variables = child.environment(how, [str(folder)], target) if how is not None else {}
    process = subprocess.Popen(
        [sys.executable, script],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **variables},
        pass_fds=(target,),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(target)
    return process, source


def finish(process: subprocess.Popen[str], source: int) -> tuple[int, str, str, list[bool]]:
    """Let it run to its end; its exit code and output, and whether each line was wanted."""
    with os.fdopen(source, "rb") as lines:
        taken = [child.take(line) for line in lines]
    output, errors = process.communicate(timeout=30)
    return process.returncode, output, errors, taken


def test_its_lines_are_lines_of_the_trace_with_the_ids_of_the_parent(tmp_path: Path) -> None:
    write(tmp_path, {"child.py": PROGRAM})
    options = Options(values=("total",))
    with Live(tmp_path, selection=Selection.of(job="5"), options=options) as live, linetrace.bound(job=5, upload="u7"):
        code, output, errors, taken = finish(*start(tmp_path, child.wanted()))
    assert (code, output, errors) == (3, "42 []\n", "")
    assert all(taken)
    shown = [(line.number, line.text.strip()) for line in live.sink.lines if line.module == "__main__"]
    assert shown[2:5] == [(5, PROGRAM.splitlines()[4]), (3, "total = n * 2"), (3, "== total = 42")]
    assert {tuple(line.ids.items()) for line in live.sink.lines if line.module == "__main__"} == {
        (("job", "5"), ("upload", "u7"))
    }
    assert live.trace.counts.lines == len(shown)


def test_nobody_wants_the_lines_of_another_job(tmp_path: Path) -> None:
    assert child.wanted() is None
    with Live(tmp_path, selection=Selection.of(job="5")):
        assert child.wanted() is None
        with linetrace.bound(job=6):
            assert child.wanted() is None
            assert not child.take(b"{}")
    with Live(tmp_path, selection=Selection.of_function("f")), linetrace.bound(job=5):
        assert child.wanted() is None
    with Live(tmp_path):
        assert child.wanted() is not None


def test_work_that_begins_while_the_tracer_is_imported_is_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module is there then, and has nothing in it yet."""
    monkeypatch.setitem(sys.modules, "linetrace.monitor", ModuleType("linetrace.monitor"))
    with linetrace.bound(job=5):
        assert child.wanted() is None
        assert not child.take(b"{}")
    assert control.status() == {"traces": [], "tool": None, "code_with_events": 0}


def test_it_is_traced_for_as_long_and_as_much_as_its_traces_want(tmp_path: Path) -> None:
    first = Live(tmp_path, limits=Limits(lines=5, seconds=9), options=Options(values=("a", "b")))
    second = Live(tmp_path, limits=Limits(lines=7, seconds=4), options=Options(values=("b", "c"), calls=True))
    write(tmp_path, {"child.py": PROGRAM})
    with first:
        trace = second.__enter__().trace
        how = child.wanted()
        assert how is not None
        assert how["options"] == {"values": ["a", "b", "c"], "calls": True}
        assert how["limits"]["lines"] == 7
        assert 8 < how["limits"]["seconds"] <= 9
        assert json.loads(json.dumps(how)) == how
        finish(*start(tmp_path, how))
        trace.stop("the test ends it")
        assert arm.wait(trace, 10)
    assert [line.text for line in first.sink.lines if line.kind == "call"] == []
    assert all(line.since is None for line in first.sink.lines)
    assert [line.text for line in second.sink.lines if line.kind == "call"] != []


WAITING = """\
import sys
print('ready', flush=True)
sys.stdin.read()
for n in range(9):
    pass
print(sys.monitoring.get_tool(3))
"""


def test_closing_the_pipe_disarms_it_and_it_goes_on(tmp_path: Path) -> None:
    write(tmp_path, {"child.py": WAITING})
    with Live(tmp_path):
        source, target = os.pipe()
        how = child.wanted()
        assert how is not None
        process = subprocess.Popen(
            [sys.executable, "child.py"],
            cwd=tmp_path,
            env=child.environment(how, [str(tmp_path)], target),
            pass_fds=(target,),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        os.close(target)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.close(source)
        output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (0, "None\n")


@pytest.mark.parametrize("how", [{}, {"limits": {}, "options": {"x": 1}}, {"limits": 5, "options": {}}])
def test_what_is_not_from_wanted_is_refused(how: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        child.environment(how, ["/"], 9)


GOOD = {"time": 1.5, "kind": "line", "module": "m", "line": 3, "source": "x = 1"}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"5",
        b"[" * 100_000,
        json.dumps({**GOOD, "kind": "ids"}).encode(),
        json.dumps({**GOOD, "line": "three"}).encode(),
        json.dumps({**GOOD, "time": []}).encode(),
        json.dumps({**GOOD, "line": 1e400}).encode(),
        json.dumps({**GOOD, "line": -1}).encode(),
        json.dumps({**GOOD, "kind": []}).encode(),
        json.dumps({**GOOD, "kind": "notice"}).encode(),
    ],
)
def test_what_is_not_a_line_is_left_out(tmp_path: Path, text: bytes) -> None:
    with Live(tmp_path) as live:
        assert child.take(text)
        assert child.take(json.dumps({**GOOD, "source": "y" * 20_000, "ids": {"job": "forged"}}).encode())
    (line,) = [line for line in live.sink.lines if line.module == "m"]
    assert (line.number, line.ids, len(line.text)) == (3, {}, 500)


@pytest.mark.parametrize("time", ["NaN", "Infinity", "-1e300", "1.5", "4e9"])
def test_times_and_texts_of_a_child_are_made_harmless(tmp_path: Path, time: str) -> None:
    """A terminal and a calendar show them: no control characters, no time that cannot be."""
    with Live(tmp_path) as live:
        text = json.dumps(
            {**GOOD, "module": "m\x1b[2J", "source": "\x07\ud800", "file": "/a\nb", "time": 0, "since": -1}
        )
        assert child.take(text.replace('"time": 0', f'"time": {time}').encode())
    (line,) = [line for line in live.sink.lines if line.module.startswith("m")]
    assert abs(line.time - clock()) < 60
    assert (line.module, line.text, line.file, line.since) == (r"m\x1b[2J", r"\x07\ud800", r"/a\nb", None)


def test_a_program_that_cannot_be_traced_runs(tmp_path: Path) -> None:
    write(tmp_path, {"main.py": "print('done')\n"})
    ran = run(
        ["main.py"],
        tmp_path,
        LINETRACE_BOOT="nonsense",
        PYTHONPATH=child.environment({"limits": {}, "options": {}}, ["/"], 9)["PYTHONPATH"],
    )
    assert (ran.returncode, ran.stdout) == (0, "done\n")
    assert "linetrace: not traced: JSONDecodeError" in ran.stderr
