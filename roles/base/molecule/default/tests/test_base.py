"""Who gets in and how, what the host calls itself and others, and that nothing of the journal is lost."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

ROLE_HOSTS = ["web1"]
OPERATOR = "carol"
LONG_LINE_BYTES = 200_000
CRASHING_UNIT = """\
[Service]
ExecStart=/bin/sh -c 'echo the cause of it; sleep 0.3; exit 1'
Restart=always
RestartSec=0.2
[Unit]
StartLimitIntervalSec=0
"""


def ssh(variables: Mapping[str, Any], user: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Try to log in to the host and become root, with no other key than the options name."""
    known_hosts = Path(variables["inventory_file"]).parent / "known_hosts"
    return subprocess.run(
        [
            "ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
            "-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={known_hosts}",
            *options, f"{user}@{variables['ansible_host']}", "sudo -n id -u",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A new SSH key that nobody knows."""
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


def test_a_new_host_has_no_package_older_than_its_sources(host: Host) -> None:
    """What the installation brought is brought to the others' versions: netbase was older (prepare.yml)."""
    assert host.package("netbase").version != "0~older"
    assert "\n0 upgraded," in host.check_output("apt-get --simulate dist-upgrade")


def test_only_public_keys_are_accepted(variables: Mapping[str, Any]) -> None:
    answer = ssh(variables, variables["ansible_user"], "-o", "PubkeyAuthentication=no")
    assert answer.returncode != 0
    assert "Permission denied (publickey)." in answer.stderr


def test_ops_gets_in_with_its_key_and_root_does_not(variables: Mapping[str, Any]) -> None:
    identity = variables["ansible_ssh_private_key_file"]
    assert ssh(variables, variables["ansible_user"], "-i", identity).stdout == "0\n"
    answer = ssh(variables, "root", "-i", identity)
    assert "Permission denied (publickey)." in answer.stderr


def test_a_key_that_an_intruder_leaves_in_a_home_opens_nothing(
    host: Host, variables: Mapping[str, Any], key: Path
) -> None:
    public = key.with_suffix(".pub").read_text()
    user = variables["ansible_user"]
    host.check_output("sh -c %s", f"echo '{public.strip()}' >> /home/{user}/.ssh/authorized_keys")
    answer = ssh(variables, user, "-i", str(key))
    assert "Permission denied (publickey)." in answer.stderr


def test_an_operator_of_the_inventory_gets_in_and_may_become_root(
    variables: Mapping[str, Any], ansible: Any, key: Path
) -> None:
    before = ssh(variables, OPERATOR, "-i", str(key))
    assert "Permission denied (publickey)." in before.stderr
    ansible.converge(base_operators=[{"name": OPERATOR, "ssh_keys": [key.with_suffix(".pub").read_text().strip()]}])
    assert ssh(variables, OPERATOR, "-i", str(key)).stdout == "0\n"


def test_a_host_is_never_left_without_a_key(ansible: Any) -> None:
    answer = ansible.converge(check=False, base_ops_keys=[], base_operators=[])
    assert answer.returncode != 0
    assert "at least one SSH key" in answer.stdout


def test_it_knows_its_name_and_every_other_host(host: Host, variables: Mapping[str, Any]) -> None:
    assert host.check_output("hostname") == variables["inventory_hostname"]
    assert len(variables["groups"]["all"]) > 1
    for name in variables["groups"]["all"]:
        assert host.addr(name).ipv4_addresses == [variables["hostvars"][name]["ansible_host"]]


def test_a_long_line_stays_one_entry_of_a_persistent_journal(host: Host) -> None:
    host.check_output("sh -c %s", f"head -c {LONG_LINE_BYTES} /dev/zero | tr '\\0' x | systemd-cat -t long")
    host.check_output("journalctl --sync")
    entry = json.loads(host.check_output("journalctl -t long -o json --all --lines=1"))
    assert len(entry["MESSAGE"]) == LONG_LINE_BYTES
    machine_id = host.file("/etc/machine-id").content_string.strip()
    assert host.file(f"/var/log/journal/{machine_id}/system.journal").exists


def test_kernel_parameters_of_the_network_are_in_force(host: Host, variables: Mapping[str, Any]) -> None:
    expected = {
        name: value
        for name, value in {**variables["__base_sysctl"], **variables["base_sysctl"]}.items()
        if name.startswith("net.")
    }
    assert len(expected) > 3
    assert {name: host.sysctl(name) for name in expected} == expected


def test_the_time_servers_are_understood_by_chrony(host: Host, variables: Mapping[str, Any]) -> None:
    host.check_output("chronyd -p -f /etc/chrony/chrony.conf")
    lines = host.file("/etc/chrony/sources.d/longhaul.sources").content_string.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("pool ")] == variables["base_time_servers"]


def test_sshd_accepts_its_configuration(host: Host) -> None:
    host.check_output("sshd -t")
    effective = host.check_output("sshd -T")
    for line in ("passwordauthentication no", "permitrootlogin no", "allowagentforwarding no"):
        assert line in effective.splitlines()


def test_stays_up_tells_a_crash_loop_from_a_service(host: Host, host_name: str, ansible: Any) -> None:
    host.check_output("sh -c %s", f"cat > /run/systemd/system/crash.service <<'END'\n{CRASHING_UNIT}END")
    host.check_output("systemctl daemon-reload")
    host.check_output("systemctl start --no-block crash.service")
    try:
        answer = ansible.module(host_name, "stays_up", check=False, units=["crash.service"], timeout=2)
    finally:
        host.check_output("systemctl stop crash.service")
    assert "Does not stay up: crash.service" in answer
    assert "the cause of it" in answer
    assert "SUCCESS" in ansible.module(host_name, "stays_up", units=["ssh.service"], seconds=0.5)
