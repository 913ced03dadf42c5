"""Secrets of an environment: generated for the lab, kept in ansible-vault everywhere else.

One file holds them, `inventories/<env>/group_vars/all/vault.yml`. The lab's is plain, generated at first use and
ignored by git; that of any other environment is encrypted with ansible-vault.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ops.environment import Environment
from ops.errors import Exit, Failure
from ops.inventories import LAB_ENVIRONMENT
from ops.paths import ROOT, tool
from ops.pki import create_authority

PASSWORD_VARIABLE = "LONGHAUL_VAULT_PASSWORD_FILE"  # noqa: S105 - the name of a variable
_VAULT_HEADER = b"$ANSIBLE_VAULT"


def _password() -> str:
    return secrets.token_urlsafe(32)


def _access_tokens() -> dict[str, str]:
    return {"operator": _password()}


# Every secret by name, and the function that makes it. Secrets with None are made together, in `generate`.
SECRETS: dict[str, Callable[[], Any] | None] = {
    "vault_postgresql_superuser_password": _password,
    "vault_postgresql_replication_password": _password,
    "vault_postgresql_rewind_password": _password,
    "vault_postgresql_app_password": _password,
    "vault_patroni_rest_password": _password,
    "vault_storage_app_key": _password,
    "vault_storage_hash_prefix": lambda: secrets.token_hex(16),
    "vault_storage_hash_suffix": lambda: secrets.token_hex(16),
    "vault_web_session_secrets": lambda: [_password()],
    "vault_web_access_tokens": _access_tokens,
    "vault_web_trace_key": _password,
    "vault_pki_ca_key": None,
    "vault_pki_ca_certificate": None,
    "vault_pki_next_ca_key": str,
    "vault_pki_next_ca_certificate": str,
    "vault_pki_old_ca_certificates": list,
    "vault_release_signing_key": None,
    "vault_release_signing_public_key": None,
}

# Secrets that data on disk depends on: a new value would make the data unreadable, so `secrets.rotate` refuses them.
PERMANENT = frozenset({"vault_storage_hash_prefix", "vault_storage_hash_suffix"})

# Secrets that change in steps, with all hosts in between: `secrets.rotate-ca`.
AUTHORITY = frozenset(
    {
        "vault_pki_ca_key",
        "vault_pki_ca_certificate",
        "vault_pki_next_ca_key",
        "vault_pki_next_ca_certificate",
        "vault_pki_old_ca_certificates",
    }
)

# Secrets of the lab alone: anywhere else people sign releases, with keys of their own.
LAB_ONLY = frozenset({"vault_release_signing_key", "vault_release_signing_public_key"})

# Sets of secrets that are always renewed together.
TOGETHER = (frozenset({"vault_release_signing_key", "vault_release_signing_public_key"}),)


def needed(environment: Environment) -> frozenset[str]:
    """The names of the secrets of an environment."""
    return frozenset(SECRETS) - (frozenset() if environment.is_lab else LAB_ONLY)


def generate(environment: Environment) -> dict[str, Any]:
    """A complete set of new secrets for an environment."""
    values = {name: make() for name, make in SECRETS.items() if make is not None}
    authority = create_authority(f"Longhaul {environment.name} CA")
    values["vault_pki_ca_key"], values["vault_pki_ca_certificate"] = authority
    if environment.is_lab:
        signing = _ssh_key(f"{environment.name} releases")
        values["vault_release_signing_key"], values["vault_release_signing_public_key"] = signing
    return values


def _ssh_key(comment: str) -> tuple[str, str]:
    """A new SSH key: the private one as OpenSSH keeps it, and the line of the public one."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private.decode(), f"{public.decode()} {comment}"


def ensure_lab() -> Environment:
    """Make the lab's secrets if there are none, or add those that are missing; returns the lab's environment, with
    which `read` returns them.
    """
    lab = Environment.of_checkout(LAB_ENVIRONMENT)
    present = _parse(lab.vault, _content(lab.vault).decode()) if lab.vault.is_file() else {}
    if not needed(lab) <= set(present):
        _write_private(lab.vault, _dump({**generate(lab), **present}))
    return lab


def made_up(path: Path, environment: Environment) -> str:
    """A complete vault for the rehearsal of an environment, not encrypted: the secrets in the file `path`, and new ones
    for what it lacks.
    """
    present = _parse(path, _content(path).decode()) if path.is_file() else {}
    missing = needed(environment) - set(present)
    return _dump({**generate(environment), **present} if missing else present)


def read(environment: Environment) -> dict[str, Any]:
    """All secrets of an environment, decrypted.

    Raises Failure if there is no vault, it cannot be opened, or it lacks a secret.
    """
    if environment.is_lab:
        ensure_lab()
    path = environment.vault
    if not path.is_file():
        raise Failure(
            f"The environment '{environment.name}' has no secrets yet ({path} is missing).",
            f"Run: ./inv secrets.init --env={environment.name}",
            Exit.BAD_CONFIGURATION,
        )
    values = _parse(path, _decrypt(environment, path))
    missing = sorted(needed(environment) - set(values))
    if missing:
        raise Failure(
            f"{path} lacks {', '.join(missing)}.",
            f"Run: ./inv secrets.init --env={environment.name} (it adds what is missing and keeps the rest).",
            Exit.BAD_CONFIGURATION,
        )
    return values


