"""Live events, as the pages hear them."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

import pytest

from tests.served import Site
from tests.support import Browser


class Events:
    """A browser's EventSource."""

    def __init__(self, browser: Browser, query: str = "") -> None:
        self._connection = browser.connect()
        self._connection.request("GET", f"/api/events{query}", headers=browser.headers("GET"))
        self.response: HTTPResponse = self._connection.getresponse()
        assert self.response.status == 200
        assert self.response.headers["content-type"].startswith("text/event-stream")

    def next(self) -> tuple[str, Any]:
        """Name and data of the next event."""
        name = ""
        while True:
            line = self.response.readline().decode()
            assert line, "the stream has ended"
            field, _, value = line.rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                return name, json.loads(value)

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def events(site: Site) -> Iterator[Any]:
    opened: list[Events] = []

    def open_events(browser: Browser, query: str = "") -> Events:
        opened.append(Events(browser, query))
        return opened[-1]

    yield open_events
    for stream in opened:
        stream.close()


def test_events_begin_with_what_there_is_and_go_on_with_what_changes(site: Site, events: Any) -> None:
    browser = site.browser()
    before = site.uploaded(b"content")
    stream = events(browser)
    name, everything = stream.next()
    assert name == "all"
    assert before in [view["id"] for view in everything]
    created = browser.upload(b"x" * 1000, send=400)
    seen: list[dict[str, Any]] = []
    while not seen or seen[-1]["upload_percent"] != 40.0:
        name, one = stream.next()
        assert name == "one"
        if one["id"] == created:
            seen.append(one)
    assert seen[-1]["state_text"] == "Uploading"
    # A browser that reconnects, to whichever server, begins anew with everything.
    name, everything = events(browser).next()
    assert {before, created} <= {view["id"] for view in everything}


def test_events_of_one_upload(site: Site, events: Any) -> None:
    upload_id = site.uploaded(b"content")
    stream = events(site.browser(), f"?upload={upload_id}")
    assert [view["id"] for view in stream.next()[1]] == [upload_id]
    site.uploaded(b"content")
    site.sql("update uploads set state = 'failed', error = 'No.' where id = %s", upload_id)
    name, one = stream.next()
    assert (name, one["id"], one["state"]) == ("one", upload_id, "failed")
    assert one["hint"].startswith("No.")


def test_nobody_hears_of_the_uploads_of_others(site: Site, events: Any) -> None:
    bob = site.browser("bob")
    stream = events(bob)
    assert stream.next() == ("all", [])
    site.uploaded(b"content")
    site.browser().upload(b"content of ann", "ann.txt")
    mine = bob.upload(b"content of bob", "bob.txt")
    assert stream.next()[1]["id"] == mine


def test_streams_end_when_the_server_stops(site: Site, events: Any) -> None:
    """Last of this module: it stops the server."""
    stream = events(site.browser())
    stream.next()
    began = time.monotonic()
    site.process.terminate()
    # uvicorn ends by the signal that it was sent, after it has done everything else.
    assert site.process.wait(30) in (0, -signal.SIGTERM)
    assert time.monotonic() - began < 5
