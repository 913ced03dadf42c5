"""Who one is, and that one's uploads are nobody else's."""

from __future__ import annotations

from tests.served import TOKENS, Site


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
