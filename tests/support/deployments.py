"""What tests of deployments share: running one, killing one, and what must be true after one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time

from ops import release
from ops.inventories import LAB_ENVIRONMENT
from ops.paths import ROOT, tool
from tests.support.site import Site, inv

AGAIN = "-again-"
PREPARE_AND_DEPLOY = ("deploy", f"--env={LAB_ENVIRONMENT}", "--yes")
DEPLOY = (*PREPARE_AND_DEPLOY, "--no-provision")
BACK = ("rollback", f"--env={LAB_ENVIRONMENT}", "--yes")


def name_of(current: release.Release) -> str:
    """A version that nobody has used."""
    return f"{current.version}{AGAIN}{time.time_ns() // 1_000_000}"


def failed(*arguments: str) -> str:
    """Run a task that must end with 1; returns what it had said, as one line however its own were broken."""
    done = inv(*arguments)
    assert done.returncode == 1, done.stdout[-10000:]
    return " ".join(done.stdout.split())


def assert_on(site: Site, version: str) -> None:
    """Every host runs that release, serves, and remembers no switch that did not end."""
    assert set(site.versions().values()) == {version}
    for host in site.versions():
        marks = ("/opt/longhaul/switching", "/var/lib/longhaul/drain")
        assert not site.run(host, "sh", "-c", f"ls {' '.join(marks)} 2>/dev/null || true"), host
    for balancer in site.group("loadbalancers"):
        assert set(site.backends(balancer).values()) == {"UP"}


def kill_after(step: str, *arguments: str) -> str:
    """Run a task whose whole process group is killed when the named step has ended; returns what it had said."""
    return kill_at(rf"{re.escape(step)}: \d+ s$", *arguments)


def kill_at(line_like: str, *arguments: str, occurrence: int = 1) -> str:
    """The same when it has said a line that matches, `occurrence` times."""
    process = subprocess.Popen(
        [tool("invoke"), "--search-root", str(ROOT), *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    limit = threading.Timer(600, os.killpg, (process.pid, signal.SIGKILL))
    limit.start()
    lines: list[str] = []
    try:
        for line in process.stdout:
            lines.append(line)
            occurrence -= bool(re.match(line_like, line))
            if not occurrence:
                os.killpg(process.pid, signal.SIGKILL)
                break
    finally:
        limit.cancel()
    assert process.wait(30) == -signal.SIGKILL, f"it ended before '{line_like}':\n{''.join(lines)[-5000:]}"
    return "".join(lines)
