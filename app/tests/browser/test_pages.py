"""The real pages in Debian's Chromium, against web and worker on this machine: what a person does and sees.

Screenshots are kept in artefacts/app/.
"""

from __future__ import annotations

import hashlib
import random
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from ops.local_app import LocalApp, running
from tests.browser.person import Person, file

SLOW = 6_000_000
"""Bytes a second of a slow line: the uploads below then take a few seconds."""
CONTENT = random.Random(5).randbytes(24_000_000)  # noqa: S311  # the same bytes in each run


def test_a_person_uploads_files_and_reads_the_results(person: Person, tmp_path: Path) -> None:
    person.line(SLOW)
    person.choose(file(tmp_path, "big.bin", CONTENT), file(tmp_path, "notes.txt", b"three short words\n"))
    person.see_state("notes.txt", "Done")
    person.see_upload("big.bin", 10)
    expect(person.row("big.bin").locator('[data-field="upload_text"]')).to_have_text(
        re.compile(r"\d+ % · .* of 24 MB · .*/s · about .* left")
    )
    person.photograph("uploading")
    # Somebody else's window of the same user shows it too.
    window = person.tab()
    window.goto(person.app.url)
    expect(window.locator("#rows tr").filter(has_text="big.bin")).to_be_visible()
    window.close()
    person.line(-1)
    person.see_state("big.bin", "Done")
    person.photograph("done")
    person.page.get_by_role("link", name="big.bin").click()
    digest = hashlib.sha256(CONTENT).hexdigest()
    expect(person.page.locator(".facts")).to_contain_text(digest)
    expect(person.page.locator("pre")).to_contain_text(digest)
    with person.page.expect_download() as download:
        person.page.get_by_role("link", name="Download the file").click()
    assert download.value.suggested_filename == "big.bin"
    assert Path(download.value.path()).read_bytes() == CONTENT
    person.photograph("file")


def test_pausing_and_going_on(person: Person, tmp_path: Path) -> None:
    person.line(SLOW)
    person.choose(file(tmp_path, "paused.bin", CONTENT))
    person.see_upload("paused.bin", 15)
    row = person.row("paused.bin")
    row.get_by_role("button", name="Pause").click()
    person.see_state("paused.bin", "Paused")
    row.get_by_role("button", name="Resume").click()
    person.line(-1)
    person.see_state("paused.bin", "Done")
    assert_one_upload(person, "paused.bin")


def test_after_closing_the_page_the_same_file_goes_on(person: Person, tmp_path: Path) -> None:
    path = file(tmp_path, "reloaded.bin", CONTENT)
    person.line(SLOW)
    person.choose(path)
    person.see_upload("reloaded.bin", 25)
    person.page.reload()
    person.see_live()
    # The server stores what came before the cut when it notices that.
    upload = person.see_offset("reloaded.bin", 1_000_000)
    offsets = person.watch_offsets()
    person.line(-1)
    person.choose(path)
    person.see_state("reloaded.bin", "Done")
    assert offsets[0] == str(upload["offset"])
    assert_one_upload(person, "reloaded.bin")


def test_a_crash_of_the_server_does_not_end_an_upload(person: Person, tmp_path: Path) -> None:
    person.line(SLOW)
    person.choose(file(tmp_path, "crashed.bin", CONTENT))
    person.see_upload("crashed.bin", 20)
    person.app.stop("web", kill=True)
    person.see_state("crashed.bin", "Reconnecting")
    expect(person.page.locator("#live")).to_have_text("reconnecting…")
    person.photograph("reconnecting")
    person.app.start("web")
    person.line(-1)
    person.see_state("crashed.bin", "Done")
    person.see_live()
    assert_one_upload(person, "crashed.bin")


def test_a_connection_that_is_dead_without_a_word_is_replaced(browser: Browser, tmp_path: Path) -> None:
    settings = {"LONGHAUL_HEAD_HOLD_SECONDS": "3"}
    with running(tmp_path / "app", port=0, settings=settings) as app:
        context = browser.new_context()
        person = Person(context, app)
        person.sign_in()
        person.line(SLOW)
        person.choose(file(tmp_path, "frozen.bin", CONTENT))
        person.see_upload("frozen.bin", 20)
        app.processes["web"].send_signal(signal.SIGSTOP)
        person.see_state("frozen.bin", "Reconnecting")
        expect(person.row("frozen.bin")).to_contain_text("No bytes get through")
        app.processes["web"].send_signal(signal.SIGCONT)
        person.line(-1)
        person.see_state("frozen.bin", "Done")
        assert_one_upload(person, "frozen.bin")
        context.close()


