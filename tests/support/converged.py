"""One deployed lab for all tests of a session: from a snapshot if this content was deployed before, else by deploying.

The snapshot's name is a checksum of all that a deployment reads, so a snapshot of other content is never used.

`python -m tests.support.converged` makes the snapshot ahead of the tests and leaves the hosts off.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from functools import cache

from ops import where
from ops.inventories import LAB_ENVIRONMENT, VAULT_FILE
from ops.lab.lab import Lab
from ops.paths import INVENTORIES, ROOT
from tests.support.site import Site, inv

# What a deployment reads. The tests are not among it: a changed test runs on the snapshot.
CONTENT = ("app", "inventories", "ops", "playbooks", "plugins", "roles", "ansible.cfg", "requirements.txt")
PREFIX = "site-"
DEPLOY_SECONDS = 1500


def content_name() -> str:
    """Name of the snapshot for the present content."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *CONTENT],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout.split(b"\0")
    # The secrets are not in git, but the hosts of a snapshot have them.
    vault = str((INVENTORIES / LAB_ENVIRONMENT / VAULT_FILE).relative_to(ROOT)).encode()
    digest = hashlib.sha256()
    for name in sorted({*filter(None, listed), vault}):
        path = ROOT / name.decode()
        if path.is_file():
            digest.update(name + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return f"{PREFIX}{digest.hexdigest()[:12]}"


def deploy(lab: Lab) -> None:
    """Deploys to new hosts."""
    # Hosts of another content may have secrets that this checkout never had.
    lab.destroy()
    done = inv("deploy", f"--env={LAB_ENVIRONMENT}", "--yes", "--verbose", seconds=DEPLOY_SECONDS)
    assert done.returncode == 0, f"./inv deploy ended with {done.returncode}:\n{done.stdout[-20000:]}"


def prepare() -> None:
    """Makes the snapshot if there is none of the present content. The hosts are off then: `converged` restores them."""
    lab = Lab.named()
    if content_name() not in lab.snapshots():
        deploy(lab)
        lab.down()
        lab.snapshot(content_name())


@cache
def converged() -> Site:
    """The site, deployed and up. Made once per session."""
    began = time.monotonic()
    lab = Lab.named()
    name = content_name()
    if name in lab.snapshots():
        lab.restore(name)
        how = "restored from its snapshot"
    else:
        deploy(lab)
        lab.snapshot(content_name())  # asked again: a first deployment makes the secrets
        how = "deployed and kept as a snapshot"
    answer = inv("access", f"--env={LAB_ENVIRONMENT}", "--json", seconds=60)
    assert answer.returncode == 0, f"./inv access ended with {answer.returncode}:\n{answer.stdout}"
    environment = where.environment(LAB_ENVIRONMENT)
    site = Site(lab, environment, json.loads(answer.stdout), f"{how} in {time.monotonic() - began:.0f} s")
    site.make_whole()
    return site


if __name__ == "__main__":
    prepare()
