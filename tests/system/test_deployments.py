"""Deploying onto a site that serves users: nobody notices, nothing changes that need not, and what fails goes back."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import pytest

from ops import ansible, release
from ops.inventories import LAB_ENVIRONMENT
from ops.load.run import Load
from tests.conftest import USERS_SECONDS
from tests.support.clients import random_file
from tests.support.commands import run
from tests.support.deployments import BACK, DEPLOY, assert_on, failed, kill_after, name_of
from tests.support.load import under_load, users_for
from tests.support.recap import recaps
from tests.support.releases import altered, in_wheel
from tests.support.site import Poller, Site, inv
from tests.support.waiting import until

MB = 1_000_000
TASKS_PER_HOST = 100
SENT_AGAIN_SECONDS = 4
"""What is on its way when an upload is handed over, on average. What does not count yet before it is that of half of
`policy_piece_seconds`.
"""


def newest(site: Site) -> dict[str, object]:
    """The record of the last deployment."""
    done = inv("deploys", f"--env={LAB_ENVIRONMENT}", "--json")
    assert done.returncode == 0, done.stdout
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found[0]


def test_hosts_that_are_as_they_should_be_are_left_alone(site: Site) -> None:
    """The playbook of every deployment changes nothing on a converged site, and costs each host few tasks."""
    began = time.monotonic()
    done = inv("provision", f"--env={LAB_ENVIRONMENT}", "--yes", "--verbose")
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
        with under_load(site, users_for(USERS_SECONDS)) as users:
            done = inv(*DEPLOY, f"--release={version}")
            elapsed = time.monotonic() - began
            assert done.returncode == 0, done.stdout[-10000:]
            assert_on(site, version)
            assert site.run("web1", "cat", "/opt/longhaul/previous").strip() == before
            back = inv(*BACK)
            assert users.running, "the users were through before the way back was"
            # A web host hands an upload over once when it is switched, and nothing else interrupts any.
            assert len(users.measure.interruptions) <= 2 * len(site.group("web")) * users.profile.clients
            assert users.measure.interruptions, "no upload was handed over"
            mean_rate = sum(group.clients * group.rate for group in users.profile.groups) / users.profile.clients
            on_its_way = SENT_AGAIN_SECONDS * mean_rate * len(users.measure.interruptions)
            assert users.measure.sent_again <= on_its_way, "what was received before a hand-over did not count"
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
        "    async def _receive(self, exchange: Exchange, upload_id: str, key: str) -> None:\n",
        "    async def _receive(self, exchange: Exchange, upload_id: str, key: str) -> None:\n"
        '        if self._settings.server == "web2":\n'
        '            raise Refusal(423, "this release is broken")\n',
    )


def test_a_release_that_does_not_work_goes_back_everywhere(site: Site, current: release.Release, users: Load) -> None:
    before, version = site.versions()["web1"], name_of(current)
    with altered(current, version, in_wheel("longhaul/web/tus.py", break_uploads_on_web2)):
        said = failed(*DEPLOY, f"--release={version}")
    assert users.running, "the users were through before the hosts had returned"
    assert "web2 did not work with release" in said, said[-10000:]
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
        assert users.running, "the users were through before the deployment was"
        assert resumed.returncode == 0, resumed.stdout[-10000:]
    assert_on(site, version)


def play(site: Site, name: str, host: str, **variables: object) -> subprocess.CompletedProcess[str]:
    """Run one of a deployment's playbooks on one host."""
    command = ansible.command_line(site.environment, name, limit=host)
    return run(*command, "--extra-vars", json.dumps(variables), seconds=300, env=ansible.settings())


def test_the_last_web_host_that_serves_is_not_switched(site: Site) -> None:
    """Not forwards and not back: a deployment that fails on the other one leaves it as it is."""
    site.run("web2", "systemctl", "stop", "longhaul-web.service")
    for balancer in site.group("loadbalancers"):
        until(lambda balancer=balancer: site.backends(balancer)["web2"] != "UP", f"{balancer} to miss web2", 20)
    with Poller(site) as poller:
        done = play(site, "release-switch", "web1", release_version="another")
    assert done.returncode != 0
    assert "lb1, lb2 can send traffic to no other web host" in " ".join(done.stdout.split()), done.stdout
    (said,) = recaps(done.stdout)
    assert not said["web1"]["changed"], done.stdout
    assert poller.asked
    assert not poller.failures


def test_what_somebody_has_drained_stays_drained(site: Site, current: release.Release) -> None:
    before, mark, version = site.versions()["web2"], "/var/lib/longhaul/drain", name_of(current)
    site.run("web2", "sh", "-c", f"echo 'a disk is replaced' >{mark}")
    with altered(current, version):
        switched = inv(*DEPLOY, f"--release={version}", "--limit=web2")
    assert switched.returncode == 0, switched.stdout[-10000:]
    assert site.versions()["web2"] == version
    assert site.run("web2", "cat", mark) == "a disk is replaced\n"
    assert site.backends("lb1")["web2"] != "UP"
    site.run("web2", "rm", mark)
    back = play(site, "release-switch", "web2", release_version=before, release_smoke_test_release="")
    assert back.returncode == 0, back.stdout[-10000:]
    assert set(site.backends("lb1").values()) == {"UP"}


def test_a_migration_that_a_dead_deployment_began_is_waited_for(site: Site) -> None:
    """And then done again: how it ended, nobody has heard."""
    version, folder = site.versions()["web1"], "/run/systemd/system/longhaul-migrate@.service.d"
    slow = f"mkdir -p {folder} && printf '[Service]\\nExecStartPre=/bin/sleep 4\\n' >{folder}/slow.conf"
    begin = "echo MIGRATE_ARGUMENTS=--phase expand >/run/longhaul-migrate.env && systemctl start --no-block"
    began = float(site.run("web1", "date", "+%s.%N"))
    site.run("web1", "sh", "-c", f"{slow} && systemctl daemon-reload && {begin} longhaul-migrate@{version}")
    try:
        done = play(site, "release-migrate", "web1", release_version=version)
    finally:
        site.run("web1", "sh", "-c", f"rm -r {folder} && systemctl daemon-reload")
    assert done.returncode == 0, done.stdout[-10000:]
    said = site.run("web1", "journalctl", f"--unit=longhaul-migrate@{version}", f"--since=@{began:.0f}", "--output=cat")
    assert len(re.findall(r"^Finished ", said, re.MULTILINE)) == 2, said


def test_a_version_that_is_used_for_other_content_is_refused(site: Site, current: release.Release) -> None:
    """Before anything is switched, with the reason and what to do."""
    done = play(
        site,
        "release-install",
        "all",
        release_version=current.version,
        release_archive=str(current.path),
        release_sha256="0" * 64,
    )
    assert done.returncode != 0
    assert "A version has one content only" in " ".join(done.stdout.split()), done.stdout
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
