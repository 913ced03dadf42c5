"""Settings, tokens, log lines and migrations: what a wrong value gives, and that the message says what to do."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from pathlib import Path

import psycopg
import pytest
from starlette.requests import HTTPConnection

from longhaul import cli, logs, schema
from longhaul.settings import Settings, SettingsError, installed_release
from longhaul.web.accounts import AccessTokens
from longhaul.web.server import without_key
from tests.conftest import NewDatabase

MINIMUM = {"LONGHAUL_DATABASE": "host=data1", "LONGHAUL_STORE": "directory:/store"}


def test_settings_come_from_the_environment() -> None:
    settings = Settings.from_environment(
        MINIMUM | {"LONGHAUL_PIECE_BYTES": "1048576", "LONGHAUL_IDLE_SECONDS": "12.5", "LONGHAUL_LISTEN": "[::1]:99"}
    )
    assert (settings.piece_bytes, settings.idle_seconds, settings.listen_address()) == (1048576, 12.5, ("::1", 99))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DATABASE", "", "set LONGHAUL_DATABASE"),
        ("STORE", "", "set LONGHAUL_STORE"),
        ("STORE", "s3:bucket", "expected directory:/path or swift:"),
        ("STORE", "directory:relative", "expected directory:/path"),
        ("PIECE_BYTES", "many", "expected a positive whole number"),
        ("PIECE_BYTES", "1.5", "expected a positive whole number"),
        ("IDLE_SECONDS", "-1", "expected a positive number"),
        ("IDLE_SECONDS", "inf", "expected a positive number"),
        ("PIECE_SECONDS", "50", "at most 45"),
        ("LISTEN", "8080", "expected host:port"),
        ("LISTEN", "host:99999", "expected host:port"),
        ("TLS_CERT", "/cert", "or neither"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        Settings.from_environment(MINIMUM | {f"LONGHAUL_{name}": value})
    assert name in str(caught.value)


def test_credentials(tmp_path: Path) -> None:
    (tmp_path / "good").write_text("secret\n")
    (tmp_path / "binary").write_bytes(b"\xff")
    settings = Settings.from_environment(MINIMUM | {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert settings.required_credential("good") == "secret"
    assert settings.credential("missing") is None
    with pytest.raises(SettingsError, match="LoadCredential"):
        settings.required_credential("missing")
    with pytest.raises(SettingsError, match="cannot be read"):
        settings.credential("binary")


def test_the_command_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("LONGHAUL_DATABASE", raising=False)
    monkeypatch.delenv("LONGHAUL_STORE", raising=False)
    assert cli.main(["web"]) == cli.CONFIGURATION
    assert "LONGHAUL_DATABASE" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        cli.main(["fly"])
    assert caught.value.code == cli.USAGE


def connection(authorization: str | None) -> HTTPConnection:
    headers = [] if authorization is None else [(b"authorization", authorization.encode())]
    return HTTPConnection({"type": "http", "headers": headers})


def test_access_tokens() -> None:
    lines = [f"{name}:{hashlib.sha256(token.encode()).hexdigest()}" for name, token in [("ann", "1"), ("bob", "2")]]
    tokens = AccessTokens("# who may upload\n\n" + "\n".join(lines))
    assert [tokens.authenticate(connection(f"Bearer {token}")) for token in "123"] == ["ann", "bob", None]
    assert tokens.authenticate(connection("bearer 2")) == "bob"
    for wrong in (None, "", "Basic 1", "Bearer", "1"):
        assert tokens.authenticate(connection(wrong)) is None
    for line in ("ann", "ann:short", "a b:" + "0" * 64, ":" + "0" * 64):
        with pytest.raises(SettingsError, match="line 2"):
            AccessTokens(f"#\n{line}")


def test_log_lines_are_json_with_the_bound_ids() -> None:
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    handler.setFormatter(logs.JsonFormatter("web1"))
    log = logging.Logger("test")
    log.addHandler(handler)
    with logs.bound(request_id="r", upload_id=None):
        with logs.bound(upload_id="u", job_id=7):
            log.info("two\nlines %s", "ü", extra={"length": 3})
            assert logs.bound_ids() == {"request_id": "r", "upload_id": "u", "job_id": "7"}
        try:
            raise ValueError("broken")
        except ValueError:
            log.exception("failed")
    first, second = [json.loads(line) for line in output.getvalue().splitlines()]
    wanted = {"message": "two\nlines ü", "level": "info", "server": "web1", "request_id": "r", "job_id": "7"}
    assert wanted.items() <= first.items()
    assert first["length"] == 3
    assert first["time"].endswith("+00:00")
    assert "ValueError: broken" in second["exception"]
    assert "upload_id" not in second, "no longer bound"


def test_keys_are_taken_out_of_paths() -> None:
    assert without_key("/files/secret/u1") == "/files/-/u1"
    assert without_key("/files/") == "/files/"
    assert without_key("/uploads/u1") == "/uploads/u1"


@pytest.mark.parametrize(
    ("path", "release"),
    [
        ("/opt/longhaul/releases/20260101T000000-abc/venv/lib/longhaul/settings.py", "20260101T000000-abc"),
        ("/home/ann/longhaul/app/longhaul/settings.py", "development"),
        ("/releases", "development"),
    ],
)
def test_code_knows_its_release_by_its_path(path: str, release: str) -> None:
    assert installed_release(Path(path)) == release


def test_every_revision_declares_its_phase_and_all_form_one_line() -> None:
    revisions = list(schema.scripts().walk_revisions())
    assert revisions
    assert len(schema.scripts().get_heads()) == 1
    assert {schema.phase_of(revision) for revision in revisions} <= {"expand", "contract"}


def test_migrating_twice_changes_nothing_and_an_unknown_revision_is_refused(new_database: NewDatabase) -> None:
    settings = Settings(database=new_database(), store="directory:/nowhere")
    assert schema.migrate(settings) == []
    assert schema.migrate(settings, "contract", ["0001"]) == []
    with psycopg.connect(settings.database) as database:
        database.execute("update alembic_version set version_num = 'from the future'")
    with pytest.raises(schema.MigrationError, match="deploy a release that has it"):
        schema.migrate(settings)
