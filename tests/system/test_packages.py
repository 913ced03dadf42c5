"""A real package goes back and forth on the hosts that have it, one after another, while the site serves."""

from __future__ import annotations

from ops import package_lock as lock
from ops.inventories import LAB_ENVIRONMENT
from tests.support import packages as older
from tests.support.site import Poller, Site, inv

PACKAGE = "haproxy"
NEW = "lsof"
"""A package that no host has: without `--also` no snapshot has it, and no role could install it."""
# The virtual address moves twice in each direction at most. What is under way through its holder then ends.
LOST_AT_A_MOVE = 3
LONGEST_GAP_SECONDS = 2.0


def versions(site: Site) -> dict[str, str]:
    """Host -> its version of the package, of the hosts that have it."""
    command = ("dpkg-query", "--show", "--showformat=${Version}", PACKAGE)
    return {host: site.run(host, *command) for host in site.group("loadbalancers")}


def packages(*arguments: str) -> str:
    """Run a task, which must succeed; what it says."""
    done = inv(*arguments, f"--env={LAB_ENVIRONMENT}", seconds=600)
    assert done.returncode == 0, done.stdout[-10000:]
    return done.stdout


def runs_what_is_installed(site: Site, host: str) -> bool:
    """Whether HAProxy's process has the program that is on the disk: one that was not restarted has a deleted one."""
    pid = site.run(host, "systemctl", "show", "--property=MainPID", "--value", "haproxy.service").strip()
    running, installed = site.run(host, "stat", "-Lc%i", f"/proc/{pid}/exe", "/usr/sbin/haproxy").split()
    return running == installed


def test_a_package_goes_back_and_forth_under_requests(site: Site) -> None:
    """`revert` to a snapshot of long ago downgrades for real, `update` goes forward again; no other host is touched,
    but all can install what is new in the snapshot.
    """
    locked = lock.read(site.environment)
    assert locked is not None, "a new lab is locked on what it has"
    now = versions(site)
    assert set(now.values()) == {locked.versions[PACKAGE]}
    said = site.lab.exec("ops1", older.command(PACKAGE, locked.snapshot))
    assert said.returncode == 0, said.stderr

    with Poller(site) as poller:
        shown = packages("packages.revert", f"--to={older.SNAPSHOT}")
    assert set(versions(site).values()) == {older.VERSION}
    assert older.VERSION in shown
    assert "(2 of 2)" in shown
    assert "of 3)" not in shown, "only the hosts that have the package are taken out of service"
    assert all(runs_what_is_installed(site, host) for host in now)
    again = lock.read(site.environment)
    assert again is not None
    assert again.snapshot == older.SNAPSHOT
    assert len(poller.failures) <= LOST_AT_A_MOVE, poller.failures
    assert poller.longest_gap < LONGEST_GAP_SECONDS
    site.measured.append(
        f"{PACKAGE} of two load balancers to an older version: {len(poller.failures)} of {poller.asked} requests failed"
    )

    assert PACKAGE in packages("packages.diff", f"--to={locked.snapshot}")
    packages("packages.update", f"--also={NEW}")
    assert versions(site) == now
    assert all(runs_what_is_installed(site, host) for host in now)
    forward = lock.read(site.environment)
    assert forward is not None
    assert forward.versions[PACKAGE] == locked.versions[PACKAGE]
    # On a host of which no package changed.
    assert forward.versions[NEW] in site.run("web1", "apt-cache", "policy", NEW)
    assert "Nothing to change" in packages("packages.apply")
