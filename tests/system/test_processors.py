"""Processors come to the workers without a release, prove themselves there, and go back if they cannot."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ops.artefact import archive, manifest
from ops.deployment import processors
from ops.errors import Failure
from ops.inventories import LAB_ENVIRONMENT
from ops.on_host.install_release import PROCESSORS, sha256_of
from ops.on_host.smoke_test import Target, smoke_test
from ops.paths import APP
from ops.release import Release, signature
from tests.support.site import Site, inv

REPORT = '        (output / "report.txt").write_text('


@contextmanager
def shipment(change: Callable[[str], str]) -> Iterator[Release]:
    """A signed shipment of the processors with one script changed, under a version that nobody has used."""
    version = f"test-{time.time_ns() // 1_000_000}"
    with tempfile.TemporaryDirectory(prefix="longhaul-shipment-") as name, signature.signing_key(for_lab=True) as key:
        content, made = Path(name) / "content", Path(name) / f"{PROCESSORS}{version}.tar.zst"
        shutil.copytree(
            APP / "processors", content / "processors", ignore=shutil.ignore_patterns("*.md", "__pycache__")
        )
        script = content / "processors" / "inspect_file.py"
        script.write_text(change(script.read_text()))
        manifest.write(content, version=f"{PROCESSORS}{version}")
        archive.pack(content, 0, made)
        signature.sign(made, key, made.with_name(f"{made.name}.sig"))
        yield Release(version, made, sha256_of(made))


def one_result_more(text: str) -> str:
    """A script that leaves one result more than the release's."""
    assert REPORT in text
    return text.replace(REPORT, f'        (output / "shipped.txt").write_text("shipped")\n{REPORT}')


def a_mistake(text: str) -> str:
    """A script that is Python, and breaks."""
    assert REPORT in text
    return text.replace(REPORT, f"        raise RuntimeError\n{REPORT}")


def processed(site: Site, worker: str) -> dict[str, Any]:
    """What the site says about a file that this worker has processed."""
    return smoke_test(Target(site.url, site.ca_file, site.token), worker=worker)


def services(site: Site) -> dict[str, str]:
    """Worker -> when its service was started."""
    command = ("systemctl", "show", "--value", "--property=ExecMainStartTimestampMonotonic", "longhaul-worker.service")
    return {worker: site.run(worker, *command).strip() for worker in site.group("workers")}


def test_processors_are_shipped_alone_and_return_when_they_break(site: Site) -> None:
    releases, started = site.versions(), services(site)
    own = releases["worker1"]
    with shipment(one_result_more) as made:
        processors.change(site.environment, made.version, made)
    for worker in site.group("workers"):
        said = processed(site, worker)
        assert said["processed_by"] == {"worker": worker, "release": own, "processors": made.version}
        assert "shipped.txt" in {result["name"] for result in said["results"]}
    with shipment(a_mistake) as broken, pytest.raises(Failure, match="did not work with the processors") as caught:
        processors.change(site.environment, broken.version, broken)
    assert "ended as 'failed'" in caught.value.message
    for worker in site.group("workers"):
        assert processed(site, worker)["processed_by"]["processors"] == made.version
    status = inv("status", f"--env={LAB_ENVIRONMENT}", "--json")
    shown = {host["name"]: host["said"]["processors"] for host in json.loads(status.stdout)}
    assert {name for name, version in shown.items() if version == made.version} == set(site.group("workers"))
    done = inv("processors.revert", f"--env={LAB_ENVIRONMENT}")
    assert done.returncode == 0, done.stdout[-5000:]
    for worker in site.group("workers"):
        said = processed(site, worker)
        assert said["processed_by"]["processors"] == own
        assert "shipped.txt" not in {result["name"] for result in said["results"]}
    assert site.versions() == releases
    assert services(site) == started, "a worker was restarted"
    again = inv("processors.revert", f"--env={LAB_ENVIRONMENT}")
    assert (again.returncode, "Nothing to change" in again.stdout) == (0, True), again.stdout
