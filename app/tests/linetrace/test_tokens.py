"""A token asks for the tracing of one request: refused if it is altered, expired or for another environment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linetrace import tokens

KEY = b"k" * 32
NOW = 1_800_000_000.0


def test_a_token_says_who_asks_and_until_when() -> None:
    token = tokens.make(KEY, "prod", seconds=60, by="ann", now=NOW)
    assert tokens.check(KEY, "prod", token, now=NOW + 59) == ("ann", NOW + 60)
    assert token.isascii()
    assert all(letter.isalnum() or letter in "-_." for letter in token)


@pytest.mark.parametrize(
    ("key", "environment", "later", "reason"),
    [
        (KEY, "prod", 60, "expired"),
        (KEY, "staging", 1, "for the environment prod, this is staging"),
        (b"x" * 32, "prod", 1, "altered, or signed with another key"),
    ],
)
def test_refused(key: bytes, environment: str, later: float, reason: str) -> None:
    token = tokens.make(KEY, "prod", seconds=60, now=NOW)
    with pytest.raises(tokens.TokenRefused, match=reason):
        tokens.check(key, environment, token, now=NOW + later)


@given(st.data())
def test_any_change_of_a_token_is_refused(data: st.DataObject) -> None:
    token = tokens.make(KEY, "prod", seconds=60, now=NOW)
    at = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from("".join({*"abcXYZ019-_.=ä "} - {token[at]})))
    with pytest.raises(tokens.TokenRefused):
        tokens.check(KEY, "prod", token[:at] + letter + token[at + 1 :], now=NOW)


@given(st.text(max_size=200))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(tokens.TokenRefused):
        tokens.check(KEY, "prod", text, now=NOW)


def test_keys_and_validity_have_limits() -> None:
    with pytest.raises(ValueError, match="at least 16 bytes"):
        tokens.make(b"short", "prod")
    with pytest.raises(ValueError, match="at most 86400 s"):
        tokens.make(KEY, "prod", seconds=10**6)
