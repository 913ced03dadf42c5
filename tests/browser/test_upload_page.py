"""The real page in a real browser, through the virtual IP: sign in, upload, watch, be cut off, see the result."""

from __future__ import annotations

import time
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect

from ops.paths import ARTEFACTS
from tests.support.chromium import chromium
from tests.support.clients import random_file
from tests.support.site import Site

SHOTS = ARTEFACTS / "browser"
SIZE = 60_000_000
WINDOW: ViewportSize = {"width": 1200, "height": 800}


def shot(page: Page, name: str) -> None:
    """Keep a picture of the page."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")


def signed_in(browser: Browser, url: str, token: str) -> Page:
    """The landing page in a browser profile of its own, after signing in with the token."""
    context: BrowserContext = browser.new_context(viewport=WINDOW)
    page = context.new_page()
    page.goto(f"{url}/")
    page.get_by_label("Access token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Your files")).to_be_visible()
    return page


def percent(page: Page, filename: str) -> float:
    """How far the bar of a file's upload is, 0 to 100."""
    bar = page.get_by_role("row").filter(has_text=filename).get_by_role("progressbar", name="Upload")
    return float(bar.get_attribute("value") or 0)


def watch(page: Page, filename: str, above: float, seconds: float) -> list[float]:
    """The different positions of the bar until it is above `above`."""
    deadline = time.monotonic() + seconds
    seen = [percent(page, filename)]
    while seen[-1] <= above:
        assert time.monotonic() < deadline, f"the bar did not pass {above} % in {seconds:.0f} s: {seen}"
        page.wait_for_timeout(50)
        now = percent(page, filename)
        if now != seen[-1]:
            seen.append(now)
    return seen


def test_upload_page(site: Site, tmp_path: Path) -> None:
    """A person signs in, chooses a file, sees it go up, loses the connection for a moment, and sees the result."""
    file = tmp_path / f"holiday-{time.time_ns()}.bin"
    sha256 = random_file(file, SIZE, seed=8)
    with site.line("browser", "40mbit") as line, chromium(tmp_path, site.ca_file, line.inside) as browser:
        page = signed_in(browser, site.url, site.token)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        row = page.get_by_role("row").filter(has_text=file.name)
        badge = row.locator("[data-field=state]")

        page.get_by_label("Choose files").set_input_files(file)
        expect(badge).to_have_text("Uploading", timeout=10_000)
        seen = watch(page, file.name, 30, 60)
        shot(page, "1-uploading")
        assert len(seen) >= 5, f"the bar jumped: {seen}"
        assert seen == sorted(seen)

        # Another window of the same person, on another device: the landing page has it, and it moves there too.
        other = signed_in(browser, site.url, site.token)
        elsewhere = watch(other, file.name, percent(other, file.name), 30)
        shot(other, "2-elsewhere")
        assert elsewhere[-1] < 100

        line.cut()
        expect(badge).to_have_text("Reconnecting", timeout=20_000)
        expect(row.locator("[data-field=hint]")).to_contain_text("What the server has stored is kept")
        shot(page, "3-cut-off")
        line.mend()
        expect(badge).to_have_text("Uploading", timeout=20_000)

        # Complete, processed and done without a reload.
        expect(badge).to_have_text("Done", timeout=90_000)
        shot(page, "4-done")
        assert not problems, problems

        other.reload()
        expect(other.get_by_role("row").filter(has_text=file.name)).to_contain_text("Done")
        other.get_by_role("link", name=file.name).click()
        expect(other.get_by_role("heading", name=file.name)).to_be_visible()
        expect(other.get_by_text(sha256, exact=True)).to_be_visible()
        expect(other.get_by_label("Content of report.txt")).to_contain_text(sha256)
        expect(other.get_by_role("heading", name="Results")).to_be_visible()
        shot(other, "5-result")
        with other.expect_download() as downloading:
            other.get_by_role("link", name="Download the file").click()
        downloaded = downloading.value.path()
        assert downloaded.read_bytes() == file.read_bytes()


def test_wrong_token(site: Site, tmp_path: Path) -> None:
    """The page says that the token is not known, and lets nobody in."""
    with chromium(tmp_path, site.ca_file) as browser:
        page = browser.new_context(viewport=WINDOW).new_page()
        page.goto(f"{site.url}/")
        page.get_by_label("Access token").fill("not-a-token")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_be_visible()
        shot(page, "6-wrong-token")
        page.goto(f"{site.url}/")
        expect(page.get_by_label("Access token")).to_be_visible()
