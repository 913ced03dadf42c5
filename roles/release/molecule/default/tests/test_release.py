"""A release runs from its own folder, is what was built, and makes room for later ones."""

from __future__ import annotations

import json

import pytest
from testinfra.host import Host

from roles.conftest import Ansible

RELEASES = "/opt/longhaul/releases"
EVERYWHERE = "all,localhost"  # converge.yml asks the control side which release there is


@pytest.fixture
def version(host: Host) -> str:
    """The release that converge.yml installed."""
    return host.check_output(f"ls -t {RELEASES} | head -1")


def test_the_command_runs_on_the_hosts_python(host: Host, version: str) -> None:
    said = host.run(f"{RELEASES}/{version}/venv/bin/longhaul --help")
    assert said.rc == 0, said.stderr
    for command in ("web", "worker", "migrate", "processor"):
        assert command in said.stdout


def test_every_library_that_the_code_imports_is_there(host: Host, version: str) -> None:
    modules = "longhaul.server, longhaul.processing.worker, longhaul.processing.unit, longhaul.stores.swift"
    said = host.run(f"{RELEASES}/{version}/venv/bin/python -c 'import {modules}, uvloop, httptools'")
    assert said.rc == 0, said.stderr


def test_files_are_those_of_the_manifest(host: Host, version: str) -> None:
    manifest = json.loads(host.file(f"{RELEASES}/{version}/manifest.json").content_string)
    assert manifest["version"] == version
    kept = {name: entry for name, entry in manifest["files"].items() if not name.startswith("wheels/")}
    assert {"frontend/app.js", "processors/inspect_file.py"} <= set(kept)
    for name, entry in kept.items():
        assert host.file(f"{RELEASES}/{version}/{name}").sha256sum == entry["sha256"], name


def test_damaged_archive_is_refused_and_removed(host: Host) -> None:
    host.run_test("echo junk > /opt/longhaul/archives/bad.tar.zst")
    said = host.run(f"/opt/longhaul/install-release bad {'0' * 64} 5")
    assert said.rc != 0
    assert "was damaged" in said.stderr
    assert not host.file(f"{RELEASES}/bad").exists
    assert not host.file("/opt/longhaul/archives/bad.tar.zst").exists


def test_oldest_go_and_the_current_one_stays(host: Host, version: str, ansible: Ansible) -> None:
    """Six more, and the current one the oldest: the installer leaves the newest three and the current one."""
    host.run_test(f"ln -sfn releases/{version} /opt/longhaul/current")
    host.run_test(f"touch -d 2020-01-01 {RELEASES}/{version}")
    for number in range(6):
        host.run_test(f"mkdir -p {RELEASES}/old{number} && touch -d 2021-01-0{number + 1} {RELEASES}/old{number}")
    ansible.converge(limit=EVERYWHERE, release_kept=3, release_version="newest")
    left = host.check_output(f"ls {RELEASES}").split()
    assert sorted(left) == sorted(["newest", "old5", "old4", version])


def test_other_content_under_a_used_version_is_refused(host: Host, version: str, ansible: Ansible) -> None:
    said = ansible.converge(check=False, limit=EVERYWHERE, release_version=version, release_sha256="0" * 64)
    assert said.returncode != 0
    assert "with other content" in said.stdout
