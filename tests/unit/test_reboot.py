"""Why a host needs a reboot, and in which order hosts get theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.environment import Host
from ops.maintenance import in_order
from ops.on_host.reboot_reasons import reasons
from ops.status import HostStatus


@pytest.mark.parametrize(
    ("installed", "running", "expected"),
    [
        ([], "6.12.1-amd64", []),
        (["6.12.9-amd64"], "6.12.9-amd64", []),
        (["6.12.9-amd64", "6.12.10-amd64"], "6.12.10-amd64", []),
        (["6.12.9-amd64", "6.12.10-amd64"], "6.12.9-amd64", ["kernel 6.12.10-amd64 is installed, 6.12.9-amd64 runs"]),
    ],
)
def test_a_newer_kernel_asks_for_a_reboot(
    tmp_path: Path, installed: list[str], running: str, expected: list[str]
) -> None:
    (tmp_path / "boot").mkdir()
    for release in installed:
        (tmp_path / "boot" / f"vmlinuz-{release}").touch()
    assert reasons(tmp_path, running) == expected


def test_packages_ask_for_a_reboot(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "reboot-required").touch()
    assert reasons(tmp_path, "6.12") == ["a package asks for it"]
    (tmp_path / "run" / "reboot-required.pkgs").write_text("libc6\ndbus\nlibc6\n")
    assert reasons(tmp_path, "6.12") == ["packages ask for it: dbus, libc6"]


def host(name: str, *groups: str) -> Host:
    return Host(name=name, groups=frozenset(groups), variables={"public_address": "192.0.2.10"})


def test_what_leads_comes_last_among_its_like() -> None:
    hosts = [
        host("data1", "storage", "database"),
        host("data2", "storage", "database"),
        host("lb1", "loadbalancers"),
        host("lb2", "loadbalancers"),
        host("web1", "web"),
        host("worker1", "workers"),
        host("both", "workers", "web"),
        host("ops1", "monitoring"),
    ]
    found = [HostStatus(known.name, known.address, []) for known in hosts]
    found[0].said["members"] = {"data1": "leader running", "data2": "quorum_standby streaming"}
    found[1].said["members"] = {"data1": "leader running", "data2": "quorum_standby streaming"}
    found[2].said["addresses"] = ["192.0.2.11", "192.0.2.10"]
    found[3].said["addresses"] = ["192.0.2.12"]
    names = [ordered.name for ordered in in_order(hosts, found)]
    assert names == ["ops1", "worker1", "web1", "both", "lb2", "lb1", "data2", "data1"]
