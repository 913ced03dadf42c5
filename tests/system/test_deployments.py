"""Deploying onto a site that serves users: nobody notices, nothing changes that need not, and what fails goes back."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from ops import ansible, release
from ops.environment import LAB_ENVIRONMENT
from ops.load.run import Load
from tests.support.clients import random_file
from tests.support.commands import run
from tests.support.deployments import DEPLOY, assert_on, kill_after, name_of
from tests.support.load import under_load, users_for
from tests.support.recap import recaps
from tests.support.releases import altered, in_wheel
from tests.support.site import Site, inv

MB = 1_000_000
TASKS_PER_HOST = 100
THERE_AND_BACK_SECONDS = 160


def newest(site: Site) -> dict[str, object]:
    """The record of the last deployment."""
    done = inv("deploys", f"--env={LAB_ENVIRONMENT}", "--json")
    assert done.returncode == 0, done.stdout
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found[0]


def test_hosts_that_are_as_they_should_be_are_left_alone(site: Site) -> None:
    """The playbook of every deployment changes nothing on a converged site, and costs each host few tasks."""
    began = time.monotonic()
    done = inv("provision", f"--env={LAB_ENVIRONMENT}", "--yes")
    elapsed = time.monotonic() - began
    assert done.returncode == 0, done.stdout[-10000:]
    hosts = recaps(done.stdout)[0]
    assert set(hosts) >= set(site.environment.hosts), "not every host was looked at"
    changed = {host: counts["changed"] for host, counts in hosts.items() if counts["changed"]}
    assert not changed, f"tasks that changed something on a converged host: {changed}\n{done.stdout[-10000:]}"
    most = max(hosts, key=lambda host: hosts[host]["ok"])
    site.measured += [
        f"provision of a converged site: {elapsed:.0f} s",
        f"site.yml: at most {hosts[most]['ok']} tasks on a host ({most})",
    ]
    assert hosts[most]["ok"] <= TASKS_PER_HOST


def test_to_a_new_release_and_back(site: Site, current: release.Release, tmp_path: Path) -> None:
    """Under many uploads and busy pages no request fails."""
    file = tmp_path / f"deploy-{time.time_ns()}.bin"
    sha256 = random_file(file, 150 * MB, seed=9)
    version, before = name_of(current), site.versions()["web1"]
    began = time.monotonic()
    # So slow that both web hosts are switched while it runs.
    with altered(current, version), site.line("steady", "8mbit") as line:
        upload = line.start("tus-js-client", file)
        with under_load(site, users_for(THERE_AND_BACK_SECONDS)):
            done = inv(*DEPLOY, f"--release={version}")
            elapsed = time.monotonic() - began
            assert done.returncode == 0, done.stdout[-10000:]
            assert_on(site, version)
            assert site.run("web1", "cat", "/opt/longhaul/previous").strip() == before
            back = inv("rollback", f"--env={LAB_ENVIRONMENT}", "--yes")
        assert back.returncode == 0, back.stdout[-10000:]
        upload.wait_success(150)
    assert_on(site, before)
    said = site.wait_done(upload.upload_id)
    assert said["sha256"] == sha256
    assert len(upload.of("request", method="POST")) == 1
    record = newest(site)
    assert (record["operation"], record["release"], record["result"]) == ("rollback", before, "done")
    steps = {name: int(seconds) for name, seconds in re.findall(r"^([a-z0-9 ]+): (\d+) s$", done.stdout, re.MULTILINE)}
    site.measured.append(f"a new release under load: {elapsed:.0f} s ({steps})")


def break_uploads_on_web2(text: str) -> str:
    """A web service that starts and serves pages, but takes no uploads on one host."""
    return text.replace(
        "    async def _receive(self, exchange: _Exchange, upload_id: str, key: str) -> None:\n",
        "    async def _receive(self, exchange: _Exchange, upload_id: str, key: str) -> None:\n"
        '        if self._settings.server == "web2":\n'
        '            raise Refusal(423, "this release is broken")\n',
    )


def test_a_release_that_does_not_work_goes_back_everywhere(site: Site, current: release.Release, users: Load) -> None:
    before, version = site.versions()["web1"], name_of(current)
    with altered(current, version, in_wheel("longhaul/tus.py", break_uploads_on_web2)):
        done = inv(*DEPLOY, f"--release={version}")
    assert done.returncode == 1, done.stdout[-10000:]
    assert "web2 did not work with release" in " ".join(done.stdout.split()), done.stdout[-10000:]
    assert_on(site, before)
    assert newest(site)["result"] == "returned"


def test_a_deployment_whose_process_died_is_resumed(site: Site, current: release.Release, users: Load) -> None:
    version = name_of(current)
    with altered(current, version):
        kill_after("switch worker1", *DEPLOY, f"--release={version}")
        assert sorted(set(site.versions().values())) == sorted({version, current.version, site.versions()["web1"]})
        locked = inv(*DEPLOY, "--resume")
        assert locked.returncode == 75, locked.stdout
        assert "is locked by" in locked.stdout
        freed = inv("lock.break", f"--env={LAB_ENVIRONMENT}", "--yes")
        assert freed.returncode == 0, freed.stdout
        other = inv(*DEPLOY, f"--release={current.version}")
        assert other.returncode == 75, other.stdout
        assert "--resume" in other.stdout
        resumed = inv(*DEPLOY, "--resume")
        assert resumed.returncode == 0, resumed.stdout[-10000:]
    assert_on(site, version)


def test_a_version_that_is_used_for_other_content_is_refused(site: Site, current: release.Release) -> None:
    """Before anything is switched, with the reason and what to do."""
    command = ansible.command_line(site.environment, "release-install")
    values = {
        "release_version": current.version,
        "release_archive": str(current.path),
        "release_sha256": "0" * 64,
    }
    done = run(*command, "--extra-vars", json.dumps(values), seconds=300, env=ansible.settings())
    assert done.returncode != 0
    assert "A version means one content" in " ".join(done.stdout.split()), done.stdout
    (said,) = recaps(done.stdout)
    assert not any(counts["changed"] for counts in said.values()), done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("rollback", "--to=nothing"), 64, "Installed on all hosts"),
        (("rollback", "--limit=lb1"), 64, "runs no release"),
        (("deploy", "--no-provision", "--resume"), 64, "no interrupted deployment"),
        (("deploy", "--no-provision", "--release=nothing"), 64, "There is no release 'nothing'"),
    ],
)
def test_what_cannot_be_done_is_refused(site: Site, arguments: tuple[str, ...], code: int, says: str) -> None:
    done = inv(*arguments, f"--env={LAB_ENVIRONMENT}", "--yes")
    assert done.returncode == code, done.stdout
    assert says in done.stdout
