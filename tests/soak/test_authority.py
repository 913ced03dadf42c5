"""The certificate authority of a whole site is replaced while users upload."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ops.environment import Environment
from ops.inventories import LAB_ENVIRONMENT
from tests.support import load
from tests.support.converged import content_name
from tests.support.site import Site, inv

SECONDS = 300
"""For about two runs of site.yml that restart services on every host."""


@pytest.fixture
def authority(site: Site) -> Iterator[None]:
    """The site's authority, which comes back with the lab's snapshot."""
    vault = Environment.of_checkout(LAB_ENVIRONMENT).vault
    before = vault.read_bytes()
    yield
    vault.write_bytes(before)
    site.lab.restore(content_name())
    learn_whom_to_trust()
    site.make_whole()


@pytest.mark.usefixtures("authority")
def test_the_authority_is_replaced_under_load(site: Site) -> None:
    before = authorities(site)
    step()
    learn_whom_to_trust()
    # Users trust the next authority now, as the hosts do.
    with load.under_load(site, load.users_for(SECONDS)):
        step()
        step()
    after = authorities(site)
    assert len(before) == len(after) == 1
    assert before != after
    drift = inv("drift", f"--env={LAB_ENVIRONMENT}")
    assert drift.returncode == 0, drift.stdout[-10000:]


def step() -> None:
    """Take the next step, and carry it to the hosts."""
    for words in (("secrets.rotate-ca", "--yes"), ("provision", "--yes")):
        done = inv(*words, f"--env={LAB_ENVIRONMENT}", seconds=1200)
        assert done.returncode == 0, done.stdout[-10000:]


def learn_whom_to_trust() -> None:
    """Write the file of authorities that the tests' clients trust."""
    done = inv("access", f"--env={LAB_ENVIRONMENT}", "--json")
    assert done.returncode == 0, done.stdout


def authorities(site: Site) -> set[str]:
    """What the hosts trust, each of them the same."""
    return {site.run(host, "cat", "/etc/longhaul/pki/ca.crt") for host in site.hosts}
