"""Secrets: complete, private, never a default, and clear about what is wrong with a vault."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from ops import secrets
from ops.errors import Exit, Failure

SITE = "staging"


@pytest.fixture(autouse=True)
def _inventories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "INVENTORIES", tmp_path)
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, str(password))


def test_lab_secrets_are_made_once_and_private() -> None:
    path = secrets.ensure_lab()
    first = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert set(yaml.safe_load(first)) == set(secrets.SECRETS)
    assert secrets.ensure_lab().read_text() == first


def test_lab_secrets_gain_what_a_newer_version_needs() -> None:
    path = secrets.ensure_lab()
    values = yaml.safe_load(path.read_text())
    del values["vault_storage_app_key"]
    path.write_text(yaml.safe_dump(values))
    again = yaml.safe_load(secrets.ensure_lab().read_text())
    assert again["vault_storage_app_key"]
    assert {name: again[name] for name in values} == values


def test_no_two_sites_share_a_secret() -> None:
    one, two = secrets.generate("a"), secrets.generate("b")
    empty = ["vault_pki_next_ca_key", "vault_pki_next_ca_certificate", "vault_pki_old_ca_certificates"]
    assert [name for name in one if one[name] == two[name]] == empty


def test_vault_is_encrypted_and_reads_back() -> None:
    assert set(secrets.initialise(SITE)) == secrets.needed(SITE)
    path = secrets.vault_path(SITE)
    assert path.read_bytes().startswith(b"$ANSIBLE_VAULT")
    assert set(secrets.read(SITE)) == secrets.needed(SITE)
    assert secrets.initialise(SITE) == []


def test_rotation_replaces_one_secret_only() -> None:
    secrets.initialise(SITE)
    before = secrets.read(SITE)
    secrets.rotate(SITE, ["vault_storage_app_key"])
    after = secrets.read(SITE)
    assert [name for name in before if before[name] != after[name]] == ["vault_storage_app_key"]


@pytest.mark.parametrize("name", sorted(secrets.AUTHORITY))
def test_the_authority_does_not_change_in_one_step(name: str) -> None:
    before = secrets.read("lab")
    with pytest.raises(Failure, match="cannot change in one step") as caught:
        secrets.rotate("lab", [name])
    assert "secrets.rotate-ca" in caught.value.hint
    assert secrets.read("lab") == before


def test_people_sign_releases_everywhere_but_in_the_lab() -> None:
    assert secrets.needed("lab") - secrets.needed(SITE) == secrets.LAB_ONLY
    assert not secrets.LAB_ONLY & set(secrets.generate(SITE))
    with pytest.raises(Failure, match="Unknown secret"):
        secrets.rotate(SITE, sorted(secrets.LAB_ONLY))


def test_the_labs_signing_key_is_a_pair_and_changes_as_one(tmp_path: Path) -> None:
    before = secrets.read("lab")
    secrets.rotate("lab", ["vault_release_signing_public_key"])
    after = secrets.read("lab")
    assert all(after[name] != before[name] for name in secrets.LAB_ONLY)
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text(after["vault_release_signing_key"])
    said = subprocess.run(["ssh-keygen", "-y", "-f", key], capture_output=True, text=True, check=True).stdout
    assert after["vault_release_signing_public_key"].split()[:2] == said.split()[:2]


def test_rotation_of_the_session_secret_keeps_people_logged_in() -> None:
    before = secrets.read("lab")["vault_web_session_secrets"]
    secrets.rotate("lab", ["vault_web_session_secrets"])
    after = secrets.read("lab")["vault_web_session_secrets"]
    assert after[0] != before[0]
    assert before[0] in after


def test_secrets_that_files_are_found_by_cannot_change() -> None:
    with pytest.raises(Failure, match="can never change"):
        secrets.rotate("lab", ["vault_storage_hash_suffix"])


def test_unknown_secret_is_refused() -> None:
    with pytest.raises(Failure, match="Unknown secret: vault_nonsense"):
        secrets.rotate("lab", ["vault_nonsense"])


def test_missing_vault_says_how_to_make_it() -> None:
    with pytest.raises(Failure) as caught:
        secrets.read(SITE)
    assert f"secrets.init --env={SITE}" in caught.value.hint
    assert caught.value.code == Exit.BAD_CONFIGURATION


def test_wrong_password_is_said(tmp_path: Path) -> None:
    secrets.initialise(SITE)
    (tmp_path / "password").write_text("wrong\n")
    with pytest.raises(Failure, match="cannot be opened"):
        secrets.read(SITE)


def test_missing_password_file_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secrets.initialise(SITE)
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(Failure, match="is not known"):
        secrets.read(SITE)


@pytest.mark.parametrize("environment", ["lab", SITE])
def test_unreadable_vault_is_said(environment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets.initialise(environment)
    path = secrets.vault_path(environment)

    def refuse(self: Path) -> bytes:  # what root would be allowed whatever the mode says
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(Failure) as caught:
        secrets.read(environment)
    assert f"{path} cannot be read: Permission denied" in caught.value.message
    assert "sudo" in caught.value.hint
    assert caught.value.code == Exit.NO_PERMISSION


def test_plain_vault_is_refused_outside_the_lab() -> None:
    path = secrets.vault_path(SITE)
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(secrets.generate(SITE)))
    with pytest.raises(Failure, match="is not encrypted"):
        secrets.read(SITE)


def test_incomplete_vault_names_what_is_missing() -> None:
    path = secrets.ensure_lab()
    path.write_text("vault_unheard_of: 1\n")
    with pytest.raises(Failure, match="unknown secret vault_unheard_of"):
        secrets.read("lab")
