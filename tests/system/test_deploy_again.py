"""Deploying onto a site that serves users: nobody notices, nothing changes that need not, and it is quick."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from ops import ansible, release
from ops.environment import LAB_ENVIRONMENT
from ops.paths import ROOT
from tests.support.clients import random_file
from tests.support.recap import recaps
from tests.support.releases import renamed
from tests.support.site import Poller, Site, inv

MB = 1_000_000
TASKS_PER_HOST = 100
AGAIN = "-again-"


@pytest.fixture
def current(site: Site) -> release.Release:
    """The release that the site runs, or was given another name from."""
    link = site.run("web1", "readlink", "/opt/longhaul/current").strip()
    return release.find(link.rpartition("/")[2].partition(AGAIN)[0])


def test_a_new_release_on_a_converged_site(site: Site, current: release.Release, tmp_path: Path) -> None:
    """Under requests 20 times a second and an upload: no request fails, and on the hosts only the release changes."""
    file = tmp_path / f"deploy-{time.time_ns()}.bin"
    sha256 = random_file(file, 150 * MB, seed=9)
    version = f"{current.version}{AGAIN}{int(time.time())}"
    began = time.monotonic()
    # So slow that both web hosts are switched while it runs.
    with renamed(current, version), site.line("steady", "8mbit") as line:
        upload = line.start("tus-js-client", file)
        # Not the health page: a host that is about to be drained says so there, to the balancers.
        with Poller(site, "/") as pages:
            done = inv("deploy", f"--env={LAB_ENVIRONMENT}", f"--release={version}", "--yes")
        elapsed = time.monotonic() - began
        assert done.returncode == 0, done.stdout[-10000:]
        assert not pages.failures, f"{len(pages.failures)} of {pages.asked} requests failed: {pages.failures[:5]}"
        assert pages.asked > elapsed * 10, f"only {pages.asked} requests in {elapsed:.0f} s say nothing"
        upload.wait_success(150)
    said = site.wait_done(upload.upload_id)
    assert said["sha256"] == sha256
    assert len(upload.of("request", method="POST")) == 1
    for host in (*site.group("web"), *site.group("workers")):
        assert site.run(host, "readlink", "/opt/longhaul/current").strip().endswith(f"/{version}")

    steps = {name: int(seconds) for name, seconds in re.findall(r"^([a-z ]+): (\d+) s$", done.stdout, re.MULTILINE)}
    hosts, switch = recaps(done.stdout)
    assert set(hosts) >= set(site.environment.hosts), "not every host was looked at"
    changed = {host: counts["changed"] for host, counts in hosts.items() if counts["changed"]}
    assert not changed, f"tasks that changed something on a converged host: {changed}\n{done.stdout[-10000:]}"
    most = max(hosts, key=lambda host: hosts[host]["ok"])
    site.measured += [
        f"a new release on a converged site: {elapsed:.0f} s ({steps}), none of {pages.asked} requests failed",
        f"site.yml: at most {hosts[most]['ok']} tasks on a host ({most})",
    ]
    assert hosts[most]["ok"] <= TASKS_PER_HOST
    assert set(switch) - {"localhost"} == {*site.group("web"), *site.group("workers")}


def test_a_version_that_is_used_for_other_content_is_refused(site: Site, current: release.Release) -> None:
    """Before anything is switched, with the reason and what to do."""
    command = ansible.command_line(site.environment, "deploy")
    values = {
        "release_version": current.version,
        "release_archive": str(current.path),
        "release_sha256": "0" * 64,
    }
    done = subprocess.run(
        [*command, "--extra-vars", json.dumps(values)],
        cwd=ROOT,
        env={**os.environ, **ansible.settings()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode != 0
    assert "A version means one content" in " ".join(done.stdout.split()), done.stdout
    (said,) = recaps(done.stdout)
    assert not any(counts["changed"] for counts in said.values()), done.stdout
