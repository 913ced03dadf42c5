"""A release is accepted if an allowed signer signed exactly this file for exactly this purpose, and never otherwise."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from ops import release, secrets
from ops.artefact import archive, manifest
from ops.environment import Environment, Kind
from ops.errors import Exit, Failure
from ops.inventories import LAB_ENVIRONMENT, environment_names
from ops.on_host import install_release as installer
from ops.on_host.install_release import Refused
from ops.paths import ROOT
from ops.release import signature
from ops.release.source import Source

VERSION = "20300101T000000-abcdefabcdef"
KEPT = 3


def a_key(path: Path) -> tuple[Path, str]:
    """A new SSH key: the file of the private one, and the line of the public one."""
    private, public = secrets._ssh_key(path.name)
    path.touch(mode=0o600)
    path.write_text(private)
    return path, public


@pytest.fixture
def alice(tmp_path: Path) -> Path:
    """The key of an allowed signer."""
    return a_key(tmp_path / "alice")[0]


@pytest.fixture
def mallory(tmp_path: Path) -> Path:
    """The key of somebody else."""
    return a_key(tmp_path / "mallory")[0]


@pytest.fixture
def signers(tmp_path: Path, alice: Path) -> Path:
    """The allowed signers: alice."""
    (tmp_path / "alice.pub").write_text(signature._ssh_keygen(["-y", "-f", str(alice)]).stdout)
    path = tmp_path / "signers"
    path.write_text(f'alice namespaces="{installer.NAMESPACE}" {(tmp_path / "alice.pub").read_text()}')
    return path


@pytest.fixture
def host(tmp_path: Path, signers: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host's /opt/longhaul, whose installer has no environment to make and needs no zstd of this machine."""
    home = tmp_path / "opt"
    (home / "archives").mkdir(parents=True)
    (home / "releases").mkdir()
    monkeypatch.setattr(installer, "HOME", home)
    monkeypatch.setattr(installer, "SIGNERS", signers)
    monkeypatch.setattr(installer, "_unpack", archive.unpack)
    monkeypatch.setattr(installer, "_make_environment", lambda folder: None)
    return home


def packed(folder: Path, target: Path, version: str = VERSION, change: Callable[[Path], None] | None = None) -> Path:
    """A small archive with a right manifest; `change` is made behind the manifest's back."""
    (folder / "frontend").mkdir(parents=True)
    (folder / "frontend" / "app.js").write_text("let a = 1;\n")
    (folder / "requirements.txt").write_text("itsdangerous==2.2.0\n")
    manifest.write(folder, version=version)
    if change is not None:
        change(folder)
    archive.pack(folder, 0, target)
    return target


@pytest.fixture
def carried(tmp_path: Path, host: Path, alice: Path) -> Path:
    """An archive that a deployment has carried to the host, signed by alice."""
    path = packed(tmp_path / "content", host / "archives" / f"{VERSION}.tar.zst")
    signature.sign(path, alice, beside(path))
    return path


def beside(path: Path) -> Path:
    """Where the signature of a file is."""
    return path.with_name(f"{path.name}.sig")


def left_on(host: Path) -> list[str]:
    """The files of releases and archives."""
    return sorted(path.relative_to(host).as_posix() for path in host.rglob("*") if path.is_file())


def test_a_signed_release_is_installed(host: Path, carried: Path) -> None:
    sha256 = installer.sha256_of(carried)
    installer.install(VERSION, sha256)
    folder = f"releases/{VERSION}"
    names = ["archive.sha256", "frontend/app.js", "manifest.json", "requirements.txt", "signer"]
    assert left_on(host) == [f"{folder}/{name}" for name in names]
    assert (host / folder / "archive.sha256").read_text().strip() == sha256
    assert (host / folder / "signer").read_text().strip() == "alice"


def unsigned(path: Path, key: Path) -> None:
    """No signature."""
    beside(path).unlink()


def wrongly_signed(path: Path, key: Path) -> None:
    """A file that is no signature."""
    beside(path).write_text("-----BEGIN SSH SIGNATURE-----\nrubbish\n-----END SSH SIGNATURE-----\n")


