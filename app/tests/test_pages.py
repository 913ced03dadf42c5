"""Pages: what they say of each upload, and what can be done there."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import psycopg
from starlette.types import Message

from longhaul.web.feed import SHOWN
from longhaul.web.routes import Static
from tests.served import Site


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


def test_another_script_of_the_same_size_and_time_is_another_one(tmp_path: Path) -> None:
    """As two releases have them: all files of a release carry the time of its commit."""

    def ask(content: bytes, **headers: str) -> tuple[int, dict[str, str], bytes]:
        path = tmp_path / "app.js"
        path.write_bytes(content)
        os.utime(path, (1e9, 1e9))
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/app.js",
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        }
        messages: list[Message] = []

        async def send(message: Message) -> None:
            messages.append(message)

        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        asyncio.run(Static(directory=tmp_path)(scope, receive, send))
        fields = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
        return messages[0]["status"], fields, b"".join(message.get("body", b"") for message in messages)

    status, first, _ = ask(b"one();")
    assert (status, first["content-type"].split(";")[0]) == (200, "text/javascript")
    assert ask(b"one();", if_none_match=f'"x", W/{first["etag"]}')[0] == 304
    second = b"two();"
    assert ask(second, if_none_match=first["etag"])[::2] == (200, second)
    assert ask(second, if_modified_since="Fri, 01 Jan 2100 00:00:00 GMT")[::2] == (200, second)
    assert ask(second, range="bytes=0-1", if_range=first.get("last-modified", first["etag"]))[::2] == (200, second)


def test_answers_carry_the_request_id(site: Site) -> None:
    answer = site.browser().get("/", x_request_id="request-from-the-balancer")
    assert answer.headers["x-request-id"] == "request-from-the-balancer"
    assert "request-from-the-balancer" in answer.text
