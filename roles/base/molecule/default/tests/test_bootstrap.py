"""First contact with a host as a provider hands it over: root with a password, no `ops`, no sudo."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ops import bootstrap, where
from ops.environment import Environment, Host
from ops.errors import Failure
from ops.lab.lab import Lab

BARE = "web2"
PASSWORD = "as set by the provider"
MAKE_BARE = f"""
set -e
sed -i '/^Package: netbase$/,/^$/s/^Version: .*/Version: 0~older/' /var/lib/dpkg/status
userdel --remove --force ops
rm -f /etc/sudoers.d/ops
SUDO_FORCE_REMOVE=yes dpkg --purge --force-depends sudo >/dev/null
printf 'PermitRootLogin yes\\nPasswordAuthentication yes\\nPerSourcePenalties no\\n' >/etc/ssh/sshd_config.d/cloud.conf
echo 'root:{PASSWORD}' | chpasswd
systemctl reload ssh
"""


@pytest.fixture(scope="module")
def environment() -> Environment:
    """The environment of the scenario's lab."""
    return where.environment("lab")


@pytest.fixture(scope="module")
def bare(environment: Environment) -> Host:
    """A host that nothing has been done to."""
    command = Lab.named().host(BARE).command(["sh", "-c", MAKE_BARE])
    subprocess.run(command, check=True, capture_output=True)
    return environment.host(BARE)


def test_a_host_that_shows_another_key_than_expected_is_not_touched(bare: Host, tmp_path: Path) -> None:
    known_hosts = tmp_path / "known_hosts"
    with pytest.raises(Failure, match="shows the key SHA256:"):
        bootstrap.know(known_hosts, bare, "SHA256:another")
    assert not known_hosts.exists()


def test_nobody_but_a_person_or_a_fingerprint_vouches_for_a_new_key(
    bare: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "nobody").open("w+") as nobody, monkeypatch.context() as patch:
        patch.setattr("sys.stdin", nobody)
        with pytest.raises(Failure):
            bootstrap.know(tmp_path / "known_hosts", bare, "")
    assert not (tmp_path / "known_hosts").exists()


def test_the_key_with_the_expected_fingerprint_is_recorded(
    environment: Environment, bare: Host, tmp_path: Path
) -> None:
    line = next(line for line in environment.known_hosts.read_text().splitlines() if line.startswith(f"{BARE},"))
    key = tmp_path / "key.pub"
    key.write_text(line.partition(" ")[2])
    answer = subprocess.run(["ssh-keygen", "-lf", key], capture_output=True, text=True, check=True)
    known_hosts = tmp_path / "known_hosts"
    bootstrap.know(known_hosts, bare, answer.stdout.split()[1])
    assert known_hosts.read_text() == f"{line}\n"

    # From now on any other key is refused, whatever is expected.
    known_hosts.write_text(line.replace(line[-6:], "AAAAAA") + "\n")
    with pytest.raises(Failure, match="shows the key SHA256:"):
        bootstrap.know(known_hosts, bare, answer.stdout.split()[1])


def test_the_host_is_handed_over_from_root_to_ops(environment: Environment, bare: Host) -> None:
    bootstrap.run(environment, bare, user="root", password=PASSWORD, expected="")
    answer = environment.connection(bare).run("sudo -n id -u", hide=True)
    assert answer.stdout == "0\n"
    assert "\n0 upgraded," in environment.connection(bare).run("apt-get --simulate dist-upgrade", hide=True).stdout
    refused = subprocess.run(
        ["ssh", *environment.ssh_options(), "-o", "BatchMode=yes", f"root@{bare.address}", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Permission denied (publickey)." in refused.stderr
