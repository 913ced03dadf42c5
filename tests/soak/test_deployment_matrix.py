"""Every way in which a deployment can stop, in turn: after each step; and load balancers reloaded meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ops import release
from ops.artefact import manifest
from ops.deployment import releases, steps
from ops.environment import Environment
from ops.inventories import LAB_ENVIRONMENT
from ops.load.run import Load
from ops.paths import APP
from tests.support.deployments import BACK, DEPLOY, PREPARE_AND_DEPLOY, assert_on, failed, kill_after, kill_at, name_of
from tests.support.load import under_load, users_for
from tests.support.releases import altered, in_wheel
from tests.support.site import Poller, Site, inv

STEPS = steps.names(
    steps.DEPLOYMENT, [host.name for host in releases.hosts_of(Environment.of_checkout(LAB_ENVIRONMENT))]
)
FOUR_RUNS_SECONDS = 600
RELOAD_EVERY_SECONDS = 4


def break_web(text: str) -> str:
    """A web service that does not start."""
    return f"{text}\nraise SystemExit('this release is broken')\n"


def failing_page(text: str) -> str:
    """A landing page that answers with an error; the proof of a host does not look at it."""
    return text.replace("guard.page(pages.landing)", "lambda request: 1 / 0")


def broken_migration(_nothing: str) -> str:
    """A revision that fails after it has changed something."""
    return (
        '"""Fails."""\nfrom alembic import op\n'
        f'revision, down_revision, phase = "9999", "{manifest.schema_head(APP / "migrations")}", "expand"\n'
        "def upgrade():\n    op.execute('create table half_made (id int)')\n    op.execute('select 1/0')\n"
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (in_wheel("longhaul/web/server.py", break_web), "web1 did not work with release"),
        (in_wheel("longhaul/migrations/versions/9999_fails.py", broken_migration), "revision 9999 failed and changed"),
    ],
    ids=["the web service does not start", "a migration fails"],
)
def test_a_release_that_does_not_work_goes_back(
    site: Site, current: release.Release, users: Load, change: Callable[[Path], None], says: str
) -> None:
    before, version = site.versions()["web1"], name_of(current)
    with altered(current, version, change):
        said = failed(*DEPLOY, f"--release={version}")
    assert users.running, "the users were through before the hosts had returned"
    assert says in said, said[-10000:]
    assert_on(site, before)


def test_a_release_that_answers_users_with_errors_goes_back(site: Site, current: release.Release) -> None:
    """Its proof is good; what the load balancers count in the seconds after it is not."""
    before, version = site.versions()["web1"], name_of(current)
    with altered(current, version, in_wheel("longhaul/web/routes.py", failing_page)), Poller(site, "/") as poller:
        said = failed(*DEPLOY, f"--release={version}")
    assert "requests ended in errors" in said, said[-10000:]
    assert "switch web2" not in said
    assert all("500" in failure for _, failure in poller.failures), poller.failures
    assert_on(site, before)


@pytest.mark.parametrize("step", STEPS)
def test_a_deployment_that_died_after_a_step_is_resumed(
    site: Site, current: release.Release, users: Load, step: str
) -> None:
    version = name_of(current)
    with altered(current, version):
        kill_after(step, *(PREPARE_AND_DEPLOY if step == steps.PREPARE.name else DEPLOY), f"--release={version}")
        free(site)
        resumed = inv(*DEPLOY, "--resume")
        assert users.running, "the users were through before the deployment was"
        assert resumed.returncode == 0, resumed.stdout[-10000:]
    assert_on(site, version)


def test_a_switch_that_died_in_the_middle_is_done_again(site: Site, current: release.Release) -> None:
    """The first web host is drained and stopped, and its link is the new one: forwards, and then on the way back."""
    before, version, start = site.versions()["web1"], name_of(current), r"TASK \[release : Start\]"
    of_web1 = len(site.group("workers")) + 1
    with altered(current, version), under_load(site, users_for(FOUR_RUNS_SECONDS)) as users:
        kill_at(start, *DEPLOY, "--verbose", f"--release={version}", occurrence=of_web1)
        assert site.run("web1", "cat", "/opt/longhaul/switching").strip() == before
        free(site)
        resumed = inv(*DEPLOY, "--resume")
        assert resumed.returncode == 0, resumed.stdout[-10000:]
        assert_on(site, version)
        assert site.run("web1", "cat", "/opt/longhaul/previous").strip() == before
        kill_at(start, *BACK, "--verbose", occurrence=of_web1)
        assert site.run("web1", "cat", "/opt/longhaul/switching").strip() == version
        free(site)
        back = inv(*BACK)
        assert back.returncode == 0, back.stdout[-10000:]
        assert users.running, "the users were through before the way back was"
    assert_on(site, before)


def free(site: Site) -> None:
    """Take the lock of a process that was killed away, and see that others went on serving."""
    freed = inv("lock.break", f"--env={LAB_ENVIRONMENT}", "--yes")
    assert freed.returncode == 0, freed.stdout
    assert site.backends("lb1")["web2"] == "UP"


def test_reloads_of_the_load_balancers_disturb_no_deployment(site: Site, current: release.Release, users: Load) -> None:
    version, ended = name_of(current), threading.Event()

    def reload() -> None:
        while not ended.wait(RELOAD_EVERY_SECONDS):
            for host in site.group("loadbalancers"):
                site.run(host, "systemctl", "reload", "haproxy.service")

    thread = threading.Thread(target=reload)
    began = time.monotonic()
    with altered(current, version):
        thread.start()
        try:
            done = inv(*DEPLOY, f"--release={version}")
        finally:
            ended.set()
            thread.join()
    assert users.running, "the users were through before the deployment was"
    assert done.returncode == 0, done.stdout[-10000:]
    assert time.monotonic() - began > 2 * RELOAD_EVERY_SECONDS, "too quick to have met a reload"
    # Of an upload that a web host hands over when it stops; a reload ends none.
    handed_over = users.profile.clients * len(site.group("web"))
    assert len(users.measure.interruptions) <= handed_over
    assert_on(site, version)
