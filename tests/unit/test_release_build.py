"""The same commit gives the same archive whoever builds it, where and when; and the archive is what it says it is."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from ops.artefact import archive, manifest, sbom, wheels
from ops.errors import Failure
from ops.paths import CACHE, ROOT, tool
from ops.release import source, tools
from ops.release.difference import first_difference

SECONDS = 300
ANOTHER_DAY = '''\
"""Every Python that starts here believes that it is more than a year later."""

import datetime
import time

LATER = 400 * 86400
_now, _local, _utc = time.time, time.localtime, time.gmtime
time.time = lambda: _now() + LATER
time.time_ns = lambda: int(time.time() * 10**9)
time.localtime = lambda seconds=None: _local(time.time() if seconds is None else seconds)
time.gmtime = lambda seconds=None: _utc(time.time() if seconds is None else seconds)


class _Later(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)


datetime.datetime = _Later
'''


def clone(of: Path, to: Path, umask: int = 0o022) -> Path:
    """A clone that need not download what the repository at work already has."""
    subprocess.run(["git", "clone", "--quiet", str(of), str(to)], check=True, umask=umask)
    if (CACHE / "wheels").is_dir():
        shutil.copytree(CACHE / "wheels", to / ".cache" / "wheels")
    return to


def build(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`./inv build` in a checkout."""
    command = [tool("invoke"), "--search-root", str(checkout), "build", *arguments]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False, timeout=SECONDS)


