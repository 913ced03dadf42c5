"""The instructions that a loop takes while nothing is armed, counted by valgrind: the tracer must add none.

    cd app && PYTHONPATH=. ../.venv/bin/python -m benchmarks.tracing_instructions

Prints one JSON line: instructions of one turn of the loop without the tracer, while the process listens, and after it
was traced; the difference of a long and a short loop, so that start and end of Python do not count.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SHORT, LONG = 100_000, 300_000
PROGRAM = """\
import itertools, os, sys

def loop(n):
    # No object is made: what that takes depends on where memory is free.
    total = 0
    for _ in itertools.repeat(None, n):
        total = (total + 1) & 127
    return total

state, turns = sys.argv[1], int(sys.argv[2])
if state != "without":
    import linetrace
    folder = os.path.dirname(os.path.abspath(__file__))
    listening = linetrace.listen(folder, "counted", [folder])
if state == "traced before":
    from linetrace import arm
    trace = linetrace.start([folder], to="file:/dev/null")
    loop(100)
    trace.stop("done")
    arm.wait(trace)
loop(turns)
os._exit(0)
"""


def instructions(folder: Path, state: str, turns: int) -> int:
    """Instructions that a whole run takes. Raises SystemExit if there is no valgrind."""
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    try:
        ran = subprocess.run(
            [*command, sys.executable, folder / "counted.py", state, str(turns)],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": "0", "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1"},
        )
    except FileNotFoundError:
        raise SystemExit("valgrind counts the instructions: apt-get install valgrind") from None
    (count,) = re.findall(r"I\s+refs:\s+([\d,]+)", ran.stderr)
    return int(count.replace(",", ""))


def main() -> None:
    """Count and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "counted.py").write_text(PROGRAM)
        found = {
            state: round((instructions(folder, state, LONG) - instructions(folder, state, SHORT)) / (LONG - SHORT))
            for state in ("without", "listening", "traced before")
        }
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
