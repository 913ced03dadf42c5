"""A version names one content: the newest commit that changed what a release is made of or with, exported as it is."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from ops import release
from ops.errors import Exit, Failure
from ops.release import source

FILES = {
    "app/longhaul/web/server.py": "one\n",
    "ops/artefact/__main__.py": "make\n",
    "ops/frontend.py": "bundle\n",
    "requirements.txt": "zstandard==1\n",
    "README.md": "read\n",
    ".gitignore": "/dist/\n",
}


class Repository:
    """A small repository with the places that count."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._clock = 1_900_000_000
        root.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.name", "t")
        self.git("config", "user.email", "t@example.org")
        self.first = self.commit(**FILES)

    def git(self, *arguments: str) -> str:
        """Run git; returns what it prints."""
        dates = dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), f"@{self._clock} +0000")
        command = ["git", *arguments]
        return subprocess.run(
            command, cwd=self.root, env={**os.environ, **dates}, capture_output=True, text=True, check=True
        ).stdout.strip()

    def write(self, **files: str) -> None:
        """Change files of the work tree."""
        for name, text in files.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(text)

    def commit(self, **files: str) -> str:
        """Commit changes; returns the commit."""
        self._clock += 60
        self.write(**files)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=change")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """The repository that releases are made from."""
    made = Repository(tmp_path / "repository")
    monkeypatch.setattr(source, "ROOT", made.root)
    return made


def clean() -> source.Source:
    """What the work tree gives."""
    return source.of_work_tree(dirty_allowed=False)


def test_the_version_is_the_time_and_the_commit(repository: Repository) -> None:
    assert clean().version == f"20300317T174740-{repository.first[:12]}"


@pytest.mark.parametrize("name", sorted(set(FILES) - {"README.md", ".gitignore"}))
def test_what_a_release_is_made_of_or_with_makes_a_version(repository: Repository, name: str) -> None:
    changed = repository.commit(**{name: "changed\n"})
    assert clean().commit == changed


def test_anything_else_makes_none(repository: Repository) -> None:
    before = clean()
    head = repository.commit(**{"README.md": "changed\n", "ops/status.py": "new\n"})
    after = clean()
    assert (after.version, after.commit) == (before.version, before.commit)
    assert after.asked_commit == head


def test_a_ref_is_built_as_it_was_committed_whatever_the_work_tree_has(repository: Repository, tmp_path: Path) -> None:
    repository.git("tag", "v1")
    repository.commit(**{"app/longhaul/web/server.py": "two\n"})
    repository.write(**{"app/longhaul/web/server.py": "three\n", "app/longhaul/new.py": "new\n"})
    for ref in ("v1", repository.first[:10], "HEAD~1"):
        chosen = source.of_ref(ref)
        assert (chosen.commit, chosen.asked, chosen.asked_commit) == (repository.first, ref, repository.first)
    source.of_ref("v1").export(tmp_path / "tree")
    assert (tmp_path / "tree/app/longhaul/web/server.py").read_text() == "one\n"
    assert not (tmp_path / "tree/app/longhaul/new.py").exists()


def test_an_export_is_the_same_whatever_git_does_for_this_person(repository: Repository, tmp_path: Path) -> None:
    repository.commit(**{".gitattributes": "*.py text=auto\n"})
    clean().export(tmp_path / "plain")
    repository.git("config", "core.autocrlf", "true")
    repository.git("config", "tar.umask", "0077")
    source.of_ref("HEAD").export(tmp_path / "configured")
    for name in FILES:
        assert (tmp_path / "configured" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name


@pytest.mark.parametrize("ref", ["nonsense", "--all", "HEAD:README.md", "deadbeef"])
def test_an_unknown_ref_stops_with_the_reason(repository: Repository, ref: str) -> None:
    with pytest.raises(Failure, match=f"There is no commit '{ref}'") as caught:
        source.of_ref(ref)
    assert caught.value.code == Exit.USAGE
    assert "git fetch" in caught.value.hint


@pytest.mark.parametrize("name", ["app/longhaul/web/server.py", "app/longhaul/new.py", "README.md"])
def test_a_dirty_tree_stops_with_the_reason(repository: Repository, name: str) -> None:
    repository.write(**{name: "changed\n"})
    with pytest.raises(Failure, match=name) as caught:
        clean()
    assert caught.value.code == Exit.BAD_INPUT
    assert "--ref=HEAD" in caught.value.hint


def test_the_lab_may_have_what_is_not_committed(repository: Repository, tmp_path: Path) -> None:
    plain = source.of_work_tree(dirty_allowed=True)
    assert plain == clean()
    repository.write(**{"README.md": "changed\n"})
    assert source.of_work_tree(dirty_allowed=True) == plain, "nothing of a release is in the README"
    repository.write(**{"app/longhaul/web/server.py": "two\n", "app/longhaul/new.py": "new\n", "dist/x": "ignored\n"})
    first = source.of_work_tree(dirty_allowed=True)
    assert first.dirty
    assert first.version.startswith(f"{plain.version}-dirty-")
    first.export(tmp_path / "tree")
    assert (tmp_path / "tree/app/longhaul/web/server.py").read_text() == "two\n"
    assert (tmp_path / "tree/app/longhaul/new.py").exists()
    assert not (tmp_path / "tree/dist").exists()
    repository.write(**{"app/longhaul/new.py": "newer\n"})
    assert source.of_work_tree(dirty_allowed=True).version != first.version


def test_a_commit_from_before_releases_made_themselves_is_refused(repository: Repository) -> None:
    repository.git("rm", "-r", "--quiet", "ops/artefact")
    repository.commit()
    with pytest.raises(Failure, match="is older than ops/artefact"):
        clean()


def test_a_shallow_clone_does_not_know_the_version(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.commit(**{"README.md": "changed\n"})
    shallow = tmp_path / "shallow"
    repository.git("clone", "--quiet", "--depth=1", f"file://{repository.root}", str(shallow))
    monkeypatch.setattr(source, "ROOT", shallow)
    with pytest.raises(Failure, match="shallow") as caught:
        clean()
    assert "--unshallow" in caught.value.hint
    assert source.of_work_tree(dirty_allowed=True).commit != repository.first, "a lab may make do with it"


def test_what_is_no_checkout_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(Failure, match="not a git repository"):
        source.of_ref("HEAD")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://user:secret@example.org/longhaul.git", "https://example.org/longhaul.git"),
        ("git@example.org:longhaul.git", "git@example.org:longhaul.git"),
        ("", ""),
    ],
)
def test_where_a_clone_came_from_is_told_without_a_password(repository: Repository, url: str, says: str) -> None:
    if url:
        repository.git("remote", "add", "origin", url)
    assert source.origin() == says


def test_a_ref_and_a_dirty_tree_exclude_each_other() -> None:
    with pytest.raises(Failure, match="they exclude each other"):
        release.build(ref="HEAD", dirty_allowed=True)


def test_exports_have_no_surprises(repository: Repository, tmp_path: Path) -> None:
    """A link that leads out of the tree is not followed by whoever unpacks it."""
    (repository.root / "app/evil").symlink_to("/etc/passwd")
    repository.commit()
    with pytest.raises(tarfile.FilterError):
        clean().export(tmp_path / "tree")