def assert_one_upload(person: Person, filename: str) -> None:
    """The file was uploaded once, and is what was sent."""
    [upload] = [upload for upload in person.uploads() if upload["filename"] == filename]
    assert upload["sha256"] == hashlib.sha256(CONTENT).hexdigest()


def test_cancelling_and_deleting(person: Person, tmp_path: Path) -> None:
    person.line(SLOW)
    person.choose(file(tmp_path, "cancelled.bin", CONTENT), file(tmp_path, "deleted.txt", b"text"))
    person.see_state("deleted.txt", "Done")
    person.row("deleted.txt").get_by_role("button", name="Delete").click()
    expect(person.row("deleted.txt")).to_have_count(0)
    person.see_upload("cancelled.bin", 5)
    person.row("cancelled.bin").get_by_role("button", name="Cancel").click()
    expect(person.row("cancelled.bin")).to_have_count(0)
    person.page.reload()
    person.see_live()
    assert not {"cancelled.bin", "deleted.txt"} & {upload["filename"] for upload in person.uploads()}


def test_signing_out_and_in_again(person: Person, tmp_path: Path) -> None:
    person.choose(file(tmp_path, "kept.txt", b"text"))
    person.see_state("kept.txt", "Done")
    person.page.get_by_role("button", name="Sign out").click()
    expect(person.page.get_by_label("Access token")).to_be_visible()
    person.page.goto(f"{person.app.url}/uploads/anything")
    person.page.get_by_label("Access token").fill("not the token")
    person.page.get_by_role("button", name="Sign in").click()
    expect(person.page.get_by_role("alert")).to_contain_text("does not know that token")
    person.photograph("refused")
    person.page.get_by_label("Access token").fill(person.app.token)
    person.page.get_by_role("button", name="Sign in").click()
    # Back to where the person wanted to go, which does not exist.
    expect(person.page.get_by_role("heading", name="Not found")).to_be_visible()
    person.page.get_by_role("link", name="To the list of files").click()
    person.see_state("kept.txt", "Done")


def test_by_another_name_of_the_site(browser: Browser, app: LocalApp, tmp_path: Path) -> None:
    context = browser.new_context()
    person = Person(context, replace(app, url=app.url.replace("127.0.0.1", "localhost")))
    person.sign_in()
    person.choose(file(tmp_path, "named.txt", b"text"))
    person.see_state("named.txt", "Done")
    context.close()
    assert person.complaints == []


def test_a_file_that_is_too_large_is_told_before_it_is_sent(person: Person, tmp_path: Path) -> None:
    path = tmp_path / "huge.bin"
    with path.open("wb") as sparse:
        sparse.truncate(9 << 30)
    person.choose(path)
    expect(person.page.locator("#notice")).to_contain_text("huge.bin")
    expect(person.row("huge.bin")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Browser, app: LocalApp, scheme: Any) -> None:
    context = browser.new_context(
        viewport={"width": 360, "height": 740}, device_scale_factor=2, is_mobile=True, color_scheme=scheme
    )
    owner = Person(context, app)
    owner.sign_in()
    for path in ("/", owner.page.locator("#rows th a").first.get_attribute("href")):
        owner.page.goto(f"{app.url}{path}")
        assert owner.page.evaluate("document.documentElement.scrollWidth") <= 360
        owner.photograph(f"phone-{scheme}-{'list' if path == '/' else 'file'}")
    context.close()


def test_without_scripts_the_page_shows_the_state(browser: Browser, app: LocalApp) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(app.url)
    page.fill("#token", app.token)
    page.click("button.primary")
    expect(page.locator("#rows")).to_contain_text("Done")
    # Chromium does not render this when a debugger has switched scripts off, so the source has to do.
    assert "it cannot upload" in page.content()
    assert page.locator('head meta[http-equiv="refresh"]').count() == 1
    context.close()
