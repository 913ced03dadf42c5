"""Who may create uploads and see them.

An upload URL carries a key of its own, so requests on it need nothing from here and outlive a change of tokens.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Protocol

from starlette.requests import HTTPConnection

from longhaul.settings import Settings, SettingsError


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
        """Name that belongs to a token, or None. Takes the same time whichever line matches."""
        digest = hashlib.sha256(token.encode()).digest()
        found: str | None = None
        for name, known in self._digests:
            if hmac.compare_digest(digest, known):
                found = name
        return found

    def digests(self) -> dict[str, str]:
        """Hexadecimal SHA-256 of each token -> the name that belongs to it."""
        return {digest.hex(): name for name, digest in self._digests}

    def names(self) -> set[str]:
        """All names that have a token; a session of a name that is no longer here is over."""
        return {name for name, _ in self._digests}

    def authenticate(self, connection: HTTPConnection) -> str | None:
        """Name of the bearer of the request's token, or None."""
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        return self.owner_of(token.strip()) if scheme.lower() == "bearer" else None
