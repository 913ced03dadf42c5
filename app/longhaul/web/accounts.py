"""Who is asking: bearer tokens for programs, a signed cookie for browsers.

The name of an access token is the owner of the uploads made with it. A browser exchanges its token for a cookie once
(`/login`). The cookie names its token, so removing the token from the list ends the sessions too.

Tokens are long and random, so they cannot be guessed. An upload URL contains a key of its own: requests on it need no
token and still work after tokens were changed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from itsdangerous import BadSignature, URLSafeTimedSerializer
from starlette.requests import HTTPConnection
from starlette.responses import Response

from longhaul.settings import Settings, SettingsError

# A 3 GB upload on a 5 KB/s line takes a week; nobody should have to sign in again during it.
SESSION_SECONDS = 30 * 86400
# An older cookie is replaced by a new one with the full time: a user who comes once a month stays signed in.
RENEW_SECONDS = 86400
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# Characters of the token's hash in the cookie: enough to tell tokens apart, too few to be of other use.
_MARK_LENGTH = 16


class Authenticator(Protocol):
    """Recognises the user of a request."""

    def authenticate(self, connection: HTTPConnection) -> str | None:
        """Name of the user, or None."""


class AccessTokens:
    """Bearer tokens from the credential `access-tokens`: lines `name:sha256-of-the-token-in-hexadecimal`."""

    def __init__(self, text: str) -> None:
        """Raises SettingsError for a malformed line (blank ones and ones beginning with # are skipped)."""
        self._digests: list[tuple[str, bytes]] = []
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            match = re.fullmatch(r"([A-Za-z0-9._@-]+):([0-9a-f]{64})", line.strip())
            if match is None:
                raise SettingsError(
                    f"credential access-tokens, line {number}: expected name:sha256hex-of-token, one per line"
                )
            self._digests.append((match[1], bytes.fromhex(match[2])))

    @classmethod
    def from_settings(cls, settings: Settings) -> AccessTokens:
        """From the credential. Raises SettingsError if it is missing or malformed."""
        return cls(settings.required_credential("access-tokens"))

    def owner_of(self, token: str) -> str | None:
        """Name that belongs to a token, or None. The time does not depend on which line matches."""
        digest = hashlib.sha256(token.encode()).digest()
        found: str | None = None
        for name, known in self._digests:
            if hmac.compare_digest(digest, known):
                found = name
        return found

    def digests(self) -> dict[str, str]:
        """Hexadecimal SHA-256 of each token -> the name that belongs to it."""
        return {digest.hex(): name for name, digest in self._digests}

    def authenticate(self, connection: HTTPConnection) -> str | None:
        """Name of the bearer of the request's token, or None."""
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        return self.owner_of(token.strip()) if scheme.lower() == "bearer" else None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks. `mark` is the beginning of the token's hash. `issued` is when the session's cookie was signed (Unix
    time); None with a bearer token.
    """

    owner: str
    mark: str
    issued: float | None = None

    @property
    def by_cookie(self) -> bool:
        return self.issued is not None


class Accounts:
    """The access tokens and the sessions made from them."""

    def __init__(self, tokens: AccessTokens, secrets: list[str], *, public_url: str = "") -> None:
        """The first of `secrets` signs; all of them verify. Raises SettingsError if there is none."""
        if not secrets or not all(secrets):
            raise SettingsError("credential 'session-secret' is empty: put at least one line of random text into it")
        self._tokens = tokens
        self._owner_by_mark = {digest[:_MARK_LENGTH]: owner for digest, owner in tokens.digests().items()}
        # itsdangerous signs with the last of its keys.
        self._serializer = URLSafeTimedSerializer(
            list(reversed(secrets)),
            salt="longhaul session",
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )
        self._public = urlsplit(public_url)

    @classmethod
    def from_settings(cls, settings: Settings) -> Accounts:
        """From the credentials `access-tokens` and `session-secret`. Raises SettingsError."""
        secrets = [line.strip() for line in settings.required_credential("session-secret").splitlines()]
        return cls(
            AccessTokens.from_settings(settings),
            [line for line in secrets if line],
            public_url=settings.public_url,
        )

    def identify_token(self, token: str) -> Identity | None:
        """Whose access token this is, or None."""
        owner = self._tokens.owner_of(token.strip())
        if owner is None:
            return None
        return Identity(owner, hashlib.sha256(token.strip().encode()).hexdigest()[:_MARK_LENGTH])

    def identify(self, connection: HTTPConnection) -> Identity | None:
        """Who sent a request: its bearer token, else its cookie; None if neither is valid.

        If the bearer token is wrong, the cookie is not looked at.
        """
        if authorization := connection.headers.get("authorization"):
            scheme, _, token = authorization.partition(" ")
            return self.identify_token(token) if scheme.lower() == "bearer" else None
        cookie = connection.cookies.get(self.cookie_name(connection))
        return self._read_cookie(cookie) if cookie else None

    def authenticate(self, connection: HTTPConnection) -> str | None:
        """The owner for whom this request may act, or None (see `Authenticator`).

        Also None for a request with the cookie that changes something and comes from another site's page.
        """
        identity = self.identify(connection)
        if identity is None or (identity.by_cookie and self.is_forged(connection)):
            return None
        return identity.owner

    def is_forged(self, connection: HTTPConnection) -> bool:
        """Whether a changing request that a browser sent does not come from a page of this site."""
        if connection.scope.get("method", "GET") in SAFE_METHODS:
            return False
        if site := connection.headers.get("sec-fetch-site"):
            return site not in ("same-origin", "none")
        origin = urlsplit(connection.headers.get("origin", ""))
        hosts = {connection.headers.get("host"), self._public.netloc}
        return not origin.netloc or origin.netloc not in hosts

    def _read_cookie(self, cookie: str) -> Identity | None:
        try:
            content, signed_at = self._serializer.loads(cookie, max_age=SESSION_SECONDS, return_timestamp=True)
        except BadSignature:
            return None
        mark = content.get("mark") if isinstance(content, dict) else None
        owner = self._owner_by_mark.get(mark) if isinstance(mark, str) else None
        if owner is None or mark is None:
            return None
        return Identity(owner, mark, signed_at.timestamp())

    def secure(self, connection: HTTPConnection) -> bool:
        """Whether browsers reach this site by https."""
        return (self._public.scheme or connection.url.scheme) == "https"

    def cookie_name(self, connection: HTTPConnection) -> str:
        """With the `__Host-` prefix browsers refuse a cookie that another host or plain http tries to set."""
        return "__Host-longhaul" if self.secure(connection) else "longhaul"

    def sign_in(self, connection: HTTPConnection, response: Response, identity: Identity) -> None:
        """Give the browser the cookie of a session that lasts SESSION_SECONDS."""
        response.set_cookie(
            self.cookie_name(connection),
            self._serializer.dumps({"mark": identity.mark}),
            max_age=SESSION_SECONDS,
            path="/",
            secure=self.secure(connection),
            httponly=True,
            samesite="lax",
        )

    def renew(self, connection: HTTPConnection, response: Response, identity: Identity) -> None:
        """Extend the session if a part of its time has passed. Used by pages, so that their users stay signed in."""
        if identity.issued is not None and time.time() - identity.issued > RENEW_SECONDS:
            self.sign_in(connection, response, identity)

    def sign_out(self, connection: HTTPConnection, response: Response) -> None:
        """Delete the cookie."""
        response.delete_cookie(
            self.cookie_name(connection),
            path="/",
            secure=self.secure(connection),
            httponly=True,
            samesite="lax",
        )