def altered_by_one_byte(path: Path, key: Path) -> None:
    """The signature is of what the file was."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def signed_by_another(path: Path, key: Path) -> None:
    """A good signature of somebody who is not allowed."""
    signature.sign(path, key, beside(path))


def signed_for_another_purpose(path: Path, key: Path) -> None:
    """A good signature of alice under something that is no release."""
    signature.sign(path, path.parents[2] / "alice", beside(path), signature.PROVENANCE_NAMESPACE)


def signature_of_another_version(path: Path, key: Path) -> None:
    """Alice signed the release before this one."""
    other = packed(path.parents[2] / "older", path.parents[2] / "older.tar.zst", version="older")
    signature.sign(other, path.parents[2] / "alice", beside(path))


def signed_archive_of_another_version(path: Path, key: Path) -> None:
    """An archive that alice signed, offered as another version than it is."""
    packed(path.parents[2] / "older", path, version="older")
    signature.sign(path, path.parents[2] / "alice", beside(path))


@pytest.fixture
def nothing_to_unpack(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To unpack would be a mistake."""
    monkeypatch.setattr(installer, "_unpack", lambda archive, _folder: pytest.fail(f"{archive} was unpacked"))


BAD = {
    unsigned: "is not signed",
    wrongly_signed: "is not a signature of",
    altered_by_one_byte: "one of them was altered",
    signed_by_another: "not an allowed signer's",
    signed_for_another_purpose: "is not a signature of",
    signature_of_another_version: "different versions",
}


@pytest.mark.parametrize(("spoil", "says"), BAD.items(), ids=[spoil.__name__ for spoil in BAD])
@pytest.mark.usefixtures("nothing_to_unpack")
def test_what_is_not_signed_as_it_must_be_is_refused_before_it_is_unpacked(
    host: Path, carried: Path, mallory: Path, spoil: Callable[[Path, Path], None], says: str
) -> None:
    spoil(carried, mallory)
    with pytest.raises(Refused, match=says):
        installer.install(VERSION, installer.sha256_of(carried))
    assert left_on(host) == []
    assert not (host / "releases" / VERSION).exists()


def test_a_signed_archive_under_another_name_is_refused(host: Path, carried: Path, mallory: Path) -> None:
    signed_archive_of_another_version(carried, mallory)
    with pytest.raises(Refused, match=f"is of older, not of {VERSION}"):
        installer.install(VERSION, installer.sha256_of(carried))
    assert left_on(host) == []


def test_what_was_damaged_on_the_way_is_refused(host: Path, carried: Path) -> None:
    with pytest.raises(Refused, match="damaged on the way"):
        installer.install(VERSION, "0" * 64)
    assert left_on(host) == []


def test_nothing_is_installed_twice_over(host: Path, carried: Path) -> None:
    sha256 = installer.sha256_of(carried)
    installer.install(VERSION, sha256)
    before = left_on(host)
    with pytest.raises(Refused, match="is there already"):
        installer.install(VERSION, sha256)
    assert left_on(host) == before


def an_additional_file(folder: Path) -> None:
    """Not in the manifest."""
    (folder / "more.py").write_text("import os\n")


def a_missing_file(folder: Path) -> None:
    """In the manifest only."""
    (folder / "requirements.txt").unlink()


def another_content(folder: Path) -> None:
    """Of the same size."""
    (folder / "frontend" / "app.js").write_text("let a = 2;\n")


def a_link(folder: Path) -> None:
    """To a file with the right content."""
    (folder / "requirements.txt").rename(folder.parent / "elsewhere.txt")
    (folder / "requirements.txt").symlink_to(folder.parent / "elsewhere.txt")


def no_manifest(folder: Path) -> None:
    """Nothing to compare with."""
    (folder / "manifest.json").unlink()


CONTENT = {
    an_additional_file: "more.py is missing from the manifest",
    a_missing_file: "requirements.txt is missing from the archive",
    another_content: "frontend/app.js is not what the manifest says",
    a_link: "requirements.txt is not a plain file",
    no_manifest: "no manifest that can be read",
}


@pytest.mark.parametrize(("spoil", "says"), CONTENT.items(), ids=[spoil.__name__ for spoil in CONTENT])
def test_every_file_is_held_against_the_manifest(tmp_path: Path, spoil: Callable[[Path], None], says: str) -> None:
    folder = tmp_path / "unpacked"
    packed(folder, tmp_path / "archive")
    installer.verify_files(folder, VERSION)
    spoil(folder)
    with pytest.raises(Refused, match=says):
        installer.verify_files(folder, VERSION)


def test_a_signed_archive_whose_manifest_lies_leaves_nothing(tmp_path: Path, host: Path, alice: Path) -> None:
    path = packed(tmp_path / "content", host / "archives" / f"{VERSION}.tar.zst", change=another_content)
    signature.sign(path, alice, beside(path))
    with pytest.raises(Refused, match="is not what the manifest says"):
        installer.install(VERSION, installer.sha256_of(path))
    assert left_on(host) == []


