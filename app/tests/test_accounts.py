"""Who is let in: tokens, sessions, changed keys, and requests from other sites."""

from __future__ import annotations

import hashlib
import time

import pytest
from starlette.requests import Request
from starlette.responses import Response

from longhaul.settings import SettingsError
from longhaul.web import accounts
from longhaul.web.accounts import RENEW_SECONDS, SESSION_SECONDS, AccessTokens, Accounts, Identity
from longhaul.web.guard import to_login
from longhaul.web.pages import local_path


def line(name: str, token: str) -> str:
    return f"{name}:{hashlib.sha256(token.encode()).hexdigest()}\n"


TOKENS = line("ann", "token-of-ann") + line("bob", "token-of-bob")


def make(tokens: str = TOKENS, secrets: list[str] | None = None, public_url: str = "https://files.example") -> Accounts:
    return Accounts(AccessTokens(tokens), secrets or ["first secret"], public_url=public_url)


def request(method: str = "GET", path: str = "/", **headers: str) -> Request:
    sent = {"host": "files.example"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(
        {
            "type": "http",
            "method": method,
            "scheme": "https",
            "server": ("files.example", 443),
            "path": path,
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        }
    )


def session(known: Accounts, token: str = "token-of-ann") -> str:
    """The Cookie header of a browser that signed in with the token."""
    identity = known.identify_token(token)
    assert identity is not None
    response = Response()
    known.sign_in(request(), response, identity)
    return response.headers["set-cookie"].partition(";")[0]


def test_a_token_names_its_owner() -> None:
    assert make().authenticate(request(authorization="Bearer token-of-bob")) == "bob"
    assert make().authenticate(request(authorization="bearer  token-of-bob ")) == "bob"
    assert make().authenticate(request(authorization="Bearer token-of-eve")) is None
    assert make().authenticate(request(authorization="Basic token-of-bob")) is None
    assert make().authenticate(request()) is None


def test_a_session_names_its_owner() -> None:
    known = make()
    assert known.authenticate(request(cookie=session(known))) == "ann"


def test_a_wrong_token_is_not_made_good_by_a_session() -> None:
    known = make()
    assert known.authenticate(request(cookie=session(known), authorization="Bearer wrong")) is None


def test_the_cookie_cannot_be_read_by_scripts_or_sent_in_the_clear() -> None:
    response = Response()
    make().sign_in(request(), response, Identity("ann", "0" * 16))
    cookie = response.headers["set-cookie"]
    assert cookie.startswith("__Host-longhaul=")
    assert "Secure" in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Path=/" in cookie
    assert f"Max-Age={SESSION_SECONDS}" in cookie


def test_without_https_the_cookie_works_too() -> None:
    known = make(public_url="http://127.0.0.1:8080")
    cookie = session(known)
    assert cookie.startswith("longhaul=")
    assert known.authenticate(request(cookie=cookie)) == "ann"


def test_a_forged_cookie_is_refused() -> None:
    known = make()
    stranger = make(secrets=["another secret"])
    assert known.authenticate(request(cookie=session(stranger))) is None
    assert known.authenticate(request(cookie=session(known)[:-2])) is None
    assert known.authenticate(request(cookie="__Host-longhaul=rubbish")) is None


def test_the_signing_secret_can_be_changed_without_ending_sessions() -> None:
    old = session(make(secrets=["old"]))
    changing = make(secrets=["new", "old"])
    assert changing.authenticate(request(cookie=old)) == "ann"
    # New sessions are signed with the first one: they survive the removal of the old.
    assert make(secrets=["new"]).authenticate(request(cookie=session(changing))) == "ann"
    assert make(secrets=["new"]).authenticate(request(cookie=old)) is None


def test_taking_a_token_away_ends_its_sessions() -> None:
    cookie = session(make())
    assert make(tokens=line("bob", "token-of-bob")).authenticate(request(cookie=cookie)) is None
    assert make(tokens=line("ann", "another token")).authenticate(request(cookie=cookie)) is None


def test_a_session_ends_after_its_time_and_is_prolonged_by_visits(monkeypatch: pytest.MonkeyPatch) -> None:
    known = make()
    cookie = session(known)
    began = time.time()

    def later(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: began + seconds)

    later(SESSION_SECONDS + 5)
    assert known.authenticate(request(cookie=cookie)) is None
    later(RENEW_SECONDS / 2)
    fresh = known.identify(request(cookie=cookie))
    assert fresh is not None
    unchanged = Response()
    known.renew(request(), unchanged, fresh)
    assert "set-cookie" not in unchanged.headers
    later(SESSION_SECONDS - 60)
    visitor = known.identify(request(cookie=cookie))
    assert visitor is not None
    renewed = Response()
    known.renew(request(), renewed, visitor)
    later(SESSION_SECONDS + 60)
    assert known.authenticate(request(cookie=renewed.headers["set-cookie"].partition(";")[0])) == "ann"


@pytest.mark.parametrize(
    ("headers", "owner"),
    [
        ({"origin": "https://files.example"}, "ann"),
        ({"sec_fetch_site": "same-origin"}, "ann"),
        ({"origin": "https://evil.example"}, None),
        ({"origin": "null"}, None),
        ({"sec_fetch_site": "cross-site"}, None),
        ({"sec_fetch_site": "same-site", "origin": "https://files.example"}, None),
        ({}, None),
    ],
)
def test_a_page_of_another_site_cannot_act_for_the_user(headers: dict[str, str], owner: str | None) -> None:
    known = make()
    assert known.authenticate(request("POST", "/files/", cookie=session(known), **headers)) == owner


def test_programs_need_no_origin() -> None:
    assert make().authenticate(request("POST", "/files/", authorization="Bearer token-of-ann")) == "ann"


def test_a_link_to_the_login_page_cannot_lead_elsewhere() -> None:
    assert local_path("/uploads/abc?x=1") == "/uploads/abc?x=1"
    for target in ("//evil.example", "https://evil.example", "/\\evil.example", "evil", "/a\nb", ""):
        assert local_path(target) == "/"


def test_the_login_page_leads_back() -> None:
    assert to_login(request(path="/uploads/abc")).headers["location"] == "/login?next=%2Fuploads%2Fabc"
    assert to_login(request(path="/")).headers["location"] == "/login"


def test_without_a_secret_nothing_starts() -> None:
    with pytest.raises(SettingsError, match="session-secret"):
        accounts.Accounts(AccessTokens(TOKENS), [])
