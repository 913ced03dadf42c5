"""Releases: one file that holds all that a host needs to run the application, made from a git commit and signed.

`dist/longhaul-<version>.tar.zst` holds the application's wheel, the wheels it needs (hash-locked, for the hosts' Python
and platform), the frontend, the processors, a bill of materials and a manifest. Beside it lie its signature (`.sig`),
and its provenance with a signature of its own. The same commit gives the same archive, byte for byte.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ops.console import console
from ops.environment import Environment
from ops.errors import Exit, Failure
from ops.on_host import install_release as installer
from ops.on_host.install_release import Refused, sha256_of
from ops.paths import CACHE, DIST, ROOT
from ops.release import provenance, signature, source, tools
from ops.release.difference import first_difference
from ops.release.signature import PROVENANCE_NAMESPACE
from ops.release.source import Source

STANDARD_ERROR = 2


@dataclass(frozen=True)
class Release:
    """A built release: its version, its file, and the SHA-256 of that file in hexadecimal."""

    version: str
    path: Path
    sha256: str


def build(*, ref: str = "", dirty_allowed: bool = False, key: str = "") -> Release:
    """Build and sign the release that a branch, tag or commit gives, or return it if it is there already.

    Without `ref`, the release of the work tree's commit; with `dirty_allowed` (for the lab), of the work tree's files.
    `key`: see signature.signing_key. Raises Failure if there is no such commit, if the work tree has changes that are
    not committed, if a step fails, or if there is a file of that version with other content. Leaves nothing half-made.
    """
    if ref and dirty_allowed:
        raise Failure(
            "--ref builds a commit, --allow-dirty the files of the work tree: they exclude each other.",
            "Give one of them.",
            Exit.USAGE,
        )
    chosen = source.of_ref(ref) if ref else source.of_work_tree(dirty_allowed=dirty_allowed)
    target = path_of(chosen.version)
    with _one_at_a_time(), signature.signing_key(key, for_lab=dirty_allowed) as signing:
        if _is_complete(target, signature.fingerprint(signing)):
            return Release(chosen.version, target, sha256_of(target))
        with tempfile.TemporaryDirectory(prefix="longhaul-release-") as name:
            tree, made = Path(name) / "tree", Path(name) / target.name
            chosen.export(tree)
            began = provenance.now()
            used = _make(chosen, tree, made)
            _compare(made, target)
            built = publish(made, chosen, used, signing, began=began, tree=tree)
    console.print(f"built {target.relative_to(ROOT)} ({target.stat().st_size / 1e6:.0f} MB)")
    return built


def find(version: str) -> Release:
    """A release in dist/ whose signature and provenance match its file.

    Raises Failure if they do not match, or if there is no release of that version (then it names those that exist).
    """
    target = path_of(version)
    if not target.is_file():
        archives = DIST.glob("longhaul-*.tar.zst")
        built = sorted(path.name.removeprefix("longhaul-").removesuffix(".tar.zst") for path in archives)
        raise Failure(
            f"There is no release '{version}' in {DIST}.",
            f"Built releases: {', '.join(built) or 'none'}. Build one: ./inv build",
            Exit.USAGE,
        )
    try:
        _verify_signed(target)
    except Refused as refused:
        raise Failure(
            f"The release '{version}' in dist/ was changed after it was built: {refused}.",
            f"Remove {target} and build it again: ./inv build --ref=COMMIT (COMMIT is the end of the version)",
            Exit.BAD_INPUT,
        ) from None
    return Release(version, target, sha256_of(target))


def verify(release: Release, environment: Environment) -> str:
    """Who of the environment's `release_signers` signed a release. Hosts verify the same before they unpack it.

    Raises Failure if the release is not signed by one of them.
    """
    with signature.allowed_signers(environment) as signers:
        try:
            return installer.verify(release.path, _beside(release.path), signers)
        except Refused as refused:
            raise Failure(
                f"'{environment.name}' would not accept the release '{release.version}': {refused}.",
                "Let one of the allowed signers build it: ./inv build --ref=COMMIT --key=THEIR_SSH_KEY. "
                f"{signature.SIGNERS} in inventories/{environment.name}/group_vars/all/release.yml lists them.",
                Exit.BAD_INPUT,
            ) from None


def path_of(version: str) -> Path:
    """Where the release of that version is kept."""
    return DIST / f"longhaul-{version}.tar.zst"


def parts(version: str) -> list[Path]:
    """The files of a release; the archive is written last."""
    archive = path_of(version)
    statement = _statement_of(archive)
    return [statement, _beside(statement), _beside(archive), archive]


def publish(made: Path, made_from: Source, used: Mapping[str, str], key: Path, *, began: str, tree: Path) -> Release:
    """Sign an archive, and move it into `dist` with its signature and its provenance; all of them or none.

    `used`: the tools and their versions; `tree`: the exported source; `began`: when, as provenance.now() writes it.
    """
    target = path_of(made_from.version)
    sha256 = sha256_of(made)
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".publish-") as name:
        drafts = {path: Path(name) / path.name for path in parts(made_from.version)}
        statement = _statement_of(target)
        shutil.copyfile(made, drafts[target])
        said = provenance.statement(target.name, sha256, made_from, used, began=began, tree=tree)
        drafts[statement].write_text(json.dumps(said, indent=2) + "\n")
        signature.sign(drafts[target], key, drafts[_beside(target)])
        signature.sign(drafts[statement], key, drafts[_beside(statement)], PROVENANCE_NAMESPACE)
        for path, draft in drafts.items():
            draft.replace(path)
    return Release(made_from.version, target, sha256)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sig")


def _statement_of(archive: Path) -> Path:
    return archive.with_name(f"{archive.name.removesuffix('.tar.zst')}.provenance.json")


def _verify_signed(archive: Path) -> str:
    """The fingerprint of the key that signed an archive and its provenance. Raises Refused if the two do not match."""
    statement = _statement_of(archive)
    signer = installer.signer_of(archive, _beside(archive))
    if not statement.is_file():
        raise Refused(f"its provenance {statement.name} is missing")
    if installer.signer_of(statement, _beside(statement), PROVENANCE_NAMESPACE) != signer:
        raise Refused("its provenance is signed by somebody else")
    subject = json.loads(statement.read_text())["subject"]
    if subject != [{"name": archive.name, "digest": {"sha256": sha256_of(archive)}}]:
        raise Refused(f"its provenance describes {subject[0]['name']} with other content")
    return signer


def _is_complete(archive: Path, signer: str) -> bool:
    """Whether a release is there, complete, and signed with that key: nobody signs what somebody else has built."""
    if not archive.is_file():
        return False
    try:
        return _verify_signed(archive) == signer
    except Refused as refused:
        console.print(f"building again what is in {archive.parent}: {refused}", markup=False)
        return False


def _compare(made: Path, present: Path) -> None:
    """Raise Failure if the file that is there differs from the one that was made now."""
    if not present.is_file():
        return
    if differs := first_difference(made, present):
        raise Failure(
            f"{present} is not what its commit gives. The first difference: {differs}",
            "Hosts reject a second content under one version. If no host has this release (./inv status), remove the "
            "file and run this again; otherwise find out who built it.",
            Exit.BAD_INPUT,
        )


def _make(chosen: Source, tree: Path, made: Path) -> dict[str, str]:
    """Let an exported source make its archive; returns the tools that it used. Raises Failure as it does."""
    report = made.with_name("report.json")
    command = [tools.python_for(tree / "requirements.txt"), "-m", "ops.artefact", "--version", chosen.version]
    command += ["--commit", chosen.commit, "--time", str(chosen.seconds), "--cache", str(CACHE)]
    command += ["--target", str(made), "--report", str(report)]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    # What it says is for people, so it goes to standard error: standard output is for data.
    code = subprocess.run(command, cwd=tree, env=variables, stdout=STANDARD_ERROR, check=False).returncode
    said = json.loads(report.read_text()) if report.is_file() else {}
    if "failed" in said:
        raise Failure(said["failed"]["message"], said["failed"]["hint"], Exit(said["failed"]["code"]))
    if code != 0:
        raise Failure(
            f"{chosen.version} could not be built; the reason is above.",
            "Correct ops/artefact, which that commit is built with, and commit.",
        )
    used: dict[str, str] = said["tools"]
    return used


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "release.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
