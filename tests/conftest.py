"""Fixtures of the tests that need a whole deployed site: tests/system, tests/browser and tests/soak."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # tests that need no site must not wait for its libraries
    from ops.load.run import Load
    from ops.release import Release
    from tests.support.site import Site

_SITE = pytest.StashKey["Site"]()
USERS_SECONDS = 240
"""Longer than a deployment takes that is stopped and resumed; when the test is through, they hurry."""


@pytest.fixture(scope="session")
def deployed(pytestconfig: pytest.Config) -> Site:
    """The lab, converged and deployed once per session (see tests/support/converged.py)."""
    from tests.support.converged import converged

    site = converged()
    pytestconfig.stash[_SITE] = site
    return site


@pytest.fixture
def site(deployed: Site) -> Iterator[Site]:
    """The deployed site with every host at work, whatever the test before has done to it.

    Upload clients that the test has started end with it.
    """
    deployed.started.clear()
    deployed.make_whole()
    yield deployed
    for client in deployed.started:
        client.stop()


@pytest.fixture
def current(site: Site) -> Release:
    """The release that the site runs, or was given another name from."""
    from ops.release import find
    from tests.support.deployments import AGAIN

    return find(site.versions()["web1"].partition(AGAIN)[0])


@pytest.fixture
def users(site: Site) -> Iterator[Load]:
    """Twenty uploads and busy pages while the test runs: nothing of them may fail, and every file arrives once."""
    from tests.support import load

    with load.under_load(site, load.users_for(USERS_SECONDS)) as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the logs that explain a failure below it, read before anything is mended."""
    report = yield
    if report.failed and _SITE in item.config.stash and "deployed" in item.fixturenames:
        report.sections.append(("what the site says", item.config.stash[_SITE].report()))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say where the site came from and in what time (in a fresh clone: of a deployment), and what was measured."""
    if _SITE in config.stash:
        site = config.stash[_SITE]
        for line in (f"the site was {site.how}", *site.measured):
            terminalreporter.write_line(line)
