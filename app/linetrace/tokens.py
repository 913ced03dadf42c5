"""Signed tokens that ask for the tracing of one request: an operator's own `curl` sends one in a header.

A token is `PAYLOAD.SIGNATURE`, both in base64url (RFC 4648, section 5): JSON with the environment and the end of its
validity, and an HMAC-SHA256 of it (RFC 2104). It gives no right but this one, and is not a secret of a user.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import getpass
import hashlib
import hmac
import json
import sys
import time
from typing import NamedTuple

HEADER = "x-linetrace"
SHORTEST_KEY = 16
LONGEST_SECONDS = 86_400
_PURPOSE = b"linetrace token, version 1\0"
_LONGEST = 1_000


class TokenRefused(Exception):
    """A token that is not valid here and now. The text says why."""


class Grant(NamedTuple):
    """What a valid token holds: who asked, and when it expires (seconds since 1970)."""

    by: str
    expires: float


def make(key: bytes, environment: str, *, seconds: float = 600, by: str = "", now: float | None = None) -> str:
    """A token for an environment, valid for some seconds. Raises ValueError for a short key or a long validity."""
    if not 0 < seconds <= LONGEST_SECONDS:
        raise ValueError(f"a token is valid for at most {LONGEST_SECONDS} s, not {seconds}")
    expires = (time.time() if now is None else now) + seconds
    payload = json.dumps({"environment": environment, "expires": round(expires, 3), "by": by[:100]}).encode()
    return f"{_encoded(payload)}.{_encoded(_signature(key, payload))}"


def check(key: bytes, environment: str, token: str, *, now: float | None = None) -> Grant:
    """What a token grants. Raises TokenRefused if it is altered, expired or for another environment."""
    if len(token) > _LONGEST or not token.isascii():
        raise TokenRefused("the token is not one of ours")
    head, _, tail = token.partition(".")
    try:
        payload, signature = _decoded(head), _decoded(tail)
    except (binascii.Error, ValueError) as error:
        raise TokenRefused("the token is not one of ours") from error
    # The signature first: nothing of a payload that somebody else wrote is looked at.
    if not hmac.compare_digest(signature, _signature(key, payload)):
        raise TokenRefused("the token was altered, or signed with another key")
    values = json.loads(payload)
    if values["environment"] != environment:
        raise TokenRefused(f"the token is for the environment {values['environment']}, this is {environment}")
    if values["expires"] <= (time.time() if now is None else now):
        raise TokenRefused("the token has expired")
    return Grant(values["by"], values["expires"])


def main(words: list[str]) -> int:
    """The command `python -m linetrace token`: prints a token. Returns its exit code: 0, or 2 for wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m linetrace token",
        description=f"Make a token for the header {HEADER}. The key comes through standard input.",
    )
    parser.add_argument("environment", help="the environment that the token is for")
    parser.add_argument("--seconds", type=float, default=600, metavar="N", help="how long it is valid (%(default)s)")
    parser.add_argument("--by", default=getpass.getuser(), help="who asks (%(default)s)")
    given = parser.parse_args(words)
    try:
        token = make(sys.stdin.buffer.read().strip(), given.environment, seconds=given.seconds, by=given.by)
    except ValueError as error:
        print(f"linetrace: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print(token)  # noqa: T201
    return 0


def _signature(key: bytes, payload: bytes) -> bytes:
    if len(key) < SHORTEST_KEY:
        raise ValueError(f"a key has at least {SHORTEST_KEY} bytes")
    return hmac.new(key, _PURPOSE + payload, hashlib.sha256).digest()


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _encoded(data) != text:
        raise ValueError("not the only way to write these bytes")
    return data
