"""What tasks of roles take for done: they are played on this machine, with folders of the test's own."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops import ansible, on_host
from ops.paths import ROLES, tool
from tests.support.commands import run


def tasks_of(path: str, places: dict[str, str]) -> list[dict[str, Any]]:
    """The tasks of a role's file, with other places than a host's."""
    text = (ROLES / path).read_text()
    for place, other in places.items():
        text = text.replace(place, other)
    found: list[dict[str, Any]] = yaml.safe_load(text)
    return found


def play(
    folder: Path, tasks: list[dict[str, Any]], values: dict[str, Any], *words: str
) -> subprocess.CompletedProcess[str]:
    """Play tasks here."""
    playbook = folder / "playbook.yml"
    playbook.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
    command = [tool("ansible-playbook"), "-i", "localhost,", "-c", "local", "-e", json.dumps(values), *words]
    return run(*command, str(playbook), seconds=120, env={**ansible.settings(), "PATH": os.environ["PATH"]})


def changed(said: subprocess.CompletedProcess[str]) -> int:
    """How many tasks changed something in a run that succeeded."""
    assert said.returncode == 0, said.stdout
    (count,) = re.findall(r"changed=(\d+)", said.stdout)
    return int(count)


# --- The key of the package repository --------------------------------------------------------------------------------

GPG = """#!/bin/sh
case "$*" in
    *--list-secret-keys*) [ ! -e "$GNUPGHOME/key" ] || cat "$GNUPGHOME/key" ;;
    *) touch "$GNUPGHOME/trustdb.gpg" && [ -e "$GNUPGHOME/works" ] && echo sec >"$GNUPGHOME/key" ;;
esac
"""


def test_a_key_that_could_not_be_made_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gpg writes its trust database also when it makes no key."""
    (tmp_path / "gnupg").mkdir()
    settings = {"home": str(tmp_path), "suite": "trixie", "key_name": "unit"}
    (tmp_path / "packages.json").write_text(json.dumps(settings))
    program = on_host.path_of("package_snapshots").read_text()
    (tmp_path / "program.py").write_text(program.replace("/etc/longhaul", str(tmp_path)))
    start = f'#!/bin/sh\nexec {shlex.join([sys.executable, str(tmp_path / "program.py")])} "$@"\n'
    for name, text in {"longhaul-packages": start, "gpg": GPG, "dpkg": "#!/bin/sh\necho amd64\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    make_key = tasks_of("apt_repository/tasks/service.yml", {"/usr/local/sbin": str(tmp_path)})[0]
    del make_key["become"], make_key["become_user"]
    values = {"__apt_repository_home": str(tmp_path)}
    assert play(tmp_path, [make_key], values).returncode != 0
    assert (tmp_path / "gnupg/trustdb.gpg").exists()
    (tmp_path / "gnupg/works").touch()
    assert changed(play(tmp_path, [make_key], values)) == 1
    assert (tmp_path / "gnupg/key").exists()
    assert changed(play(tmp_path, [make_key], values)) == 0
    assert changed(play(tmp_path, [make_key], values, "--check")) == 0


# --- Processors that are shipped alone --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sha256", "refused"),
    [
        pytest.param("a" * 64, False, id="the same"),
        pytest.param("b" * 64, True, id="another content"),
        pytest.param("", False, id="the way back, which knows no checksum"),
    ],
)
def test_another_content_under_a_shipped_version_is_refused(tmp_path: Path, sha256: str, refused: bool) -> None:
    (tmp_path / "releases/r1").mkdir(parents=True)
    (tmp_path / "current").symlink_to("releases/r1")
    (tmp_path / "shipments/v1").mkdir(parents=True)
    (tmp_path / "shipments/v1/archive.sha256").write_text(f"{'a' * 64}\n")
    (tmp_path / "compare.yml").write_text((ROLES / "release/tasks/compare.yml").read_text())
    *before, _go_over = tasks_of("release/tasks/ship.yml", {"/opt/longhaul": str(tmp_path)})
    values = {"release_processors_version": "v1", "release_processors_archive": "", "release_kept": 3}
    said = play(tmp_path, before, {**values, "release_processors_sha256": sha256})
    if refused:
        assert said.returncode != 0
        assert "has processors v1 with other content" in " ".join(said.stdout.split())
    else:
        assert changed(said) == 0, "what is there is left as it is"


# --- The lists of packages --------------------------------------------------------------------------------------------


def test_sources_are_read_if_a_run_ended_after_it_wrote_them(tmp_path: Path) -> None:
    lists, sources = tmp_path / "lists", tmp_path / "sources.list.d/debian.sources"
    sources.parent.mkdir()
    sources.touch()
    *_, look, read = tasks_of("base/tasks/sources.yml", {"/var/lib/apt/lists": str(lists), "/etc/apt": str(tmp_path)})
    valid = read.pop("ansible.builtin.apt")["cache_valid_time"]
    tell = {**read, "ansible.builtin.debug": {"msg": f"valid for {valid} s"}}

    def valid_seconds(**sources_task: bool) -> int:
        said = play(tmp_path, [look, tell], {"__base_apt_sources": sources_task}, "--check")
        assert changed(said) == 0
        (seconds,) = re.findall(r"valid for (\d+) s", said.stdout)
        return int(seconds)

    assert valid_seconds(changed=False) == 0, "nothing was read yet"
    lists.mkdir()
    assert valid_seconds(changed=False) == 86400
    assert valid_seconds(changed=True) == 0
    # What carries a file to a host may give it the time of the machine that it comes from.
    sources.write_text("Types: deb\n")
    os.utime(sources, (0, 0))
    assert valid_seconds(changed=False) == 0
