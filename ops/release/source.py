"""What a release is made from: a commit, the version that it gives, and its files in a folder of their own.

The version names the newest commit that changed the application or the code that builds it (`INPUTS`), and that
commit's tree is built. So other commits make no new release, and a version never has two contents.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from ops.errors import Exit, Failure
from ops.paths import ROOT

MAKER = "ops/artefact"
INPUTS = ("app", MAKER, "ops/frontend.py", "requirements.txt")
"""The application, and what makes an archive of it: requirements.txt locks the compressor, the bundler and so on."""


@dataclass(frozen=True)
class Source:
    """What to build.

    `commit` is the commit that the version names, `seconds` its time since 1970; `asked` is the ref that the operator
    named, and `asked_commit` its commit. With `dirty`, the files of the work tree are built instead of the commit's.
    """

    version: str
    commit: str
    seconds: int
    asked: str
    asked_commit: str
    dirty: bool = False

    def export(self, target: Path) -> None:
        """Write all files of the source into a new folder."""
        target.mkdir()
        if self.dirty:
            for path in _work_tree("."):
                copy = target / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy, follow_symlinks=False)
            return
        # Exactly as committed, whatever this person's git settings do with the ends of lines.
        plain = ("-c", "core.autocrlf=false", "-c", "core.eol=lf")
        with tarfile.open(fileobj=io.BytesIO(_git(*plain, "archive", "--format=tar", self.commit))) as files:
            files.extractall(target, filter="data")


def of_ref(ref: str, *, inputs: tuple[str, ...] = INPUTS) -> Source:
    """The source that a branch, tag or commit gives. Raises Failure if there is none of that name."""
    return _of_commit(_resolved(ref), inputs, asked=ref)


def of_work_tree(*, dirty_allowed: bool, inputs: tuple[str, ...] = INPUTS) -> Source:
    """The source of the work tree's commit; if the work tree has changes and `dirty_allowed`, of its files.

    Raises Failure if the work tree has changes and that is not allowed.
    """
    source = _of_commit(_resolved("HEAD"), inputs, asked="HEAD", boundary_allowed=dirty_allowed)
    if dirty_allowed:
        if not _changes(*inputs):
            return source
        # Only characters that a systemd instance name may have.
        return replace(source, version=f"{source.version}-dirty-{_tree_hash(inputs)[:12]}", dirty=True)
    if changes := _changes("."):
        raise Failure(
            f"The work tree differs from its commit:\n{changes}",
            "Commit or remove these changes: a release is built from a commit. To build the commit without them: "
            "./inv build --ref=HEAD",
            Exit.BAD_INPUT,
        )
    return source


def origin() -> str:
    """The URL that this repository was cloned from, without a password; empty if git does not know."""
    answer = subprocess.run(
        ["git", "config", "--get", "remote.origin.url"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    scheme, separator, rest = answer.stdout.strip().rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2] if separator else rest}"


def _of_commit(commit: str, inputs: tuple[str, ...], *, asked: str, boundary_allowed: bool = False) -> Source:
    if not _text("ls-tree", commit, "--", MAKER):
        raise Failure(
            f"The commit {commit[:12]} is older than {MAKER}, which makes releases.",
            "Check it out and build it there, with its own ./inv build.",
            Exit.USAGE,
        )
    named, seconds = _text("log", "-1", "--format=%H %ct", commit, "--", *inputs).split()
    if not boundary_allowed and named in _boundary():
        raise Failure(
            "This clone is shallow: git cannot tell which commit last changed the application.",
            "Fetch the history: git fetch --unshallow",
            Exit.UNAVAILABLE,
        )
    version = f"{datetime.fromtimestamp(int(seconds), UTC):%Y%m%dT%H%M%S}-{named[:12]}"
    return Source(version, named, int(seconds), asked, commit)


def _resolved(ref: str) -> str:
    """The commit that a name means."""
    try:
        return _text("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}").strip()
    except Failure:
        _text("rev-parse", "--git-dir")  # raises with another reason if this is not a checkout at all
        raise Failure(
            f"There is no commit '{ref}' in this repository.",
            "Name a branch, a tag or a commit; if it is new elsewhere: git fetch --tags",
            Exit.USAGE,
        ) from None


def _boundary() -> set[str]:
    """The commits whose parents a shallow clone does not have."""
    path = ROOT / _text("rev-parse", "--git-path", "shallow").strip()
    return set(path.read_text().split()) if path.is_file() else set()


def _changes(*paths: str) -> str:
    return _text("status", "--porcelain", "--untracked-files=all", "--", *paths).rstrip()


def _work_tree(*paths: str) -> Iterator[Path]:
    """The files of the work tree that git knows or would add."""
    names = _text("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *paths).split("\0")
    for name in sorted(set(filter(None, names))):
        if (ROOT / name).is_file() or (ROOT / name).is_symlink():  # not one that was deleted but is still in the index
            yield ROOT / name


def _tree_hash(inputs: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for path in _work_tree(*inputs):
        digest.update(f"{path.relative_to(ROOT)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _text(*arguments: str) -> str:
    return _git(*arguments).decode()


def _git(*arguments: str) -> bytes:
    answer = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    if answer.returncode != 0:
        raise Failure(
            f"git {arguments[0]} failed: {answer.stderr.decode().strip()}",
            "Releases are built from a git checkout with its history: clone the repository.",
            Exit.UNAVAILABLE,
        )
    return answer.stdout
