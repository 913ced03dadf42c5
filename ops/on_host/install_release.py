#!/usr/bin/env python3
"""Installs a release, or shipped processors, from an archive in /opt/longhaul/archives, without a network.

archives/VERSION.tar.zst becomes releases/VERSION; archives/processors-VERSION.tar.zst becomes shipments/VERSION. Runs
as root, called by the role `release`; the control side uses its verification.

Takes the version, the SHA-256 of the archive and how many releases to keep; with --processors, the same for shipped
processors. Prints nothing. Exit code 1 with the reason on standard error if something is rejected or fails.

The archive is unpacked only if the signature beside it (VERSION.tar.zst.sig) was made by an allowed signer. No unpacked
file runs before all files match the manifest. A release is complete when its `archive.sha256` is there; a rejected or
failed one leaves nothing behind. At the end, all but the newest KEPT releases and shipments are removed; the current
and the previous release stay, and so do shipments that are in use.

usage: install-release VERSION SHA256 KEPT
       install-release --processors VERSION SHA256 KEPT
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

HOME = Path("/opt/longhaul")
SIGNERS = Path("/etc/longhaul/release-signers")
PROCESSORS = "processors-"
"""The names of shipments begin with this, in the manifest too: so a shipment cannot be installed as a release, nor a
release as a shipment."""
NAMESPACE = "longhaul-release"
"""The purpose of the signature (`ssh-keygen -Y sign -n`): a signature that was made for another purpose is rejected."""


class Refused(Exception):
    """A release that is not installed; the message says why."""


# --- Verification, here and on the control side -----------------------------------------------------------------------


def signer_of(file: Path, signature: Path, namespace: str = NAMESPACE) -> str:
    """The fingerprint (SHA256:...) of the key that signed a file, whether or not the key is allowed.

    Raises Refused if the file is not signed, or the signature is of something else.
    """
    if not signature.is_file():
        raise Refused(f"{file.name} is not signed: there is no {signature.name}")
    answer = _ssh_keygen(["check-novalidate", "-n", namespace, "-s", str(signature)], file)
    found = re.search(r"SHA256:\S+", answer.stdout)
    if answer.returncode != 0 or found is None:
        raise Refused(
            f"{signature.name} is not a signature of {file.name} as it is: one of them was altered, or they belong to "
            f"different versions ({' '.join(answer.stderr.split())})"
        )
    return found[0]


def verify(file: Path, signature: Path, signers: Path, namespace: str = NAMESPACE) -> str:
    """Who of the allowed signers (ssh-keygen(1), ALLOWED SIGNERS) signed a file. Raises Refused if nobody did."""
    fingerprint = signer_of(file, signature, namespace)
    found = _ssh_keygen(["find-principals", "-s", str(signature), "-f", str(signers)], file)
    for principal in found.stdout.split():
        command = ["verify", "-I", principal, "-f", str(signers), "-n", namespace, "-s", str(signature)]
        if _ssh_keygen(command, file).returncode == 0:
            return principal
    raise Refused(f"{file.name} is signed with the key {fingerprint}, which is not an allowed signer's ({signers})")


def _ssh_keygen(arguments: list[str], file: Path) -> subprocess.CompletedProcess[str]:
    with file.open("rb") as message:
        return subprocess.run(
            ["ssh-keygen", "-Y", *arguments], stdin=message, capture_output=True, text=True, check=False
        )


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def verify_files(folder: Path, version: str) -> None:
    """Compare an unpacked release with its manifest. Raises Refused at the first difference."""
    manifest = folder / "manifest.json"
    try:
        described = json.loads(manifest.read_text())
        named, files = described["version"], described["files"]
    except (OSError, ValueError, KeyError) as error:
        raise Refused(f"the archive has no manifest that can be read ({error!r})") from None
    if named != version:
        raise Refused(f"the manifest in the archive is of {named}, not of {version}")
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not _is_plain_folder(path)}
    del found["manifest.json"]
    if differ := sorted(set(found) ^ set(files)):
        where = "missing from the manifest" if differ[0] in found else "missing from the archive"
        raise Refused(f"{differ[0]} is {where}")
    for name, path in found.items():
        if path.is_symlink() or not path.is_file():
            raise Refused(f"{name} is not a plain file")
        if path.stat().st_size != files[name]["size"] or sha256_of(path) != files[name]["sha256"]:
            raise Refused(f"{name} is not what the manifest says")


def _is_plain_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


# --- Installation, on a host ------------------------------------------------------------------------------------------


def install(version: str, sha256: str) -> None:
    """Install a release. Raises Refused, or CalledProcessError if a command failed."""
    _install(version, sha256, HOME / "releases" / version, _make_environment)


def install_processors(version: str, sha256: str) -> None:
    """Install processors that are shipped alone. Raises Refused, or CalledProcessError if a command failed."""
    _install(f"{PROCESSORS}{version}", sha256, HOME / "shipments" / version, _check_scripts)


def _install(name: str, sha256: str, folder: Path, make_ready: Callable[[Path], None]) -> None:
    """Verify the archive of that name, unpack it into the folder, and call `make_ready` on the folder."""
    archive = HOME / "archives" / f"{name}.tar.zst"
    signature = archive.with_name(f"{archive.name}.sig")
    if (folder / "archive.sha256").is_file():
        raise Refused(f"{folder} is there already")
    try:
        if not archive.is_file() or sha256_of(archive) != sha256:
            raise Refused(f"{archive.name} was damaged on the way; run the deployment again")
        signer = verify(archive, signature, SIGNERS)
        shutil.rmtree(folder, ignore_errors=True)  # what a power cut left: without archive.sha256 nothing uses it
        folder.mkdir(parents=True)
        _unpack(archive, folder)
        verify_files(folder, name)
        make_ready(folder)
        (folder / "signer").write_text(f"{signer}\n")
        # Complete only when all of it is on the disk.
        draft = folder / ".archive.sha256"
        draft.write_text(f"{sha256}\n")
        _run("sync", "--file-system", folder)
        draft.rename(folder / "archive.sha256")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        archive.unlink(missing_ok=True)
        signature.unlink(missing_ok=True)


def _unpack(archive: Path, folder: Path) -> None:
    _run("tar", "--extract", "--zstd", "--no-same-owner", "--file", archive, "--directory", folder)


def _make_environment(folder: Path) -> None:
    python = folder / "venv" / "bin" / "python"
    wheels = folder / "wheels"
    # Without pip: the environment holds only what the bill of materials lists.
    _run("python3", "-m", "venv", "--without-pip", folder / "venv")
    # pip checks every wheel's hash: those of the lock, and that of the application's wheel, which the manifest has.
    application = folder / "application.txt"
    application.write_text("".join(f"{whl} --hash=sha256:{sha256_of(whl)}\n" for whl in wheels.glob("longhaul-*.whl")))
    plain = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-compile", "--require-hashes"]
    named = [f"--requirement={file}" for file in (folder / "requirements.txt", application)]
    _run(python, _pip_of_venv() / "pip", "install", *plain, "--find-links", wheels, *named)
    _run(python, "-m", "compileall", "-q", "-j", "0", folder / "venv" / "lib")
    _run(folder / "venv" / "bin" / "longhaul", "--help", stdout=subprocess.DEVNULL)
    application.unlink()
    shutil.rmtree(wheels)


def _pip_of_venv() -> Path:
    """The wheel of pip that `python3 -m venv` would install; pip runs from it. Raises Refused if there is none."""
    # Debian's folder for it: https://docs.python.org/3/using/configure.html, --with-wheel-pkg-dir.
    folder = sysconfig.get_config_var("WHEEL_PKG_DIR")
    for wheel in Path(folder).glob("pip-*.whl") if folder else ():
        return wheel
    raise Refused("this host's Python has no pip to make an environment with; install python3-venv")


def _check_scripts(folder: Path) -> None:
    for script in sorted((folder / "processors").glob("*.py")):
        try:
            compile(script.read_bytes(), script.name, "exec")
        except SyntaxError as error:
            raise Refused(f"{script.name} is not valid Python on this host: {error}") from None


def _run(*command: str | Path, stdout: int | None = None) -> None:
    subprocess.run([str(word) for word in command], check=True, stdout=stdout)


def make_room(parent: Path, kept: int, stay: set[str]) -> None:
    """Remove incomplete installations from a folder, and all but the newest `kept`; keep those named in `stay`."""
    complete = []
    for folder in parent.iterdir():
        if (folder / "archive.sha256").is_file():
            complete.append(folder)
        elif folder.name not in stay:
            shutil.rmtree(folder)
    complete.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in complete[kept:]:
        if folder.name not in stay:
            # First, so that after a power cut a half-removed installation counts as incomplete.
            (folder / "archive.sha256").unlink()
            shutil.rmtree(folder)


def in_use() -> set[str]:
    """The current release, the previous one, and the one that a switch in progress leaves."""
    names = {(HOME / "current").readlink().name} if (HOME / "current").is_symlink() else set()
    for mark in ("previous", "switching"):
        if (HOME / mark).is_file():
            names.add((HOME / mark).read_text().strip())
    return names


def shipped() -> set[str]:
    """The shipments that a release on this host uses."""
    return {link.resolve().parent.name for link in HOME.glob("releases/*/shipped")}


def main() -> None:
    """Install what the arguments name."""
    arguments = sys.argv[1:]
    processors = arguments[:1] == ["--processors"]
    version, sha256, kept = arguments[processors:]
    os.umask(0o022)
    try:
        (install_processors if processors else install)(version, sha256)
    except Refused as refused:
        sys.exit(f"install-release: {refused}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"install-release: {version} is not installed: {error}")
    make_room(HOME / "releases", int(kept), in_use())
    if processors:
        # The shipment that was just installed is not in use yet, and must stay.
        make_room(HOME / "shipments", int(kept), shipped() | {version})


if __name__ == "__main__":
    main()
