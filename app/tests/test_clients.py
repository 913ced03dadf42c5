"""Clients as they come, and the programs of docs/clients.md as they stand there."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import aiotus
import psycopg
import pytest

from ops import frontend
from ops.paths import FRONTEND, ROOT
from tests.processes import LOGIN, MIB, TOKEN, Site, Web

LANGUAGES = {"sh": ("sh", ["bash", "-eu"]), "python": ("py", [sys.executable]), "js": ("mjs", [])}


def programs() -> dict[str, str]:
    """The programs of docs/clients.md, by language."""
    return dict(re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs" / "clients.md").read_text(), re.DOTALL))


def the_upload(where: Site, filename: str) -> dict[str, object]:
    """The row of the only upload of that name."""
    with psycopg.connect(where.conninfo, row_factory=psycopg.rows.dict_row) as connection:
        [row] = connection.execute("select * from uploads where filename = %s", (filename,)).fetchall()
    return row


def test_all_programs_of_the_page_are_run() -> None:
    assert set(programs()) == set(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_programs_that_we_show(web: Web, pair: Site, tmp_path: Path, language: str) -> None:
    # More than one part of theirs.
    data = os.urandom(50_000_000 + MIB)
    path = tmp_path / f"with blanks, from {language}.bin"
    path.write_bytes(data)
    suffix, command = LANGUAGES[language]
    if language == "js":
        frontend.install()
        command = [frontend.node()]
        (tmp_path / "node_modules").symlink_to(FRONTEND / "node_modules")
    program = tmp_path / f"program.{suffix}"
    program.write_text(programs()[language])
    environment = os.environ | {"SITE": web.url, "TOKEN": TOKEN, "FILE": str(path)}
    done = subprocess.run(
        [*command, str(program)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    upload = the_upload(pair, path.name)
    assert upload["expected_sha256"] == hashlib.sha256(data).hexdigest()
    assert upload["state"] == "queued"
    assert pair.content(str(upload["id"])) == data
    patches = [
        line for line in web.log() if line.get("path") == f"/files/-/{upload['id']}" and line["method"] == "PATCH"
    ]
    assert [line["status"] for line in patches] == [204, 204]


# aiohttp warns of how aiotus hands over its chunks; that is between these two.
@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
def test_aiotus_uploads(web: Web, pair: Site, tmp_path: Path) -> None:
    data = os.urandom(10 * MIB)
    path = tmp_path / "file.bin"
    path.write_bytes(data)

    async def send() -> str:
        with path.open("rb") as file:
            url = await aiotus.upload(f"{web.url}/files/", file, {"filename": b"aiotus.bin"}, headers=LOGIN)
        assert url is not None
        return str(url)

    url = asyncio.run(send())
    assert pair.content(url) == data
    assert pair.jobs(url) == 1
