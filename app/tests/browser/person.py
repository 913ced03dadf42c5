"""Somebody in front of a browser."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from ops.local_app import LocalApp
from ops.paths import ARTEFACTS

ARGUMENTS = [
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 60_000


def chromium() -> str:
    """Path of the browser; fails if there is none."""
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("Chromium is missing: apt-get install chromium")
    return path


class Person:
    """Somebody in front of a browser of their own."""

    def __init__(self, context: BrowserContext, app: LocalApp) -> None:
        self.app = app
        self.context = context
        self.complaints: list[str] = []
        self.page = self.tab()

    def tab(self) -> Page:
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        # An error in a script, or something that the content security policy refused.
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "console",
            lambda line: self.complaints.append(line.text) if "Content Security Policy" in line.text else None,
        )
        page.on("dialog", lambda dialog: dialog.accept())
        return page

    def sign_in(self) -> None:
        self.page.goto(self.app.url)
        self.page.get_by_label("Access token").fill(self.app.token)
        self.page.get_by_role("button", name="Sign in").click()
        self.see_live()

    def see_live(self) -> None:
        expect(self.page.locator("#live")).to_have_text("live", timeout=PATIENCE_MS)

    def line(self, bytes_per_second: float) -> None:
        """How fast this page may send."""
        session = self.context.new_cdp_session(self.page)
        session.send("Network.enable")
        session.send(
            "Network.emulateNetworkConditions",
            {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": bytes_per_second},
        )

    def choose(self, *paths: Path) -> None:
        self.page.set_input_files("#files", list(paths))

    def row(self, filename: str) -> Locator:
        return self.page.locator("#rows tr").filter(has_text=filename)

    def rows_in_state(self, filename: str, text: str) -> Locator:
        """Those of the rows with that name whose badge says this."""
        badge = self.page.locator('[data-field="state"]', has_text=re.compile(f"^{text}$"))
        return self.row(filename).filter(has=badge)

    def see_state(self, filename: str, text: str) -> None:
        expect(self.row(filename).locator('[data-field="state"]')).to_have_text(text, timeout=PATIENCE_MS)

    def see_upload(self, filename: str, percent: int) -> None:
        """Wait until at least so much is shown as sent."""
        self.see_upload_of(self.row(filename), percent)

    def see_upload_of(self, row: Locator, percent: int) -> None:
        """The same of one of several rows."""
        bar = row.locator('progress[data-field="upload"]')
        self.page.wait_for_function(
            "([bar, percent]) => bar.value >= percent", arg=[bar.element_handle(), percent], timeout=PATIENCE_MS
        )

    def see_offset(self, filename: str, least: int) -> dict[str, Any]:
        """Wait until the server has at least so much of the one upload of that name; what the API says of it."""
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while True:
            [upload] = [upload for upload in self.uploads() if upload["filename"] == filename]
            if upload["offset"] >= least or time.monotonic() > deadline:
                break
            self.page.wait_for_timeout(100)
        assert upload["offset"] >= least
        return upload

    def see_expected(self, filename: str, sha256: str) -> None:
        """Wait until the server knows what the one file of that name must be."""
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while [upload["expected_sha256"] for upload in self.uploads() if upload["filename"] == filename] != [sha256]:
            assert time.monotonic() < deadline, "the page did not tell what the whole file is"
            self.page.wait_for_timeout(50)

    def offset_of(self, upload_id: object) -> int:
        """Where the server says an upload stands."""
        [offset] = [upload["offset"] for upload in self.uploads() if upload["id"] == upload_id]
        return int(offset)

    def watch_offsets(self) -> list[str]:
        """A list to which the offset of each PATCH of this page will be added."""
        offsets: list[str] = []
        self.page.on(
            "request",
            lambda request: offsets.append(request.headers["upload-offset"]) if request.method == "PATCH" else None,
        )
        return offsets

    def uploads(self) -> list[dict[str, Any]]:
        """What the API says of the same user's uploads."""
        answer = self.context.request.get(f"{self.app.url}/api/uploads")
        assert answer.ok
        found: list[dict[str, Any]] = answer.json()["uploads"]
        return found

    def photograph(self, name: str) -> None:
        (ARTEFACTS / "app").mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=ARTEFACTS / "app" / f"{name}.png", full_page=True)


def file(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path