@dataclass(frozen=True)
class Built:
    """A clone of what is at work here, committed, and the release that it built."""

    checkout: Path
    release: dict[str, str]
    content: Path

    @property
    def archive(self) -> Path:
        """Its file."""
        return Path(self.release["path"])

    def json(self, name: str) -> Any:
        """A JSON file inside."""
        return json.loads((self.content / name).read_text())


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Built once, also where tests run in several processes."""
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    checkout, content, said = place / "one" / "longhaul", place / "content", place / "built.json"
    with (place / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            clone(ROOT, checkout)
            for path in checkout.iterdir():
                if path.name not in {".git", ".cache"}:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            for path in source._work_tree("."):
                (checkout / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, checkout / path.relative_to(ROOT), follow_symlinks=False)
            # Of this commit's own version also where the repository at work is a shallow clone.
            (checkout / "app" / "of-a-test").touch()
            names = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
            subprocess.run(["git", "add", "--all"], cwd=checkout, check=True)
            commit = ["git", *names, "commit", "--quiet", "--message=what is at work here"]
            subprocess.run(commit, cwd=checkout, check=True)
            done = build(checkout, "--json")
            assert done.returncode == 0, done.stderr
            content.mkdir()
            archive.unpack(Path(json.loads(done.stdout)["path"]), content)
            said.write_text(done.stdout)
    return Built(checkout, json.loads(said.read_text()), content)


def test_another_path_day_umask_locale_and_time_zone_give_the_same_bytes(built: Built, tmp_path: Path) -> None:
    described = built.json("manifest.json")
    other = clone(built.checkout, tmp_path / "élsewhere and 'deeper\"" / "clone", umask=0o077)
    subprocess.run(["git", "checkout", "--quiet", described["commit"]], cwd=other, check=True)
    (tmp_path / "day").mkdir()
    (tmp_path / "day" / "sitecustomize.py").write_text(ANOTHER_DAY)
    surroundings = {
        "PYTHONPATH": str(tmp_path / "day"),
        "TZ": "Pacific/Kiritimati",
        "LC_ALL": "C",
        "NODE_ENV": "production",
    }
    seconds = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=other, capture_output=True, text=True, check=True
    ).stdout.strip()
    command = [sys.executable, "-m", "ops.artefact", "--version", described["version"]]
    command += ["--commit", described["commit"], "--time", seconds, "--cache", str(other / ".cache")]
    command += ["--target", str(tmp_path / "again"), "--report", str(tmp_path / "report.json")]
    done = subprocess.run(
        command,
        cwd=other,
        env={**os.environ, **surroundings},
        umask=0o077,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert first_difference(built.archive, tmp_path / "again") == ""
    assert json.loads((tmp_path / "report.json").read_text())["tools"]["zstd"] == ".".join(
        map(str, archive.ZSTD_VERSION)
    )


def test_the_manifest_is_that_of_the_files(built: Built) -> None:
    described = built.json("manifest.json")
    version = built.release["version"]
    assert described["version"] == version
    assert described["commit"].startswith(version.rpartition("-")[2])
    assert described["python"] == wheels.HOST_PYTHON
    revisions = [path.name.partition("_")[0] for path in (built.checkout / "app/migrations/versions").glob("0*.py")]
    assert described["schema_head"] == max(revisions)
    files = {path.relative_to(built.content).as_posix(): path for path in archive.files(built.content)}
    del files["manifest.json"]
    assert set(described["files"]) == set(files)
    assert {Path(name).suffix for name in files if name.startswith("wheels/")} == {".whl"}
    assert {"frontend/app.js", "processors/inspect_file.py", "requirements.txt", sbom.NAME} < set(files)
    for name, path in files.items():
        data = path.read_bytes()
        assert described["files"][name] == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}, name


def test_the_bill_of_materials_is_valid_and_has_nothing_random(built: Built) -> None:
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str((built.content / sbom.NAME).read_text())
    assert problem is None, str(problem)
    bill = built.json(sbom.NAME)
    assert "serialNumber" not in bill
    assert "timestamp" not in bill["metadata"]
    broken = {**bill, "components": [{**bill["components"][0], "type": "nonsense"}]}
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(broken)) is not None


def test_the_bill_of_materials_lists_what_is_there(built: Built) -> None:
    components = built.json(sbom.NAME)["components"]
    hashes = {component["hashes"][0]["content"] for component in components if "pypi" in component["purl"]}
    brought = [path for path in (built.content / "wheels").glob("*.whl") if not path.name.startswith("longhaul-")]
    assert brought
    assert hashes == {hashlib.sha256(path.read_bytes()).hexdigest() for path in brought}
    # The bundler itself says which packages' files it took.
    bundled = set()
    for path in (built.content / "frontend").glob("*.map"):
        for name in json.loads(path.read_text())["sources"]:
            if "node_modules/" in name:
                parts = name.rpartition("node_modules/")[2].split("/")
                bundled.add("/".join(parts[: 2 if parts[0].startswith("@") else 1]))
    assert bundled
    listed = {component["name"] for component in components if "npm" in component["purl"]}
    assert bundled <= listed
    assert "esbuild" not in listed, "what bundles is not in what is bundled"


def test_what_is_there_is_not_built_again_unless_it_was_altered(built: Built, tmp_path: Path) -> None:
    checkout = tmp_path / "other"
    shutil.copytree(built.checkout, checkout, symlinks=True)
    (path,) = (checkout / "dist").glob("*.tar.zst")
    before = path.stat().st_mtime_ns
    assert build(checkout).returncode == 0
    assert path.stat().st_mtime_ns == before
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = build(checkout)
    assert done.returncode != 0
    assert "is not what its commit gives" in " ".join(done.stderr.split()), done.stderr
    assert re.findall(r"^build (\d/\d): ", done.stderr, re.MULTILINE) == [f"{step}/5" for step in range(1, 6)]
    assert "added" not in done.stderr, "npm speaks only if it fails"
    assert path.read_bytes() == content


def test_a_frontend_that_cannot_be_built_stops_with_the_reason(built: Built, tmp_path: Path) -> None:
    checkout = clone(built.checkout, tmp_path / "broken")
    (checkout / "app/frontend/src/main.ts").write_text("let = ;\n")
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qam", "broken"],
        cwd=checkout,
        check=True,
    )
    done = build(checkout)
    assert done.returncode == 1
    assert "the frontend could not be bundled" in done.stderr
    assert "main.ts:1:" in done.stderr, "the bundler says where"
    assert not list(checkout.glob("dist/*"))


LOCKED = "itsdangerous==2.2.0 --hash=sha256:c6242fc49e35958c8b15141343aa660db5fc54d4f13a1db01a3f5891b98700ef\n"


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock of one small package."""
    path = tmp_path / "requirements.txt"
    path.write_text(LOCKED)
    monkeypatch.setattr(wheels, "LOCK", path)
    return path


