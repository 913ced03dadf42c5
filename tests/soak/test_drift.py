"""The drift detector: what `./inv drift` says of hosts that are as described here, and of one that is not."""

from __future__ import annotations

from ops.errors import Exit
from ops.inventories import LAB_ENVIRONMENT
from tests.support.recap import recaps
from tests.support.site import Site, inv


def test_check_mode_finds_drift_and_nothing_else(site: Site) -> None:
    """changed=0 on all hosts of a converged site; a file that somebody has edited by hand is found on its host only."""
    clean = inv("drift", f"--env={LAB_ENVIRONMENT}", "--verbose")
    assert clean.returncode == 0, clean.stdout[-10000:]
    (said,) = recaps(clean.stdout)
    assert set(said) >= set(site.environment.hosts), "not every host was looked at"
    site.run("web2", "sh", "-c", "echo '# by hand' >>/etc/hosts")
    try:
        drifted = inv("drift", f"--env={LAB_ENVIRONMENT}")
    finally:
        site.run("web2", "sed", "-i", "/# by hand/d", "/etc/hosts")
    assert drifted.returncode == Exit.DIFFERENT, drifted.stdout[-10000:]
    assert "1 difference on web2." in drifted.stdout
    assert "/etc/hosts" in drifted.stdout
