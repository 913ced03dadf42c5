"""Pages, API and live events over HTTP, as a browser or a program meets them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from http.client import HTTPResponse, IncompleteRead
from pathlib import Path
from typing import Any

import psycopg
import pytest

from longhaul.database import DatabaseUnavailable
from longhaul.feed import SHOWN
from longhaul.guard import trouble_of
from longhaul.processing.attempts import Attempts, Result, result_object
from longhaul.services import Services
from longhaul.stores.content import store_file
from longhaul.uploads.model import Upload
from ops import frontend
from tests.conftest import NewDatabase
from tests.support import Browser, make_settings, make_upload

APP = Path(__file__).parents[1]
TOKENS = {"ann": "token-of-ann", "bob": "token-of-bob"}
CONTENT = "".join(f"line {number}\n" for number in range(200_000)).encode()  # 2.2 MiB
BLOCK = 1 << 20
PIECE = 3 * BLOCK // 2


@dataclass
class Site:
    """A web process, and the database and store behind it."""

    url: str
    conninfo: str
    root: Path
    process: subprocess.Popen[bytes]

    def browser(self, owner: str | None = "ann") -> Browser:
        """Signed in by cookie; None: not signed in."""
        browser = Browser(self.url)
        if owner is not None:
            assert browser.sign_in(TOKENS[owner]).status == 303
        return browser

    def program(self, owner: str = "ann") -> Browser:
        """With a bearer token."""
        return Browser(self.url, token=TOKENS[owner])

    def sql(self, query: str, *values: Any) -> None:
        with psycopg.connect(self.conninfo) as connection:
            connection.execute(query.encode(), values)

    def uploaded(self, content: bytes = CONTENT, **metadata: str) -> str:
        """An upload of ann that has arrived; returns its id."""
        return self._with_services(lambda services: make_upload(services, content, piece=PIECE, **metadata))

    def processed(self, results: dict[str, bytes], content: bytes = b"content") -> str:
        """An upload of ann that is done, with those results; returns its id."""

        async def make(services: Services) -> Upload:
            upload = await make_upload(services, content)
            attempts = Attempts(services.database, worker="test", release="r1")
            attempt = await attempts.begin(upload.id, 1)
            assert attempt is not None
            made: list[Result] = []
            for name, data in results.items():
                path = self.root / "result"
                path.write_bytes(data)
                result_id = uuid.uuid4()
                object_name = result_object(upload.id, attempt.id, result_id)
                stored = await store_file(services.store, object_name, path)
                made.append(
                    Result(
                        id=result_id,
                        name=name,
                        size=stored.size,
                        sha256=stored.sha256,
                        content_type="text/plain",
                        digests=stored.digests,
                        object_name=object_name,
                    )
                )
            digest = hashlib.sha256(content).hexdigest()
            assert await attempts.publish(
                attempt, sha256=digest, media_type="text/plain", results=made, processors="p1"
            )
            return upload

        return self._with_services(make)

    def _with_services(self, work: Callable[[Services], Coroutine[Any, Any, Upload]]) -> str:
        async def run() -> str:
            services = Services.from_settings(make_settings(self.conninfo, self.root))
            try:
                return (await work(services)).id
            finally:
                await services.close()

        return asyncio.run(run())


@pytest.fixture(scope="module")
def site(new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    frontend.build()
    root = tmp_path_factory.mktemp("site")
    (root / "store").mkdir()
    (root / "credentials").mkdir()
    tokens = (f"{name}:{hashlib.sha256(token.encode()).hexdigest()}\n" for name, token in TOKENS.items())
    (root / "credentials" / "access-tokens").write_text("".join(tokens))
    (root / "credentials" / "session-secret").write_text("a secret of the tests\n")
    conninfo = new_database()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": str(APP),
        "CREDENTIALS_DIRECTORY": str(root / "credentials"),
        "LONGHAUL_DATABASE": conninfo,
        "LONGHAUL_STORE": f"directory:{root / 'store'}",
        "LONGHAUL_LISTEN": f"127.0.0.1:{port}",
        "LONGHAUL_SERVER": "test",
        "LONGHAUL_DRAIN_MARK": str(root / "drain"),
        "LONGHAUL_EPOCH_POLL_SECONDS": "0.1",
        "LONGHAUL_HANDOVER_SECONDS": "5",
    }
    with (root / "web.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "longhaul.cli", "web"], env=environment, stdout=log)
    made = Site(f"http://127.0.0.1:{port}", conninfo, root, process)
    try:
        _wait_until_healthy(made)
        yield made
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_healthy(site: Site) -> None:
    deadline = time.monotonic() + 40
    while True:
        try:
            if Browser(site.url).get("/healthz").status == 200:
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, (site.root / "web.log").read_text()
        assert site.process.poll() is None, (site.root / "web.log").read_text()
        time.sleep(0.1)


# Signing in


def test_pages_ask_to_sign_in_and_lead_back(site: Site) -> None:
    browser = site.browser(None)
    upload_id = site.uploaded(b"content")
    asked = browser.get(f"/uploads/{upload_id}")
    assert (asked.status, asked.headers["location"]) == (303, f"/login?next=%2Fuploads%2F{upload_id}")
    form = browser.get(asked.headers["location"])
    assert f'value="/uploads/{upload_id}"' in form.text
    answer = browser.sign_in(TOKENS["ann"], next=f"%2Fuploads%2F{upload_id}")
    assert (answer.status, answer.headers["location"]) == (303, f"/uploads/{upload_id}")
    assert browser.get(f"/uploads/{upload_id}").status == 200
    assert browser.get("/login").headers["location"] == "/"


def test_a_wrong_token_is_told_and_never_repeated(site: Site) -> None:
    browser = site.browser(None)
    answer = browser.sign_in("a-wrong-token")
    assert answer.status == 403
    assert "does not know that token" in answer.text
    assert "a-wrong-token" not in answer.text
    assert not browser.cookies
    assert "a-wrong-token" not in (site.root / "web.log").read_text()


def test_signing_out(site: Site) -> None:
    browser = site.browser()
    assert browser.get("/").status == 200
    assert browser.ask("POST", "/logout").headers["location"] == "/login"
    assert not browser.cookies
    assert browser.get("/").status == 303


def test_the_api_wants_a_token_or_a_session(site: Site) -> None:
    refused = site.browser(None).get("/api/uploads")
    assert refused.status == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert "access token" in refused.json["error"]
    assert site.browser().get("/api/uploads").status == 200
    assert site.program().get("/api/uploads").status == 200


def test_other_sites_cannot_act_for_a_user(site: Site) -> None:
    browser = site.browser()
    upload_id = site.uploaded(b"content")
    evil = {"Origin": "https://evil.example"}
    for method, path in (
        ("DELETE", f"/api/uploads/{upload_id}"),
        ("POST", f"/uploads/{upload_id}/remove"),
        ("POST", f"/uploads/{upload_id}/retry"),
        ("POST", "/logout"),
    ):
        assert browser.ask(method, path, headers=evil).status == 403
    assert browser.ask("POST", "/files/", headers=evil | {"Tus-Resumable": "1.0.0", "Upload-Length": "1"}).status in (
        401,
        403,
    )
    assert browser.get(f"/api/uploads/{upload_id}").json["state"] == "queued"


# One's own uploads, and nobody else's


def test_an_upload_from_the_browser_belongs_to_its_user(site: Site) -> None:
    browser = site.browser("bob")
    upload_id = browser.upload(b"some text\n", "notes.txt")
    answer = browser.get(f"/api/uploads/{upload_id}").json
    assert (answer["state"], answer["offset"], answer["filename"]) == ("queued", 10, "notes.txt")
    assert upload_id in [upload["id"] for upload in browser.get("/api/uploads").json["uploads"]]
    assert "notes.txt" in browser.get("/").text


def test_uploads_of_others_do_not_exist(site: Site) -> None:
    upload_id = site.processed({"report.txt": b"text"})
    bob = site.browser("bob")
    for method, path in (
        ("GET", f"/api/uploads/{upload_id}"),
        ("DELETE", f"/api/uploads/{upload_id}"),
        ("POST", f"/api/uploads/{upload_id}/retry"),
        ("GET", f"/api/uploads/{upload_id}/content"),
        ("GET", f"/api/uploads/{upload_id}/results/report.txt"),
        ("GET", f"/api/events?upload={upload_id}"),
        ("GET", f"/uploads/{upload_id}"),
        ("POST", f"/uploads/{upload_id}/remove"),
    ):
        answer = bob.ask(method, path)
        nothing = bob.ask(method, path.replace(upload_id, "a" * 16))
        assert answer.status == nothing.status == 404, path
        if path.startswith("/api"):
            assert answer.json == nothing.json
    assert upload_id not in bob.get("/").text
    assert site.browser().get(f"/api/uploads/{upload_id}").json["state"] == "done"


# The JSON of an upload


def test_the_json_of_a_finished_upload(site: Site) -> None:
    upload_id = site.processed({"report.txt": b"text", "a b.json": b"{}"})
    answer = site.program().get(f"/api/uploads/{upload_id}").json
    base = f"{site.url}/api/uploads/{upload_id}"
    assert answer["id"] == upload_id
    assert answer["state"] == "done"
    assert (answer["offset"], answer["size"]) == (7, 7)
    assert answer["sha256"] == hashlib.sha256(b"content").hexdigest()
    assert answer["progress"] == {"upload": 1.0, "processing": 1.0, "message": None}
    assert answer["content_url"] == f"{base}/content"
    assert answer["processed_by"] == {"worker": "test", "release": "r1", "processors": "p1"}
    assert answer["results"] == [
        {"name": name, "url": f"{base}/results/{quoted}", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, quoted, data in (("a b.json", "a%20b.json", b"{}"), ("report.txt", "report.txt", b"text"))
    ]
    assert site.program().get(f"/api/uploads/{upload_id}/results/a%20b.json").body == b"{}"


def test_an_unfinished_upload_has_no_content_yet(site: Site) -> None:
    program = site.program()
    upload_id = program.upload(b"x" * 1000, send=400)
    answer = program.get(f"/api/uploads/{upload_id}").json
    assert (answer["state"], answer["offset"], answer["content_url"]) == ("receiving", 400, None)
    assert answer["progress"]["upload"] == 0.4
    assert answer["processed_by"] is None
    refused = program.get(f"/api/uploads/{upload_id}/content")
    assert refused.status == 409
    assert "400 of 1000 bytes" in refused.json["error"]


# Downloads


def test_downloads_are_what_was_uploaded(site: Site) -> None:
    upload_id = site.uploaded()
    answer = site.program().get(f"/api/uploads/{upload_id}/content")
    assert answer.status == 200
    assert answer.body == CONTENT
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"].startswith("attachment;")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "sandbox" in answer.headers["content-security-policy"]
    head = site.program().ask("HEAD", f"/api/uploads/{upload_id}/content")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(CONTENT)))


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (0, 0),
        (0, len(CONTENT) - 1),
        (len(CONTENT) - 1, len(CONTENT) - 1),
        (BLOCK - 1, BLOCK),
        (PIECE - 1, PIECE),
        (PIECE, PIECE + 5),
        (5, PIECE + BLOCK // 2),
    ],
)
def test_parts_of_downloads(site: Site, first: int, last: int) -> None:
    upload_id = site.uploaded()
    answer = site.program().get(f"/api/uploads/{upload_id}/content", range=f"bytes={first}-{last}")
    assert answer.status == 206
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(CONTENT)}"
    assert answer.body == CONTENT[first : last + 1]


def test_downloads_go_on_only_with_the_same_content(site: Site) -> None:
    upload_id = site.uploaded(b"0123456789")
    path = f"/api/uploads/{upload_id}/content"
    program = site.program()
    etag = program.get(path).headers["etag"]
    assert program.get(path, range="bytes=4-", if_range=etag).body == b"456789"
    assert program.get(path, range="bytes=4-", if_range='"another"').body == b"0123456789"
    assert program.get(path, if_none_match=f'"x", {etag}').status == 304
    outside = program.get(path, range="bytes=10-")
    assert (outside.status, outside.headers["content-range"]) == (416, "bytes */10")


def test_an_empty_file_can_be_downloaded(site: Site) -> None:
    upload_id = site.uploaded(b"")
    answer = site.program().get(f"/api/uploads/{upload_id}/content")
    assert (answer.status, answer.body) == (200, b"")
    assert site.program().get(f"/api/uploads/{upload_id}/content", range="bytes=0-").status == 416


def test_damaged_content_is_never_handed_out_as_whole(site: Site) -> None:
    upload_id = site.uploaded()
    [second] = [
        path for path in (site.root / "store" / "uploads" / upload_id).iterdir() if f"{PIECE:016d}" in path.name
    ]
    damaged = bytearray(second.read_bytes())
    damaged[0] ^= 1
    second.write_bytes(damaged)
    program = site.program()
    with pytest.raises(IncompleteRead) as cut:
        program.get(f"/api/uploads/{upload_id}/content")
    assert CONTENT.startswith(cut.value.partial)
    # If the first block is already bad, there is still time to say so.
    refused = program.get(f"/api/uploads/{upload_id}/content", range=f"bytes={PIECE}-")
    assert refused.status == 500
    assert "damaged" in refused.json["error"]
    assert program.get(f"/api/uploads/{upload_id}/content", range=f"bytes=0-{PIECE - 1}").body == CONTENT[:PIECE]


# Deleting and retrying


def test_deleting(site: Site) -> None:
    upload_id = site.processed({"report.txt": b"text"})
    browser = site.browser()
    assert browser.ask("DELETE", f"/api/uploads/{upload_id}").status == 204
    answer = browser.get(f"/api/uploads/{upload_id}").json
    assert (answer["state"], answer["results"], answer["content_url"]) == ("terminated", [], None)
    assert browser.get(f"/api/uploads/{upload_id}/content").status == 409
    assert browser.get(f"/api/uploads/{upload_id}/results/report.txt").status == 404
    assert upload_id not in browser.get("/").text
    assert "Deleted" in browser.get(f"/uploads/{upload_id}").text
    assert browser.ask("DELETE", f"/api/uploads/{upload_id}").status == 410


def test_deleted_files_take_no_place_in_the_list(site: Site) -> None:
    """As many as a list has, all newer."""
    browser = site.browser("bob")
    upload_id = browser.upload(b"content", "kept.txt")
    site.sql(
        "insert into uploads select (jsonb_populate_record(kept, jsonb_build_object("
        "'id', lpad(number::text, 16, '0'), 'key', number, 'state', 'terminated', 'created_at', now()))).*"
        " from uploads as kept, generate_series(1, %s) as number where id = %s",
        SHOWN,
        upload_id,
    )
    assert "kept.txt" in browser.get("/").text
    assert upload_id in [upload["id"] for upload in browser.get("/api/uploads").json["uploads"]]


def test_a_failed_upload_says_why_and_can_be_retried(site: Site) -> None:
    upload_id = site.uploaded(b"content")
    site.sql("update uploads set state = 'failed', error = 'This is no WAV file.' where id = %s", upload_id)
    browser = site.browser()
    page = browser.get(f"/uploads/{upload_id}").text
    assert "This is no WAV file." in page
    assert "The uploaded file is kept" in page
    assert browser.get(f"/api/uploads/{upload_id}").json["error"] == "This is no WAV file."
    answer = browser.ask("POST", f"/uploads/{upload_id}/retry")
    assert (answer.status, answer.headers["location"]) == (303, f"/uploads/{upload_id}")
    assert browser.get(f"/api/uploads/{upload_id}").json["state"] == "queued"
    again = browser.ask("POST", f"/api/uploads/{upload_id}/retry")
    assert again.status == 409
    assert "this one is queued" in again.json["error"]


# Pages


def test_pages_load_nothing_from_elsewhere(site: Site) -> None:
    browser = site.browser()
    upload_id = site.processed({"report.txt": b"<script>alert(1)</script>"})
    for path in ("/", f"/uploads/{upload_id}"):
        answer = browser.get(path)
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r'(?:src|href)="(?!/|#)', answer.text)
        assert "<script>alert" not in answer.text
        assert " style=" not in answer.text
        assert " onclick=" not in answer.text
        for address in re.findall(r'(?:src|href)="(/static/[^"]+)"', answer.text):
            assert browser.get(address).status == 200


def test_names_of_files_are_only_text(site: Site) -> None:
    upload_id = site.program().upload(b"x", '<img src=x onerror="alert(1)">.txt')
    for path in ("/", f"/uploads/{upload_id}"):
        text = site.browser().get(path).text
        assert "<img src=x" not in text
        assert "&lt;img src=x" in text


def test_pages_work_without_scripts(site: Site) -> None:
    browser = site.browser()
    upload_id = site.uploaded(b"content")
    for path in ("/", f"/uploads/{upload_id}"):
        assert re.search(r'<noscript><meta http-equiv="refresh" content="\d+"></noscript>', browser.get(path).text)
    assert "Waiting for processing" in browser.get("/").text


def test_small_text_results_are_shown_on_the_page(site: Site) -> None:
    upload_id = site.processed({"report.txt": b"the answer is 42", "large.txt": b"x" * 70_000})
    page = site.browser().get(f"/uploads/{upload_id}").text
    assert "the answer is 42" in page
    assert "x" * 1000 not in page
    assert f'href="/api/uploads/{upload_id}/results/large.txt"' in page


def test_each_state_is_explained(site: Site) -> None:
    def page(upload_id: str) -> str:
        return site.browser().get(f"/uploads/{upload_id}").text

    begun = site.program().upload(b"x" * 1000, send=400)
    assert "Uploading" in page(begun)
    assert "40 % · 400 bytes of 1 KB" in page(begun)
    site.sql("update uploads set state = 'expired' where id = %s", begun)
    assert "stopped at 40 % and was not continued in time" in page(begun)
    arrived = site.uploaded(b"content")
    site.sql(
        "update uploads set state = 'processing', progress = %s where id = %s",
        '{"fraction": 0.42, "message": "Counting"}',
        arrived,
    )
    assert "42 % · Counting" in page(arrived)


def test_an_upload_that_nobody_sends_any_more_says_how_to_go_on(site: Site) -> None:
    upload_id = site.program().upload(b"x" * 1000, send=400)
    with psycopg.connect(site.conninfo.replace("user=longhaul", "user=postgres")) as connection:
        # Past the trigger that keeps the time of the last change.
        connection.execute("set session_replication_role = replica")
        connection.execute(
            "update uploads set updated_at = now() - interval '1 minute', receiver = null where id = %s", (upload_id,)
        )
    page = site.browser().get(f"/uploads/{upload_id}").text
    assert "Interrupted" in page
    assert "400 bytes are kept until" in page
    assert "choose the same file again" in page


def test_static_files_are_asked_for_again_each_time(site: Site) -> None:
    answer = site.browser(None).get("/static/app.js")
    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-cache"
    assert site.browser(None).get("/static/app.js", if_none_match=answer.headers["etag"]).status == 304
    assert site.browser(None).get("/static/../longhaul/cli.py").status == 404


def test_answers_carry_the_request_id(site: Site) -> None:
    answer = site.browser().get("/", x_request_id="request-from-the-balancer")
    assert answer.headers["x-request-id"] == "request-from-the-balancer"
    assert "request-from-the-balancer" in answer.text


# Live events


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
    assert all("ann" not in json.dumps(view) for view in stream.next()[1])
    site.uploaded(b"content")
    site.browser().upload(b"content of ann", "ann.txt")
    mine = bob.upload(b"content of bob", "bob.txt")
    assert stream.next()[1]["id"] == mine


def test_trouble_of_the_database_is_told_kindly() -> None:
    trouble = trouble_of(DatabaseUnavailable("no connection to 10.0.0.1"))
    assert trouble is not None
    assert trouble.status == 503
    assert trouble.headers["retry-after"]
    assert "Nothing is lost" in trouble.text
    assert "10.0.0.1" not in trouble.text


def test_streams_end_when_the_server_stops(site: Site, events: Any) -> None:
    """Last of this module: it stops the server."""
    stream = events(site.browser())
    stream.next()
    began = time.monotonic()
    site.process.terminate()
    # uvicorn ends by the signal that it was sent, after it has done everything else.
    assert site.process.wait(30) in (0, -signal.SIGTERM)
    assert time.monotonic() - began < 5