def initialise(environment: Environment) -> list[str]:
    """Make the vault of an environment, or add the secrets it lacks; returns the names that were added."""
    path = environment.vault
    present: dict[str, Any] = _parse(path, _decrypt(environment, path)) if path.is_file() else {}
    added = sorted(needed(environment) - set(present))
    if added:
        _store(environment, {**generate(environment), **present})
    return added


def rotate(environment: Environment, names: list[str]) -> None:
    """Replace secrets by new ones; the next deploy brings them to the hosts.

    Secrets of one set (TOGETHER) are renewed together. Raises Failure for names that are unknown or must never change,
    and for secrets of the certificate authority.
    """
    unknown = sorted(set(names) - needed(environment))
    if unknown or not names:
        raise Failure(
            f"Unknown secret: {', '.join(unknown)}." if unknown else "Name at least one secret to rotate.",
            f"Secrets: {', '.join(sorted(needed(environment) - PERMANENT - AUTHORITY))}.",
            Exit.USAGE,
        )
    permanent = sorted(set(names) & PERMANENT)
    if permanent:
        raise Failure(
            f"{', '.join(permanent)} can never change: without it, stored files could not be found.",
            code=Exit.USAGE,
        )
    stepwise = sorted(set(names) & AUTHORITY)
    if stepwise:
        raise Failure(
            f"{', '.join(stepwise)} cannot change at once: hosts would no longer trust each other.",
            f"Run: ./inv secrets.rotate-ca --env={environment.name}",
            Exit.USAGE,
        )
    values = read(environment)
    new = generate(environment)
    chosen = set(names).union(*(group for group in TOGETHER if group & set(names)))
    if "vault_web_session_secrets" in chosen:  # the first one signs; the others verify older sessions
        new["vault_web_session_secrets"] += values["vault_web_session_secrets"][:2]
    _store(environment, {**values, **{name: new[name] for name in chosen}})


def replace(environment: Environment, new: Mapping[str, Any]) -> None:
    """Write these secrets into the vault; the others stay as they are."""
    _store(environment, {**read(environment), **new})


def edit(environment: Environment) -> None:
    """Open the vault of an environment in $EDITOR."""
    if environment.is_lab:
        ensure_lab()
    path = environment.vault
    if not environment.is_real:
        command = [os.environ.get("EDITOR", "vi"), str(path)]
    else:
        read(environment)
        command = [tool("ansible-vault"), "edit", *_password_arguments(environment), str(path)]
    subprocess.run(command, cwd=ROOT, check=True)


def ansible_arguments(environment: Environment) -> list[str]:
    """Arguments that let ansible-playbook open the vault of an environment; none for the lab."""
    return _password_arguments(environment) if environment.is_real else []


def _password_arguments(environment: Environment) -> list[str]:
    given = os.environ.get(PASSWORD_VARIABLE)
    path = Path(given) if given else ROOT / f".vault-password-{environment.name}"
    if not path.is_file():
        raise Failure(
            f"The password of the vault of '{environment.name}' is not known: {path} does not exist.",
            f"Write the password into it (mode 0600; git ignores it), or name another file in {PASSWORD_VARIABLE}.",
            Exit.BAD_CONFIGURATION,
        )
    return ["--vault-password-file", str(path)]


def _decrypt(environment: Environment, path: Path) -> str:
    content = _content(path)
    if not content.startswith(_VAULT_HEADER):
        if not environment.is_real:
            return content.decode()
        raise Failure(
            f"{path} is not encrypted.",
            f"Encrypt it first: ansible-vault encrypt {path}",
            Exit.BAD_CONFIGURATION,
        )
    answer = subprocess.run(
        [tool("ansible-vault"), "view", *_password_arguments(environment), str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        raise Failure(
            f"{path} cannot be opened: {answer.stderr.strip().splitlines()[-1]}",
            f"Check the password file (variable {PASSWORD_VARIABLE} or .vault-password-{environment.name}).",
            Exit.BAD_CONFIGURATION,
        )
    return answer.stdout


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Failure(
            f"{path} cannot be read: {error.strerror}.",
            "Run the same command as the owner of the file, or as root: sudo ./inv ...",
            Exit.NO_PERMISSION,
        ) from error


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise Failure(f"{path} is not YAML: {error}", code=Exit.BAD_CONFIGURATION) from error
    if not isinstance(values, dict):
        raise Failure(f"{path} must be a mapping of names to values.", code=Exit.BAD_CONFIGURATION)
    unknown = sorted(set(values) - set(SECRETS))
    if unknown:
        raise Failure(
            f"{path}: unknown secret {', '.join(unknown)}.",
            f"Known: {', '.join(sorted(SECRETS))}.",
            Exit.BAD_CONFIGURATION,
        )
    return values


def _dump(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump({name: values[name] for name in SECRETS if name in values}, sort_keys=False)


def _store(environment: Environment, values: Mapping[str, Any]) -> None:
    path = environment.vault
    if not environment.is_real:
        _write_private(path, _dump(values))
        return
    arguments = _password_arguments(environment)
    with tempfile.TemporaryDirectory(prefix="longhaul-vault-") as directory:  # mode 0700
        draft = Path(directory) / "vault.yml"
        _write_private(draft, _dump(values))
        subprocess.run(
            [tool("ansible-vault"), "encrypt", *arguments, str(draft)], cwd=ROOT, check=True, capture_output=True
        )
        _write_private(path, draft.read_text())


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(text)
    temporary.replace(path)
