"""What the lab asks of a machine, with the machine's answers made up."""

from __future__ import annotations

import ctypes
import os
import shutil
import threading
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ops.errors import Exit, Failure
from ops.lab import cgroups, image, machine

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A machine that can run the lab; a test takes something away."""
    (tmp_path / "cgroup.procs").touch()
    monkeypatch.setattr(machine.platform, "system", lambda: "Linux")
    monkeypatch.setattr(machine.os, "geteuid", lambda: 0)
    monkeypatch.setattr(machine.shutil, "which", lambda program, path=None: f"/bin/{program}")
    monkeypatch.setattr(machine, "FILES", {tmp_path: "x"})
    monkeypatch.setattr(cgroups, "mount_point", lambda: tmp_path)
    monkeypatch.setattr(machine, "_filesystem", lambda kind: True)
    monkeypatch.setattr(machine, "_link_type", lambda kind: True)
    monkeypatch.setattr(machine, "LOOP_CONTROL", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, 10**12))
    monkeypatch.setattr(image, "exists", lambda: False)
    monkeypatch.setattr(machine, "_inotify_left", lambda: 1000)
    return monkeypatch


def test_a_fit_machine_passes(fit: pytest.MonkeyPatch) -> None:
    machine.require_capable(10)


def test_everything_that_is_missing_is_told_at_once(fit: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fit.setattr(cgroups, "mount_point", lambda: None)
    fit.setattr(machine, "_filesystem", lambda kind: kind != "xfs")
    fit.setattr(machine, "_link_type", lambda kind: kind != "veth")
    fit.setattr(machine, "LOOP_CONTROL", tmp_path / "none")
    fit.setattr(machine.shutil, "which", lambda program, path=None: {"ip": "/sbin/ip", "tc": "/sbin/tc"}.get(program))
    fit.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12, 10**9))
    with pytest.raises(Failure) as caught:
        machine.require_capable(10)
    for word in ("cgroup v2", "no xfs", "loop devices", "type veth", "systemd-nspawn", "1.0 GB free"):
        assert word in caught.value.message
    assert "overlay" not in caught.value.message
    assert "systemd-container" in caught.value.hint
    assert "iproute2" not in caught.value.hint
    assert caught.value.message.count("\n  - ") == caught.value.hint.count("  - ") == 6
    assert caught.value.code == Exit.UNAVAILABLE


def test_the_disk_is_judged_by_what_is_still_to_be_made(fit: pytest.MonkeyPatch) -> None:
    fit.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, machine.SPARE_BYTES + machine.HOST_BYTES))
    with pytest.raises(Failure, match="1 new hosts need"):  # the image has to be built too
        machine.require_capable(1)
    fit.setattr(image, "exists", lambda: True)
    machine.require_capable(1)
    with pytest.raises(Failure, match="2 new hosts need"):
        machine.require_capable(2)


def test_hosts_whose_systemd_could_not_start_are_refused(fit: pytest.MonkeyPatch) -> None:
    fit.setattr(machine, "_inotify_left", lambda: 20)
    machine.require_capable(3)
    with pytest.raises(Failure, match="20 more inotify instances, and 4 new hosts need 24") as caught:
        machine.require_capable(4)
    assert "fs.inotify.max_user_instances=1024" in caught.value.hint


def test_inotify_instances_are_counted() -> None:
    before = machine.inotify_instances(Path("/proc/self"))
    watching = [ctypes.CDLL(None).inotify_init() for _ in range(3)]
    try:
        assert machine.inotify_instances(Path("/proc/self")) == before + 3
    finally:
        for descriptor in watching:
            os.close(descriptor)


def test_another_system_is_refused(fit: pytest.MonkeyPatch) -> None:
    fit.setattr(machine.platform, "system", lambda: "Darwin")
    with pytest.raises(Failure, match="it runs Darwin"):
        machine.require_capable(1)


def test_packages_that_apt_get_will_install_are_not_missing(fit: pytest.MonkeyPatch) -> None:
    fit.setattr(machine.shutil, "which", lambda program, path=None: "/bin/apt-get" if program == "apt-get" else None)
    machine.require_capable(1)


def test_the_list_is_told_without_root_too(fit: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fit.setattr(machine.os, "geteuid", lambda: 1000)
    fit.setattr(machine, "LOOP_CONTROL", tmp_path / "none")
    with pytest.raises(Failure) as caught:
        machine.require_capable(1)
    assert "only root may" in caught.value.message
    assert "loop devices" in caught.value.message


def test_without_root_the_way_to_get_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "geteuid", lambda: 1000)
    with pytest.raises(Failure, match="only root may") as caught:
        machine.require_root()
    assert caught.value.code == Exit.NO_PERMISSION


def test_another_distribution_gets_the_names_of_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    have = {"ip": "/sbin/ip", "tc": "/sbin/tc"}
    monkeypatch.setattr(machine.shutil, "which", lambda program, path=None: have.get(program))
    with pytest.raises(Failure) as caught:
        machine.ensure_packages()
    assert "systemd-nspawn" in caught.value.message
    assert "systemd-container" in caught.value.hint
    assert "iproute2" not in caught.value.hint
    assert caught.value.code == Exit.UNAVAILABLE


def test_with_everything_there_nothing_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine.shutil, "which", lambda program, path=None: f"/bin/{program}")
    monkeypatch.setattr(machine, "FILES", {tmp_path: "x"})
    monkeypatch.setattr(machine.subprocess, "run", lambda *arguments, **named: pytest.fail("something was run"))
    machine.ensure_packages()


def test_two_labs_that_come_up_at_once_install_packages_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = ["iproute2"]
    together = threading.Barrier(2)
    at_work = threading.Lock()
    asked: list[tuple[str, ...]] = []

    def apt_get(*words: str) -> None:
        assert at_work.acquire(blocking=False), "two at once"
        time.sleep(0.05)
        asked.append(words)
        if words[0] == "install":
            missing.clear()
        at_work.release()

    def missing_at_first() -> list[str]:
        found = list(missing)
        if not asked and threading.current_thread().name not in seen:  # both see that something is missing
            seen.add(threading.current_thread().name)
            together.wait(10)
        return found

    seen: set[str] = set()
    monkeypatch.setattr(machine, "LABS", tmp_path / "labs")
    monkeypatch.setattr(machine.shutil, "which", lambda *_, **__: "/bin/apt-get")
    monkeypatch.setattr(machine, "missing_packages", missing_at_first)
    monkeypatch.setattr(machine, "_apt_get", apt_get)
    monkeypatch.setattr(machine.os, "geteuid", lambda: 0)
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(machine.ensure_packages) for _ in range(2)]:
            done.result(30)
    assert asked == [("update",), ("install", "iproute2")]
