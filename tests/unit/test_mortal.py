"""A command that ends with the process that runs it, whatever it has started and however it takes the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ops.mortal import END_SECONDS, mortal
from tests.support.commands import ROOT
from tests.support.waiting import until

OWNER = "import subprocess, sys; from ops.mortal import mortal; subprocess.run(mortal(sys.argv[1:]))"
NOTES = 'echo $$ >"$PIDS/$$"'
SHOW = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]
STARTS = {
    "a plain command": f"{NOTES}; exec sleep 60",
    "one that ignores SIGTERM": f"trap '' TERM; {NOTES}; while :; do sleep 1; done",
    "a session of its own": f"setsid sh -c '{NOTES}; exec sleep 60' & wait",
    "one whose parent has ended": f"(setsid sh -c 'trap : TERM; {NOTES}; sleep 60; sleep 60' &); exec sleep 60",
    "one beside it that ignores SIGTERM": f"(trap '' TERM; exec sh -c '{NOTES}; sleep 60; :') & wait",
}


def written(folder: Path) -> int:
    """The number that the command has written, when it has."""
    until(lambda: any(path.read_text().endswith("\n") for path in folder.iterdir()), "a number", 30)
    return int(next(folder.iterdir()).name)


def running(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("script", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize("killed", ["its owner", "it with SIGTERM"])
def test_nothing_is_left(tmp_path: Path, script: str, killed: str) -> None:
    command = ["sh", "-c", script]
    line = [sys.executable, "-c", OWNER, *command] if killed == "its owner" else mortal(command)
    process = subprocess.Popen(line, cwd=ROOT, env={**os.environ, "PIDS": str(tmp_path)})
    number = written(tmp_path)
    process.send_signal(signal.SIGKILL if killed == "its owner" else signal.SIGTERM)
    process.wait(END_SECONDS + 30)
    until(lambda: not running(number), f"the end of {number}", END_SECONDS + 30)


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137)])
def test_it_ends_as_its_command_does(script: str, code: int) -> None:
    assert subprocess.run(mortal(["sh", "-c", script]), check=False).returncode == code


def test_a_command_that_is_not_there_is_named() -> None:
    result = subprocess.run(mortal(["no-such-command"]), capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (127, "no-such-command: No such file or directory\n")


def test_what_a_command_leaves_behind_in_order_stays(tmp_path: Path) -> None:
    """SSH's shared connections, which the next playbook uses."""
    leaves = f"setsid sh -c '{NOTES}; exec sleep 60' >/dev/null 2>&1 & until ls \"$PIDS\"/*; do sleep 0.1; done"
    subprocess.run(mortal(["sh", "-c", leaves]), env={**os.environ, "PIDS": str(tmp_path)}, check=True)
    number = written(tmp_path)
    assert running(number)
    os.kill(number, signal.SIGKILL)


def test_ctrl_c_is_left_to_the_command(tmp_path: Path) -> None:
    script = f"trap 'exit 5' INT; {NOTES}; while :; do sleep 0.1; done"
    # A shell cannot trap what was ignored when it began, as it is for what another shell runs in the background.
    command = mortal(["env", "--default-signal=INT", "sh", "-c", script])
    process = subprocess.Popen(command, env={**os.environ, "PIDS": str(tmp_path)})
    number = written(tmp_path)
    os.kill(process.pid, signal.SIGINT)
    assert running(process.pid)
    os.kill(number, signal.SIGINT)
    assert process.wait(30) == 5


def test_its_signals_are_as_they_were() -> None:
    """Blocked or ignored ones would be inherited, and Ansible could not be ended."""
    assert signals(mortal(SHOW)) == signals(SHOW)


def signals(command: Sequence[str]) -> list[int]:
    """Of 1 to 31, those that the command shows as blocked and as ignored. 32 and 33 are the C library's own."""
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [int(line.split()[1], 16) & 0x7FFF_FFFF for line in lines]
