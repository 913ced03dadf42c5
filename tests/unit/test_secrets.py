"""Secrets: complete, private, never a default, and clear about what is wrong with a vault."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from ops import environment, secrets
from ops.environment import Environment, Kind
from ops.errors import Exit, Failure


@pytest.fixture(autouse=True)
def _inventories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "INVENTORIES", tmp_path)
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, str(password))


@pytest.fixture
def lab() -> Environment:
    """The lab, with its secrets."""
    return secrets.ensure_lab()


@pytest.fixture
def site(tmp_path: Path) -> Environment:
    """An environment of real hosts, without secrets yet."""
    return Environment("staging", tmp_path / "staging", Kind.REAL)


def test_lab_secrets_are_made_once_and_private() -> None:
    path = secrets.ensure_lab().vault
    first = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert set(yaml.safe_load(first)) == set(secrets.SECRETS)
    assert secrets.ensure_lab().vault.read_text() == first


def test_lab_secrets_gain_what_a_newer_version_needs() -> None:
    path = secrets.ensure_lab().vault
    values = yaml.safe_load(path.read_text())
    del values["vault_storage_app_key"]
    path.write_text(yaml.safe_dump(values))
    again = yaml.safe_load(secrets.ensure_lab().vault.read_text())
    assert again["vault_storage_app_key"]
    assert {name: again[name] for name in values} == values


def test_no_two_sites_share_a_secret() -> None:
    one, two = (secrets.generate(Environment(name, Path("/nowhere"), Kind.REAL)) for name in "ab")
    empty = ["vault_pki_next_ca_key", "vault_pki_next_ca_certificate", "vault_pki_old_ca_certificates"]
    assert [name for name in one if one[name] == two[name]] == empty


def test_vault_is_encrypted_and_reads_back(site: Environment) -> None:
    assert set(secrets.initialise(site)) == secrets.needed(site)
    path = site.vault
    assert path.read_bytes().startswith(b"$ANSIBLE_VAULT")
    assert set(secrets.read(site)) == secrets.needed(site)
    assert secrets.initialise(site) == []


def test_rotation_replaces_one_secret_only(site: Environment) -> None:
    secrets.initialise(site)
    before = secrets.read(site)
    secrets.rotate(site, ["vault_storage_app_key"])
    after = secrets.read(site)
    assert [name for name in before if before[name] != after[name]] == ["vault_storage_app_key"]


@pytest.mark.parametrize("name", sorted(secrets.AUTHORITY))
def test_the_authority_does_not_change_in_one_step(lab: Environment, name: str) -> None:
    before = secrets.read(lab)
    with pytest.raises(Failure, match="cannot change at once") as caught:
        secrets.rotate(lab, [name])
    assert "secrets.rotate-ca" in caught.value.hint
    assert secrets.read(lab) == before


def test_people_sign_releases_everywhere_but_in_the_lab(lab: Environment, site: Environment) -> None:
    assert secrets.needed(lab) - secrets.needed(site) == secrets.LAB_ONLY
    assert not secrets.LAB_ONLY & set(secrets.generate(site))
    with pytest.raises(Failure, match="Unknown secret"):
        secrets.rotate(site, sorted(secrets.LAB_ONLY))


def test_the_labs_signing_key_is_a_pair_and_changes_as_one(lab: Environment, tmp_path: Path) -> None:
    before = secrets.read(lab)
    secrets.rotate(lab, ["vault_release_signing_public_key"])
    after = secrets.read(lab)
    assert all(after[name] != before[name] for name in secrets.LAB_ONLY)
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text(after["vault_release_signing_key"])
    said = subprocess.run(["ssh-keygen", "-y", "-f", key], capture_output=True, text=True, check=True).stdout
    assert after["vault_release_signing_public_key"].split()[:2] == said.split()[:2]


def test_rotation_of_the_session_secret_keeps_people_logged_in(lab: Environment) -> None:
    before = secrets.read(lab)["vault_web_session_secrets"]
    secrets.rotate(lab, ["vault_web_session_secrets"])
    after = secrets.read(lab)["vault_web_session_secrets"]
    assert after[0] != before[0]
    assert before[0] in after


def test_secrets_that_files_are_found_by_cannot_change(lab: Environment) -> None:
    with pytest.raises(Failure, match="can never change"):
        secrets.rotate(lab, ["vault_storage_hash_suffix"])


def test_unknown_secret_is_refused(lab: Environment) -> None:
    with pytest.raises(Failure, match="Unknown secret: vault_nonsense"):
        secrets.rotate(lab, ["vault_nonsense"])


def test_missing_vault_says_how_to_make_it(site: Environment) -> None:
    with pytest.raises(Failure) as caught:
        secrets.read(site)
    assert f"secrets.init --env={site.name}" in caught.value.hint
    assert caught.value.code == Exit.BAD_CONFIGURATION


def test_wrong_password_is_said(site: Environment, tmp_path: Path) -> None:
    secrets.initialise(site)
    (tmp_path / "password").write_text("wrong\n")
    with pytest.raises(Failure, match="cannot be opened"):
        secrets.read(site)


def test_missing_password_file_is_said(site: Environment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secrets.initialise(site)
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(Failure, match="is not known"):
        secrets.read(site)


@pytest.mark.parametrize("kind", ["lab", "site"])
def test_unreadable_vault_is_said(kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    environment: Environment = request.getfixturevalue(kind)
    secrets.initialise(environment)
    path = environment.vault

    def refuse(self: Path) -> bytes:  # what root would be allowed whatever the mode says
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(Failure) as caught:
        secrets.read(environment)
    assert f"{path} cannot be read: Permission denied" in caught.value.message
    assert "sudo" in caught.value.hint
    assert caught.value.code == Exit.NO_PERMISSION


def test_plain_vault_is_refused_outside_the_lab(site: Environment) -> None:
    path = site.vault
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(secrets.generate(site)))
    with pytest.raises(Failure, match="is not encrypted"):
        secrets.read(site)


def test_incomplete_vault_names_what_is_missing(lab: Environment) -> None:
    path = secrets.ensure_lab().vault
    path.write_text("vault_unheard_of: 1\n")
    with pytest.raises(Failure, match="unknown secret vault_unheard_of"):
        secrets.read(lab)
