"""What must not be noticed, under the whole load of the profile `deploy`: files of 1 GB, slow lines, 50 pages/s."""

from __future__ import annotations

from ops import release
from ops.inventories import LAB_ENVIRONMENT
from ops.load.profile import PROFILES
from tests.support.deployments import BACK, PREPARE_AND_DEPLOY, assert_on, name_of
from tests.support.load import under_load
from tests.support.releases import altered
from tests.support.site import Site, inv

WHOLE = PROFILES["deploy"]


def test_a_deployment_and_the_way_back(site: Site, current: release.Release) -> None:
    version, before = name_of(current), site.versions()["web1"]
    with altered(current, version), under_load(site, WHOLE) as users:
        # All of it: hosts are looked at too, and left as they are.
        done = inv(*PREPARE_AND_DEPLOY, f"--release={version}", seconds=1200)
        assert done.returncode == 0, done.stdout[-10000:]
        assert_on(site, version)
        back = inv(*BACK, f"--to={before}")
        assert back.returncode == 0, back.stdout[-10000:]
        assert users.running, "the users had left before the end"
    assert_on(site, before)


def test_all_hosts_are_rebooted(site: Site) -> None:
    with under_load(site, WHOLE) as users:
        done = inv("host.reboot", f"--env={LAB_ENVIRONMENT}", "--rolling", "--all", seconds=1200)
        assert done.returncode == 0, done.stdout[-10000:]
        assert users.running, "the users had left before the end"
