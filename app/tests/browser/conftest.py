"""The application on this machine, a browser, and somebody who is signed in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright

from ops.local_app import LocalApp, running
from tests.browser.person import ARGUMENTS, Person, chromium


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalApp]:
    with running(tmp_path_factory.mktemp("app"), port=0) as local:
        yield local


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    started = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
    yield started
    started.close()


@pytest.fixture
def person(browser: Browser, app: LocalApp) -> Iterator[Person]:
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    somebody = Person(context, app)
    somebody.sign_in()
    yield somebody
    context.close()
    assert somebody.complaints == []