def test_a_wheel_that_was_altered_in_the_cache_is_not_taken(lock: Path, tmp_path: Path) -> None:
    (wheel,) = wheels.dependencies(tmp_path / "cache")
    good = wheel.read_bytes()
    wheel.write_bytes(good + b"\0")
    assert wheels.dependencies(tmp_path / "cache") == [wheel]
    assert wheel.read_bytes() == good
    (wheel.parent / "more-1-py3-none-any.whl").write_bytes(b"")
    assert wheels.dependencies(tmp_path / "cache") == [wheel]


@pytest.mark.parametrize(("name", "value"), [("HOST_PYTHON", "3.14"), ("HOST_PLATFORMS", ["manylinux_2_28_aarch64"])])
def test_wheels_for_other_hosts_are_downloaded_again(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    """The lock allows the wheels of all hosts, so it cannot tell that those in the cache are another host's."""
    commands: list[list[str]] = []

    def download(command: list[str], _what: str, _failure: Failure) -> None:
        commands.append(command)
        (Path(command[-1]) / "one-1-py3-none-any.whl").write_bytes(b"one")

    lock.write_text(f"one==1 --hash=sha256:{hashlib.sha256(b'one').hexdigest()}\n")
    monkeypatch.setattr(wheels, "quietly", download)
    for _ in range(2):
        wheels.dependencies(tmp_path / "cache")
    assert len(commands) == 1
    monkeypatch.setattr(wheels, name, value)
    wheels.dependencies(tmp_path / "cache")
    assert len(commands) == 2


def test_a_download_that_fails_stops_with_the_reason_and_keeps_nothing(
    lock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock.write_text(LOCKED.replace("c6242fc4", "00000000"))
    with pytest.raises(Failure, match="could not be downloaded"):
        wheels.dependencies(tmp_path / "cache")
    assert "DO NOT MATCH THE HASHES" in capsys.readouterr().err
    assert not list((tmp_path / "cache").iterdir())


def test_wheels_are_chosen_for_the_hosts_and_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(wheels.HOST_MARKERS, "python_version", "3.99")
    monkeypatch.setitem(wheels.HOST_MARKERS, "python_full_version", "3.99.0")
    text = (
        "# a comment\n"
        "always==1 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n    # via something\n"
        "old-python==1 ; python_version < '3.99' --hash=sha256:cc\n"
        "host-python==1 ; python_full_version >= '3.99' --hash=sha256:dd\n"
        "windows==1 ; sys_platform == 'win32' --hash=sha256:ee\n"
        "extra[one]==1 ; implementation_name != 'pypy' --hash=sha256:ff\n"
    )
    assert list(wheels.for_hosts(text)) == [
        "always==1 --hash=sha256:aa --hash=sha256:bb\n",
        "host-python==1 --hash=sha256:dd\n",
        "extra[one]==1 --hash=sha256:ff\n",
    ]


def test_migrations_that_end_in_two_revisions_stop_the_build(tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    for name, before in {"a": "None", "b": "'a'"}.items():
        (tmp_path / f"versions/{name}.py").write_text(f"revision = {name!r}\ndown_revision = {before}\n")
    assert manifest.schema_head(tmp_path) == "b"
    (tmp_path / "versions/c.py").write_text("revision = 'c'\ndown_revision = 'a'\n")
    with pytest.raises(Failure, match="do not end in one revision"):
        manifest.schema_head(tmp_path)


def test_a_commit_with_another_lock_is_built_with_its_own_tools(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tools.python_for(ROOT / "requirements.txt") == sys.executable
    monkeypatch.setattr(tools, "CACHE", tmp_path / "cache")
    python = tools.python_for(lock)
    assert Path(python).is_relative_to(tmp_path)
    code = "import importlib.metadata as m; print(sorted(d.name for d in m.distributions()))"
    said = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "['itsdangerous', 'pip']"
    before = Path(python).lstat().st_mtime_ns
    assert tools.python_for(lock) == python
    assert Path(python).lstat().st_mtime_ns == before, "it is made once"
