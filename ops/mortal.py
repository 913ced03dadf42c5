"""Run a command that ends, with all that it has started, when the process that started this one ends.

    python ops/mortal.py PARENT COMMAND [ARGUMENT ...]

PARENT is the number of the process whose end ends the command, however it comes about. This process then sends the
command SIGTERM, waits for it for two seconds, and kills whatever is left of it: processes in sessions of their own
too. SIGTERM to this process does the same. Otherwise it ends as the command does: with its exit code, or with 128 and
the number of the signal that ended it. What the command leaves behind then (SSH's shared connections, say) stays.

A signal from `setpriv --pdeathsig` is not enough: Ansible's workers, which are sessions of their own, ignore SIGTERM
for a moment when they begin, and would finish their task, with all its items and retries, beside whoever takes the
lock next. (PR_SET_PDEATHSIG(2const), PR_SET_CHILD_SUBREAPER(2const).)
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

END_SECONDS = 2
"""What the command is given to end by itself."""
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
# SIGINT too: of Ctrl-C, which reaches the command by itself, this process takes no notice.
WATCHED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}

PYTHONS = {signal.SIGPIPE, signal.SIGXFSZ}
"""Signals that Python ignores, and the command, which would inherit that, does not."""


def mortal(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` until the calling thread ends (of a process with several, only that one
    counts).
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def main(parent: int, command: Sequence[str]) -> int:
    """Run the command; return what to end with."""
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    _control(PR_SET_CHILD_SUBREAPER, 1)
    _control(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before it could be watched
        return 128 + signal.SIGTERM
    try:
        child = os.posix_spawnp(command[0], list(command), os.environ, setsigmask=(), setsigdef=PYTHONS)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return 127
    ended: int | None = None
    while ended is None:
        if signal.sigwait(WATCHED) == signal.SIGTERM:
            return _end(child)
        ended = _reap().get(child)
    return ended if ended >= 0 else 128 - ended


def _end(child: int) -> int:
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGTERM)
    deadline = time.monotonic() + END_SECONDS
    while child not in _reap() and (left := deadline - time.monotonic()) > 0:
        signal.sigtimedwait({signal.SIGCHLD}, left)
    while sum(_kill(number) for number in _descendants()):
        signal.sigtimedwait({signal.SIGCHLD}, 0.1)
        _reap()
    return 128 + signal.SIGTERM


def _kill(number: int) -> bool:
    """Whether there was something to kill. Another account's process (of sudo) is not: it ends with its input."""
    try:
        os.kill(number, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _reap() -> dict[int, int]:
    """Those of the child processes that have ended since: number -> exit code, or a signal's number below 0."""
    ended = {}
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = os.waitstatus_to_exitcode(found[1])
    return ended


def _descendants() -> list[int]:
    """All processes below this one. One whose parent has ended is a child of this process."""
    children: dict[int, list[int]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # The name, in parentheses, may hold anything: proc_pid_stat(5).
            parent = int((process / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(process.name))
    found = [os.getpid()]
    for number in found:
        found += children.get(number, [])
    return found[1:]


def _control(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
