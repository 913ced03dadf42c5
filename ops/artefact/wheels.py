"""The wheels of a release: the application's own, and those that it needs on the hosts."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from packaging.requirements import Requirement

from ops.errors import Exit, Failure
from ops.paths import APP
from ops.progress import quietly

HOST_PYTHON = "3.13"
HOST_ARCHITECTURE = "x86_64"
HOST_GLIBC_MINOR = 41  # Debian 13 has glibc 2.41, which runs what was built for any older one (PEP 600)
HOST_PLATFORMS = [f"manylinux_2_{minor}_{HOST_ARCHITECTURE}" for minor in range(HOST_GLIBC_MINOR, 4, -1)]
HOST_MARKERS = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": HOST_ARCHITECTURE,
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": f"{HOST_PYTHON}.0",
    "python_version": HOST_PYTHON,
    "sys_platform": "linux",
}
"""Environment markers (PEP 508) of the hosts; pip itself would use those of the machine that builds."""
LOCK = APP / "requirements.txt"
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_SUMS = "SHA256SUMS"


def application(target: Path, seconds: int) -> None:
    """Build the application's wheel into a folder. `seconds`: the time that its members get, since 1970.

    Raises Failure if it cannot be built.
    """
    with tempfile.TemporaryDirectory(prefix="longhaul-wheel-") as name:
        quietly(
            [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", name, str(APP)],
            "building the application's wheel",
            Failure(
                "The application's wheel could not be built; the reason is above.",
                "Correct app/pyproject.toml or what it names, and commit.",
                Exit.UNAVAILABLE,
            ),
        )
        (wheel,) = Path(name).glob("*.whl")
        _rewrite(wheel, target / wheel.name, seconds)


def dependencies(cache: Path) -> list[Path]:
    """The wheels of app/requirements.txt for the hosts, downloaded once for each lock and kind of host.

    Raises Failure if one cannot be downloaded, or has a hash that is not in the lock.
    """
    wanted, options = "".join(for_hosts(LOCK.read_text())), _options()
    kept = cache / hashlib.sha256("\0".join([wanted, *options]).encode()).hexdigest()
    if _is_whole(kept):
        return _wheels(kept)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".wheels-") as name:
        temporary = Path(name) / "wheels"
        temporary.mkdir()
        requirements = Path(name) / "requirements.txt"
        requirements.write_text(wanted)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *options]
        quietly(
            [*command, "--requirement", str(requirements), "--dest", str(temporary)],
            "downloading the application's wheels",
            Failure(
                "The application's wheels could not be downloaded; pip's reason is above.",
                "Is the package registry reachable? Nothing was kept; run this again.",
                Exit.UNAVAILABLE,
            ),
        )
        (temporary / _SUMS).write_text(_listing({path: _sha256(path) for path in _wheels(temporary)}))
        shutil.rmtree(kept, ignore_errors=True)
        temporary.rename(kept)
    return _wheels(kept)


def _options() -> list[str]:
    """Options of pip that choose the wheels for the hosts."""
    options = ["--require-hashes", "--no-deps", "--only-binary=:all:"]
    options += ["--python-version", HOST_PYTHON, "--implementation", "cp"]
    for abi in (f"cp{HOST_PYTHON.replace('.', '')}", "abi3", "none"):
        options += ["--abi", abi]
    for platform in HOST_PLATFORMS:
        options += ["--platform", platform]
    return options


def for_hosts(lock: str) -> Iterator[str]:
    """The entries of a lock that apply to the hosts, one line each, with their hashes and without markers."""
    joined = re.sub(r"\\\n", " ", lock)
    for line in joined.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        written, *hashes = line.split(" --hash=")
        requirement = Requirement(written.strip())
        if requirement.marker is None or requirement.marker.evaluate(HOST_MARKERS):
            requirement.marker = None
            yield " ".join([str(requirement), *(f"--hash={value.strip()}" for value in hashes)]) + "\n"


def _is_whole(kept: Path) -> bool:
    """Whether a folder of the cache is complete and unchanged, and every file's hash is in the lock."""
    sums = kept / _SUMS
    if not sums.is_file():
        return False
    allowed = set(_HASH.findall(LOCK.read_text()))
    found = {path: _sha256(path) for path in _wheels(kept)}
    return sums.read_text() == _listing(found) and set(found.values()) <= allowed


def _listing(sums: Mapping[Path, str]) -> str:
    """The checksums in the format of sha256sum."""
    return "".join(f"{sha256}  {path.name}\n" for path, sha256 in sums.items())


def _wheels(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.whl"))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _rewrite(wheel: Path, target: Path, seconds: int) -> None:
    """Rewrite a wheel: sorted, with one time and mode, and not compressed, as zlib's output depends on its build."""
    stamp = time.gmtime(seconds)
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for name in sorted(old.namelist()):
            entry = zipfile.ZipInfo(name, stamp[:6])
            entry.create_system = 3  # Unix, so that the mode below counts
            entry.external_attr = 0o100644 << 16
            new.writestr(entry, old.read(name))
