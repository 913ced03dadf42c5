"""Builds releases: one file that holds all that a host needs to run the application, made from a git commit.

`dist/longhaul-<version>.tar.zst` holds the application's wheel, the wheels it needs (hash-locked, for the hosts' Python
and platform), the frontend, the processors and a manifest. The version names the newest commit that changed `app/`, so
that commits which touch nothing of the application make no new release.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import zstandard

from ops import frontend
from ops.cli import console
from ops.errors import Exit, Failure
from ops.paths import APP, CACHE, DIST, ROOT

HOST_PYTHON = "3.13"
HOST_GLIBC_MINOR = 41  # Debian 13 has glibc 2.41, which runs what was built for any older one (PEP 600)
HOST_PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(HOST_GLIBC_MINOR, 4, -1)]
COMPRESSION_LEVEL = 10
LOCK = APP / "requirements.txt"


@dataclass(frozen=True)
class Release:
    """A built release: its version, its file, and the SHA-256 of that file in hexadecimal."""

    version: str
    path: Path
    sha256: str


def build(*, dirty_allowed: bool) -> Release:
    """Build the release of the work tree's commit, or return it if it is there already.

    Raises Failure if `app/` differs from the commit and `dirty_allowed` is not set, if this is no git checkout, or if
    a step fails.
    """
    version, built_at = _version(dirty_allowed=dirty_allowed)
    target = path_of(version)
    if not target.is_file():
        _make(version, built_at, target)
        console.print(f"built {target.relative_to(ROOT)} ({target.stat().st_size / 1e6:.0f} MB)")
    return _described(version, target)


def find(version: str) -> Release:
    """An already built release. Raises Failure with those that exist."""
    target = path_of(version)
    if not target.is_file():
        built = sorted(path.name.removeprefix("longhaul-").removesuffix(".tar.zst") for path in DIST.glob("*.tar.zst"))
        raise Failure(
            f"There is no release '{version}' in {DIST}.",
            f"Built releases: {', '.join(built) or 'none'}. Build one: ./inv build",
            Exit.USAGE,
        )
    return _described(version, target)


def path_of(version: str) -> Path:
    """Where the release of that version is kept."""
    return DIST / f"longhaul-{version}.tar.zst"


def _described(version: str, path: Path) -> Release:
    with path.open("rb") as handle:
        return Release(version, path, hashlib.file_digest(handle, "sha256").hexdigest())


def _git(*arguments: str) -> str:
    answer = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise Failure(
            f"git {arguments[0]} failed: {answer.stderr.strip()}",
            "Releases are built from a git checkout with its history: clone the repository.",
            Exit.UNAVAILABLE,
        )
    return answer.stdout


def _version(*, dirty_allowed: bool) -> tuple[str, int]:
    """The version of the work tree, and the time of its commit in seconds since 1970."""
    commit, seconds = _git("log", "-1", "--format=%H %ct", "--", "app").split()
    version = f"{datetime.fromtimestamp(int(seconds), UTC):%Y%m%dT%H%M%S}-{commit[:12]}"
    changed = _git("status", "--porcelain", "--untracked-files=all", "--", "app")
    if changed:
        if not dirty_allowed:
            raise Failure(
                f"app/ differs from the commit:\n{changed.rstrip()}",
                "Commit or remove these changes: a release is what a commit says.",
                Exit.BAD_INPUT,
            )
        # The letters of a version must also be those of a systemd instance name.
        version += f"-dirty-{_tree_hash()[:12]}"
    return version, int(seconds)


def _files() -> Iterator[Path]:
    """The application's files that git knows or would add."""
    names = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "app").split("\0")
    for name in sorted(filter(None, names)):
        if (ROOT / name).is_file():  # not one that was deleted but not yet from the index
            yield ROOT / name


def _tree_hash() -> str:
    digest = hashlib.sha256()
    for path in _files():
        digest.update(f"{path.relative_to(ROOT)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _make(version: str, built_at: int, target: Path) -> None:
    pages = frontend.build()
    with tempfile.TemporaryDirectory(prefix="longhaul-release-") as name:
        content = Path(name) / "content"
        wheels = content / "wheels"
        shutil.copytree(_dependency_wheels(), wheels)
        _application_wheel(Path(name), wheels, built_at)
        shutil.copytree(pages, content / "frontend")
        (content / "processors").mkdir()
        for path in sorted((APP / "processors").glob("*.py")):
            shutil.copyfile(path, content / "processors" / path.name)
        shutil.copyfile(LOCK, content / "requirements.txt")
        (content / "manifest.json").write_text(json.dumps(_manifest(version, content), indent=2) + "\n")
        _pack(content, built_at, target)


def _application_wheel(temporary: Path, wheels: Path, built_at: int) -> None:
    source = temporary / "app"
    for path in _files():
        copy = source / path.relative_to(APP)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    _run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels), str(source)],
        "The application's wheel could not be built; the reason is above.",
        SOURCE_DATE_EPOCH=str(built_at),
    )


def _dependency_wheels() -> Path:
    """The folder with the wheels of app/requirements.txt for the hosts, downloaded once for each lock."""
    kept = CACHE / "wheels" / hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if kept.is_dir():
        return kept
    console.print("downloading the application's wheels")
    kept.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=kept.parent, prefix=".wheels-"))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    command += ["--no-deps", "--only-binary=:all:", "--python-version", HOST_PYTHON, "--implementation", "cp"]
    for abi in ("cp313", "abi3", "none"):
        command += ["--abi", abi]
    for platform in HOST_PLATFORMS:
        command += ["--platform", platform]
    _run(
        [*command, "--requirement", str(LOCK), "--dest", str(temporary)],
        "The application's wheels could not be downloaded; pip's reason is above (is the registry reachable?).",
    )
    temporary.chmod(0o755)
    temporary.rename(kept)
    return kept


def _run(command: list[str], failure: str, **environment: str) -> None:
    answer = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        console.print(answer.stdout + answer.stderr, markup=False)
        raise Failure(failure, code=Exit.UNAVAILABLE)


def _content(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _manifest(version: str, content: Path) -> dict[str, object]:
    files = {
        path.relative_to(content).as_posix(): {
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in _content(content)
    }
    return {"version": version, "python": HOST_PYTHON, "schema_head": _schema_head(), "files": files}


def _schema_head() -> str:
    """The newest revision of the database, by the number that its file's name begins with."""
    return max(path.name.partition("_")[0] for path in (APP / "migrations" / "versions").glob("[0-9]*_*.py"))


def _pack(content: Path, built_at: int, target: Path) -> None:
    """Write the archive: sorted names, one time, no owners, so that equal content gives equal bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL)
    with (
        temporary.open("wb") as raw,
        compressor.stream_writer(raw) as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in _content(content):
            entry = tarfile.TarInfo(path.relative_to(content).as_posix())
            data = path.read_bytes()
            entry.size, entry.mtime, entry.mode = len(data), built_at, 0o644
            archive.addfile(entry, io.BytesIO(data))
    temporary.replace(target)