def installed(host: Path, *versions: str, complete: bool = True) -> None:
    """Releases on a host, each older than the next."""
    for number, version in enumerate(versions):
        folder = host / "releases" / version
        folder.mkdir()
        if complete:
            (folder / "archive.sha256").write_text("\n")
        os.utime(folder, (number, number))


def test_the_newest_stay_and_with_them_what_a_host_runs_ran_before_or_is_switched_from(host: Path) -> None:
    installed(host, "switched-from", "previous", "current", "old", "newer", "newest", "last")
    installed(host, "cut-off", complete=False)
    (host / "current").symlink_to("releases/current")
    (host / "previous").write_text("previous\n")
    (host / "switching").write_text("switched-from\n")
    installer.make_room(host / "releases", KEPT, installer.in_use())
    left = {path.name for path in (host / "releases").iterdir()}
    assert left == {"switched-from", "previous", "current", "newer", "newest", "last"}


def test_a_removal_that_was_cut_off_leaves_no_release(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts are asked for the manifest of each that is complete; half a release has none."""
    installed(host, "old", "new")
    remove = shutil.rmtree

    def power_cut(folder: Path) -> None:
        (folder / "manifest.json").unlink(missing_ok=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(installer.shutil, "rmtree", power_cut)
    with pytest.raises(KeyboardInterrupt):
        installer.make_room(host / "releases", 1, set())
    assert [path.parent.name for path in host.glob("releases/*/archive.sha256")] == ["new"]
    monkeypatch.setattr(installer.shutil, "rmtree", remove)
    installer.make_room(host / "releases", 1, set())
    assert [path.name for path in (host / "releases").iterdir()] == ["new"]


# --- On the control side ----------------------------------------------------------------------------------------------


@pytest.fixture
def dist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A `dist` of its own."""
    folder = tmp_path / "dist"
    monkeypatch.setattr(release, "DIST", folder)
    return folder


@pytest.fixture
def published(tmp_path: Path, dist: Path, alice: Path) -> release.Release:
    """A release that alice built."""
    made = packed(tmp_path / "content", tmp_path / "archive")
    source = Source(VERSION, "abcdefabcdef", 0, "HEAD", "abcdefabcdef")
    return release.publish(made, source, {"zstd": "1.5.7"}, alice, began="2030-01-01T00:00:00Z", tree=ROOT)


@pytest.fixture
def environment(tmp_path: Path, signers: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """An environment that allows alice."""
    written = [{"principal": "alice", "key": (tmp_path / "alice.pub").read_text().strip()}]
    monkeypatch.setattr(Environment, "variable", lambda _self, name: {"release_signers": written}[name])
    return Environment("prod", tmp_path, Kind.REAL)


def test_what_was_built_is_found_with_who_signed_it(published: release.Release, environment: Environment) -> None:
    assert release.find(VERSION) == published
    assert release.verify(published, environment) == "alice"
    assert sorted(path.name for path in published.path.parent.iterdir()) == sorted(
        path.name for path in release.parts(VERSION)
    )


def test_provenance_says_who_when_from_what_and_with_which_tools(published: release.Release) -> None:
    said = json.loads(published.path.with_name(f"longhaul-{VERSION}.provenance.json").read_text())
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    assert said["subject"] == [{"name": published.path.name, "digest": {"sha256": published.sha256}}]
    predicate = said["predicate"]
    assert predicate["buildDefinition"]["externalParameters"] == {"ref": "HEAD", "commit": "abcdefabcdef"}
    assert predicate["buildDefinition"]["resolvedDependencies"][0]["digest"] == {"gitCommit": "abcdefabcdef"}
    details = predicate["runDetails"]
    assert details["builder"]["version"] == {"zstd": "1.5.7"}
    assert details["builder"]["id"].startswith("urn:longhaul:builder:")
    assert details["metadata"]["startedOn"] == "2030-01-01T00:00:00Z"
    assert datetime.fromisoformat(details["metadata"]["finishedOn"]).tzinfo is not None


def swapped_provenance(published: release.Release, mallory: Path) -> None:
    """Of the same archive, but somebody else's word."""
    statement = published.path.with_name(f"longhaul-{VERSION}.provenance.json")
    signature.sign(statement, mallory, beside(statement), signature.PROVENANCE_NAMESPACE)


def other_provenance(published: release.Release, mallory: Path) -> None:
    """Alice's own word, about another archive."""
    statement = published.path.with_name(f"longhaul-{VERSION}.provenance.json")
    statement.write_text(statement.read_text().replace(published.sha256, "0" * 64))
    signature.sign(statement, mallory.with_name("alice"), beside(statement), signature.PROVENANCE_NAMESPACE)


def no_provenance(published: release.Release, mallory: Path) -> None:
    """Nobody says where it comes from."""
    published.path.with_name(f"longhaul-{VERSION}.provenance.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda published, key: unsigned(published.path, key), "is not signed"),
        (lambda published, key: altered_by_one_byte(published.path, key), "one of them was altered"),
        (swapped_provenance, "signed by somebody else"),
        (other_provenance, "with other content"),
        (no_provenance, "is missing"),
    ],
    ids=["unsigned", "altered", "swapped provenance", "other provenance", "no provenance"],
)
def test_what_is_in_dist_is_not_trusted_as_it_is(
    published: release.Release, mallory: Path, spoil: Callable[[release.Release, Path], None], says: str
) -> None:
    spoil(published, mallory)
    with pytest.raises(Failure, match=says) as caught:
        release.find(VERSION)
    assert caught.value.code == Exit.BAD_INPUT
    assert "build it again" in caught.value.hint


def test_who_may_not_sign_for_an_environment_is_told_before_its_hosts_are_asked(
    published: release.Release, environment: Environment, mallory: Path
) -> None:
    signed_by_another(published.path, mallory)
    with pytest.raises(Failure, match=r"'prod' would not accept the release .* not an allowed signer's") as caught:
        release.verify(published, environment)
    assert "--key" in caught.value.hint


def test_a_publication_that_fails_leaves_nothing(tmp_path: Path, dist: Path) -> None:
    made = packed(tmp_path / "content", tmp_path / "archive")
    no_key = tmp_path / "no-key"
    no_key.write_text("nonsense")
    source = Source(VERSION, "abcdefabcdef", 0, "HEAD", "abcdefabcdef")
    with pytest.raises(Failure, match="did not sign"):
        release.publish(made, source, {}, no_key, began="", tree=ROOT)
    assert list(dist.iterdir()) == []


def test_a_missing_release_names_those_that_there_are(published: release.Release) -> None:
    with pytest.raises(Failure, match="no release 'nonsense'") as caught:
        release.find("nonsense")
    assert VERSION in caught.value.hint


def test_a_key_is_what_was_named_or_the_variable_or_the_labs(
    alice: Path, mallory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labs, _ = secrets._ssh_key("lab")
    monkeypatch.setattr(secrets, "read", lambda _environment: {"vault_release_signing_key": labs})
    monkeypatch.setenv(signature.KEY_VARIABLE, str(mallory))
    with signature.signing_key(str(alice)) as key:
        assert key == alice
    with signature.signing_key() as key:
        assert key == mallory
    with signature.signing_key(for_lab=True) as key:
        assert key.read_text() == labs
        assert key.stat().st_mode & 0o077 == 0
    assert not key.exists()
    monkeypatch.delenv(signature.KEY_VARIABLE)
    with signature.signing_key() as key:
        assert key.read_text() == labs
    with pytest.raises(Failure, match="no key to sign with"), signature.signing_key(str(tmp_path / "nowhere")):
        pass


def test_every_environment_names_signers_whose_keys_are_keys(tmp_path: Path) -> None:
    names = environment_names()
    assert LAB_ENVIRONMENT in names
    for name in names:
        with signature.allowed_signers(Environment.of_checkout(name)) as path:
            lines = path.read_text().splitlines()
        assert lines
        for line in lines:
            principal, options, key = line.split(" ", 2)
            (tmp_path / "key.pub").write_text(f"{key}\n")
            assert signature.fingerprint(tmp_path / "key.pub").startswith("SHA256:"), (name, principal)
            assert options == f'namespaces="{installer.NAMESPACE}"'


def test_a_source_that_was_altered_is_told_in_its_provenance(tmp_path: Path, dist: Path, alice: Path) -> None:
    made = packed(tmp_path / "content", tmp_path / "archive")
    source = replace(Source(VERSION, "abcdefabcdef", 0, "HEAD", "abcdefabcdef"), dirty=True)
    built = release.publish(made, source, {}, alice, began="", tree=ROOT)
    said = json.loads(built.path.with_name(f"longhaul-{VERSION}.provenance.json").read_text())
    material = said["predicate"]["buildDefinition"]["resolvedDependencies"][0]
    assert material["annotations"] == {"dirty": True}
