"""A snapshot has what Debian signed, never changes, and hosts that install from it go forwards and back."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from testinfra.host import Host

from ops.paths import ROLES
from roles.conftest import Hosts
from tests.support import packages as older

ROLE_HOSTS = ["ops1"]
PACKAGE = "hostname"
NAMES = [PACKAGE, "keepalived", *yaml.safe_load((ROLES / "base/vars/main.yml").read_text())["__base_packages"]]


def ask(host: Host, *words: str, names: list[str] | None = None) -> Any:
    """What the program answers."""
    line = f"runuser -u packages -- longhaul-packages {' '.join(words)}"
    said = host.run("sh -c %s", f"{line} <<'END'\n{json.dumps(names or [])}\nEND")
    assert said.rc == 0, said.stderr
    return json.loads(said.stdout or "null")


@pytest.fixture(scope="module")
def made(hosts: Hosts) -> Any:
    """A snapshot of a few packages, and of those that the role `base` installs."""
    return ask(hosts["ops1"], "make", names=[*NAMES, "no-such-package"])


def test_a_snapshot_has_the_packages_and_what_they_need(host: Host, made: Any) -> None:
    assert re.fullmatch(r"\d{8}-[0-9a-f]{8}", made["snapshot"])
    assert {PACKAGE, "keepalived", "libc6"} <= set(made["versions"])
    assert made["missing"] == ["no-such-package"]
    assert made["snapshot"] in ask(host, "list")
    assert ask(host, "show", made["snapshot"])["versions"] == made["versions"]


def test_the_same_packages_are_the_same_snapshot(host: Host, made: Any) -> None:
    assert ask(host, "make", names=NAMES[::-1])["snapshot"] == made["snapshot"]
    assert ask(host, "make", names=[PACKAGE])["snapshot"] != made["snapshot"]


def test_the_newest_versions_are_known_without_fetching(host: Host, made: Any) -> None:
    said = ask(host, "available", names=[PACKAGE, "libc6", "no-such-package"])
    assert {name: found["version"] for name, found in said.items()} == {
        name: made["versions"][name] for name in (PACKAGE, "libc6")
    }


def test_what_debian_has_not_signed_is_refused(host: Host, made: Any, variables: Mapping[str, Any]) -> None:
    settings = "/etc/longhaul/packages.json"
    before = host.file(settings).content_string
    try:
        # An archive that is signed, but by nobody whom Debian's keyring knows: our own.
        stranger = f"http://127.0.0.1:{variables['site_packages_port']}/{made['snapshot']}"
        changed = json.loads(before)
        changed["upstreams"] = [{"name": "main", "url": stranger, "suite": "trixie"}]
        host.check_output("sh -c %s", f"cat > {settings} <<'END'\n{json.dumps(changed)}\nEND")
        said = host.run("sh -c %s", f"echo '[\"{PACKAGE}\"]' | runuser -u packages -- longhaul-packages make")
        assert said.rc == 1
        assert "verif" in said.stderr
    finally:
        host.check_output("sh -c %s", f"cat > {settings} <<'END'\n{before}\nEND")


def test_two_snapshots_are_not_made_at_once(host: Host) -> None:
    busy = "flock /srv/packages/lock sh -c 'echo [\\\"x\\\"] | runuser -u packages -- longhaul-packages make'"
    said = host.run("sh -c %s", busy)
    assert said.rc == 75
    assert "Another snapshot is being made" in said.stderr


def test_a_host_goes_back_and_forth(hosts: Hosts, made: Any, ansible: Any) -> None:
    """The whole way of a package: a new host really goes back to the older version that its snapshot has, and a host
    that knows a newer snapshot goes forward.
    """
    repository, client = hosts["ops1"], hosts["web1"]
    repository.check_output(shlex.join(older.command(PACKAGE, made["snapshot"])))
    client.check_output("dpkg --purge needrestart")  # which every host has on which the role `base` was
    ansible.prepare("web1", base_apt_snapshot=older.SNAPSHOT, base_apt_snapshot_key=made["key"])
    assert client.package(PACKAGE).version == older.VERSION
    ansible.play("packages-sources", "web1", base_apt_snapshot=made["snapshot"], base_apt_snapshot_key=made["key"])
    # Without an update of its own: the sources were read when they changed.
    client.check_output("env DEBIAN_FRONTEND=noninteractive apt-get dist-upgrade -qq --yes")
    assert client.package(PACKAGE).version == made["versions"][PACKAGE]


def test_a_snapshot_of_a_stranger_is_refused(hosts: Hosts, made: Any, ansible: Any) -> None:
    """Another key than the one that the lock names."""
    client = hosts["web1"]
    stranger = hosts["ops1"].check_output(
        "sh -c %s",
        "export GNUPGHOME=$(mktemp -d); gpg --batch --quiet --passphrase '' --quick-generate-key stranger ed25519 sign "
        "never && gpg --armor --export",
    )
    answer = ansible.play(
        "packages-sources", "web1", check=False, base_apt_snapshot=made["snapshot"], base_apt_snapshot_key=stranger
    )
    assert answer.returncode != 0
    said = client.run("apt-get update --error-on=any")
    assert said.rc != 0
    assert "Missing key" in said.stdout + said.stderr


@pytest.mark.usefixtures("made")
def test_old_snapshots_make_room(hosts: Hosts) -> None:
    host = hosts["ops1"]
    settings = "/etc/longhaul/packages.json"
    before = host.file(settings).content_string
    try:
        host.check_output('sed -i \'s/"kept": [0-9]*/"kept": 1/\' ' + settings)
        newest = ask(host, "make", names=[PACKAGE, "tzdata"])["snapshot"]
        left = ask(host, "list")
        assert len(left) == 2
        assert left[-1] == newest
        served = host.check_output("ls /srv/packages/public").split()
        assert sorted(served) == sorted(left)
    finally:
        host.check_output("sh -c %s", f"cat > {settings} <<'END'\n{before}\nEND")
