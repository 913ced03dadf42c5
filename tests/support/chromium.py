"""Debian's Chromium as a user of the lab has it: with the lab's CA installed, at the end of a line of the lab.

The CA is given by the policy CACertificates (https://chromeenterprise.google/policies/#CACertificates), which Chromium
reads from /etc/chromium/policies. That directory is laid over in a mount namespace that ends with the browser, so the
machine's own settings stay as they are, and certificates are checked as on any desktop: none is ignored.
"""

from __future__ import annotations

import base64
import json
import shlex
import shutil
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

POLICIES = Path("/etc/chromium")
FLAGS = (
    "--no-sandbox",  # it runs as root here
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    # It would look for hosts that the lab does not have.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium_program() -> str:
    """Path of Chromium; the test fails with what to install if there is none."""
    program = shutil.which("chromium")
    if program is None or not POLICIES.is_dir():
        pytest.fail(
            "This test needs Debian's Chromium: apt-get install --no-install-recommends chromium", pytrace=False
        )
    return program


@contextmanager
def chromium(directory: Path, ca_file: str, inside: Sequence[str] = ()) -> Iterator[Browser]:
    """A running Chromium that trusts `ca_file`; `inside` is a command that runs another one on another line."""
    program = chromium_program()
    certificate = ssl.PEM_cert_to_DER_cert(Path(ca_file).read_text())
    policy = directory / "policy.json"
    policy.write_text(json.dumps({"CACertificates": [base64.b64encode(certificate).decode()]}))
    over = (
        f"mount -t tmpfs none {POLICIES} && mkdir -p {POLICIES}/policies/managed &&"
        f' cp {shlex.quote(str(policy))} {POLICIES}/policies/managed/ && exec "$0" "$@"'
    )
    command = [*inside, "unshare", "--mount", "sh", "-c", over, program]
    start = directory / "chromium"
    start.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    start.chmod(0o755)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=start, args=FLAGS)
        yield browser
        browser.close()
