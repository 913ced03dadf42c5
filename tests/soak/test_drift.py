"""The drift detector: what `--check` says of hosts that are as described here, and of one that is not."""

from __future__ import annotations

import os
import subprocess

from ops import ansible
from ops.paths import ROOT
from tests.support.recap import recaps
from tests.support.site import Site


def check(site: Site) -> tuple[dict[str, int], str]:
    """Host -> number of changes that site.yml would make, and the whole output."""
    done = subprocess.run(
        ansible.command_line(site.environment, "site", check=True),
        cwd=ROOT,
        env={**os.environ, **ansible.settings()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-10000:]
    (said,) = recaps(done.stdout)
    changes = {host: counts["changed"] for host, counts in said.items()}
    assert set(changes) >= set(site.environment.hosts)
    return changes, done.stdout


def test_check_mode_finds_drift_and_nothing_else(site: Site) -> None:
    """changed=0 on all hosts of a converged site; a file that somebody has edited by hand is found on its host only."""
    changes, output = check(site)
    assert not any(changes.values()), f"{changes}\n{output[-10000:]}"
    site.run("web2", "sh", "-c", "echo '# by hand' >>/etc/hosts")
    changes, output = check(site)
    assert {host for host, count in changes.items() if count} == {"web2"}, output[-10000:]
    site.run("web2", "sed", "-i", "/# by hand/d", "/etc/hosts")
