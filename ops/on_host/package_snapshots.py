#!/usr/bin/python3
"""Makes and lists snapshots of packages with aptly; runs as the account `packages` on the host that serves them.

    longhaul-packages make       a snapshot of the newest versions of the packages that standard input names
    longhaul-packages available  the newest version of each package that standard input names, without fetching any
    longhaul-packages list       the snapshots, the oldest first
    longhaul-packages show NAME  the packages of a snapshot and their versions
    longhaul-packages make-key   make the signing key, if there is none yet
    longhaul-packages key        the public half of the signing key

Takes names as a JSON list on standard input. Prints answers as JSON; progress goes to standard error. Exit code 1 with
the reason on standard error if something failed, 75 if another snapshot is being made.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SETTINGS = Path("/etc/longhaul/packages.json")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SECURITY = "security"
SCRATCH = "making"
"""Snapshots whose names begin with this are parts of one that is being made, or that a power cut left unfinished."""
SNAPSHOT = re.compile(r"\d{8}-[0-9a-f]{8}")
TEMPORARY = 75


class Problem(Exception):
    """Something that the caller can act on."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class Aptly:
    """The snapshots of this host."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._home = Path(settings["home"])
        self._suite = settings["suite"]
        self._architecture = _run(["dpkg", "--print-architecture"]).strip()
        self._environment = {**os.environ, "GNUPGHOME": str(self._home / "gnupg"), "HOME": str(self._home)}
        self._configuration = self._home / "aptly.conf"

    def make(self, names: Sequence[str]) -> dict[str, Any]:
        """Fetch the newest version of each package, and publish them as a snapshot; if nothing has changed, return the
        existing one. `missing` lists names that no upstream has.
        """
        wanted = sorted(set(names))
        if not wanted:
            raise Problem("No package is named.")
        with self._alone():
            self._clear()
            halves = [self._mirror(upstream, wanted) for upstream in self._settings["upstreams"]]
            self._aptly("snapshot", "merge", "-latest", SCRATCH, *halves)
            versions = self._versions(SCRATCH)
            digest = hashlib.sha256(json.dumps(versions, sort_keys=True).encode()).hexdigest()[:8]
            name = next((found for found in self.list() if found.endswith(f"-{digest}")), "")
            if not name:
                name = f"{time.strftime('%Y%m%d', time.gmtime())}-{digest}"
                self._aptly("snapshot", "rename", SCRATCH, name)
            self._publish(name)
            self._clear()
            self._prune(name)
        missing = sorted(set(wanted) - set(versions))
        return {"snapshot": name, "versions": versions, "missing": missing, "key": self.key()}

    def available(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Name -> {version, security}: the newest version that the upstreams have, and whether it is in their security
        archive. Names that no upstream has are left out.
        """
        import apt_pkg

        apt_pkg.init_config()
        folder = self._home / "apt"
        (folder / "sources").mkdir(parents=True, exist_ok=True)
        (folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        (folder / "sources" / "upstreams.sources").write_text(self._sources())
        places = {
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": str(folder / "sources"),
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State::lists": str(folder / "lists"),
            "Dir::State::status": str(folder / "status"),
            "Dir::Cache": str(folder),
        }
        _run(["apt-get", "--quiet", "--quiet", *(f"--option={key}={value}" for key, value in places.items()), "update"])
        for key, value in places.items():
            apt_pkg.config.set(key, value)
        apt_pkg.init_system()
        cache = apt_pkg.Cache(None)
        found = {}
        for name in names:
            versions = cache[name].version_list if name in cache else []
            if versions:
                newest = versions[0]
                for version in versions[1:]:
                    if apt_pkg.version_compare(version.ver_str, newest.ver_str) > 0:
                        newest = version
                secure = any(file.archive.endswith(f"-{SECURITY}") for file, _ in newest.file_list)
                found[name] = {"version": newest.ver_str, "security": secure}
        return found

    def list(self) -> list[str]:
        """The names of all snapshots, the oldest first."""
        names = self._aptly("snapshot", "list", "-raw", "-sort=time").split()
        return [name for name in names if SNAPSHOT.fullmatch(name)]

    def show(self, name: str) -> dict[str, Any]:
        """What `make` returns, for an existing snapshot."""
        if name not in self.list():
            raise Problem(f"There is no snapshot '{name}'. There are: {', '.join(self.list()) or 'none'}.")
        return {"snapshot": name, "versions": self._versions(name), "missing": [], "key": self.key()}

    def make_key(self) -> None:
        """Make the signing key, unless there is one."""
        if not self._gpg("--list-secret-keys", "--with-colons"):
            self._gpg(
                "--passphrase", "", "--quick-generate-key", self._settings["key_name"], "ed25519", "sign", "never"
            )
            _say("made the key")

    def key(self) -> str:
        """The public half of the signing key, armoured."""
        return self._gpg("--armor", "--export")

    # --- How ----------------------------------------------------------------------------------------------------------

    def _mirror(self, upstream: dict[str, str], names: Sequence[str]) -> str:
        """Fetch an upstream's versions of the packages, and what they depend on; returns the name of a snapshot."""
        # By exact name: a bare name would also choose other packages that provide it.
        chosen = " | ".join(f"Name (= {name})" for name in names)
        mirror = upstream["name"]
        _say(f"{mirror}: asking {upstream['url']} for {upstream['suite']}")
        options = [f"-keyring={KEYRING}", "-force-components", f"-filter={chosen}", "-filter-with-deps"]
        self._aptly("mirror", "create", *options, mirror, upstream["url"], upstream["suite"], "main")
        self._aptly("mirror", "update", f"-keyring={KEYRING}", mirror, tell=("Packages filtered", "Download queue"))
        half = f"{SCRATCH}-{mirror}"
        self._aptly("snapshot", "create", half, "from", "mirror", mirror)
        return half

    def _publish(self, name: str) -> None:
        if f"{name} {self._suite}" in self._aptly("publish", "list", "-raw").splitlines():
            return
        options = [f"-distribution={self._suite}", "-component=main", "-origin=Longhaul", f"-label={name}"]
        options += ["-batch", "-skip-contents", f"-architectures={self._architecture}"]
        self._aptly("publish", "snapshot", *options, name, name)
        _say(f"published {name}")

    def _clear(self) -> None:
        """Remove what an interrupted run left, and the mirrors, as their settings may have changed since."""
        for name in self._aptly("snapshot", "list", "-raw").split():
            if name.startswith(SCRATCH):
                self._aptly("snapshot", "drop", "-force", name)
        for name in self._aptly("mirror", "list", "-raw").split():
            self._aptly("mirror", "drop", "-force", name)

    def _prune(self, newest: str) -> None:
        others = [name for name in self.list() if name != newest]
        surplus = others[: max(0, len(others) - self._settings["kept"])]
        for name in surplus:
            self._aptly("publish", "drop", self._suite, name)
            self._aptly("snapshot", "drop", "-force", name)
            shutil.rmtree(self._home / "public" / name)  # aptly leaves the empty folders
        if surplus:
            self._aptly("db", "cleanup")

    def _versions(self, name: str) -> dict[str, str]:
        """Package -> version."""
        # `search` and not `show`: show also needs the snapshots that this one was merged from, and they are gone.
        lines = self._aptly("snapshot", "search", "-format={{.Package}} {{.Version}}", name, "Name (~ .)").splitlines()
        return dict(sorted(line.split() for line in lines))

    def _sources(self) -> str:
        return "\n".join(
            f"Types: deb\nURIs: {upstream['url']}\nSuites: {upstream['suite']}\n"
            f"Components: main\nSigned-By: {KEYRING}\n"
            for upstream in self._settings["upstreams"]
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self._home / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Problem("Another snapshot is being made. Wait for it.", TEMPORARY) from None
            yield

    def _aptly(self, *words: str, tell: tuple[str, ...] = ()) -> str:
        settings = {
            "rootDir": str(self._home),
            "architectures": [self._architecture],
            "gpgProvider": "gpg",
            "dependencyFollowRecommends": False,
        }
        self._configuration.write_text(json.dumps(settings))
        said = _run(["aptly", f"-config={self._configuration}", *words], self._environment)
        for line in said.splitlines():
            if tell and line.startswith(tell):
                _say(f"{words[-1]}: {line}")
        return said

    def _gpg(self, *words: str) -> str:
        return _run(["gpg", "--batch", "--quiet", *words], self._environment)


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        said = (answer.stderr.strip() or answer.stdout.strip())[-1500:]
        raise Problem(f"{' '.join(command[:4])} ... failed: {said}")
    return answer.stdout


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "available", "list", "show", "make-key", "key"])
    parser.add_argument("name", nargs="?", default="")
    arguments = parser.parse_args()
    os.umask(0o022)
    try:
        repository = Aptly(json.loads(SETTINGS.read_text()))
        answers: dict[str, Any] = {
            "make": lambda: repository.make(json.load(sys.stdin)),
            "available": lambda: repository.available(json.load(sys.stdin)),
            "list": repository.list,
            "show": lambda: repository.show(arguments.name),
            "make-key": repository.make_key,
            "key": repository.key,
        }
        answer = answers[arguments.what]()
    except Problem as problem:
        _say(str(problem))
        return problem.code
    if answer is not None:
        sys.stdout.write(json.dumps(answer, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
