"""What all pages and the API have in common: who may ask, how errors are answered, and protective headers.

An endpoint is an `async def endpoint(request, identity) -> Response`. It raises `Trouble`, or an error of the domain.
`Guard.page` and `Guard.api` make a Starlette endpoint of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

import linetrace
from longhaul import logs
from longhaul.database import DatabaseUnavailable
from longhaul.stores.interface import Corrupt, StoreError
from longhaul.uploads.model import Gone, NotFound
from longhaul.web.accounts import SAFE_METHODS, Accounts, Identity

log = logs.get(__name__)

type Endpoint = Callable[[Request, Identity], Awaitable[Response]]
type Handler = Callable[[Request], Awaitable[Response]]

# Retry-After while the database or the store is unreachable.
RETRY_SECONDS = 5
# Pause between the tries of this process before it answers so.
PAUSE_SECONDS = 0.2
HEADERS = {
    # Only content of this site is loaded: a script or picture in a file's name loads nothing.
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "private, no-cache",
}


class Trouble(Exception):
    """An answer other than success. `text` says what happened and what to do."""

    def __init__(self, status: int, title: str, text: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.title = title
        self.text = text
        self.headers = headers or {}


def trouble_of(error: Exception) -> Trouble | None:
    """The answer to an error of the domain, the database or the store. None for an error in the program."""
    match error:
        case Trouble():
            return error
        case NotFound():
            # Not the error's own text: it would tell whether another user has such an upload.
            return Trouble(404, "Not found", "You have no such file. Check the address, or look at the list of files.")
        case Gone():
            return Trouble(410, "Gone", "This file was deleted or has expired. Upload it again if you need it.")
        case Corrupt():
            return Trouble(
                500,
                "Damaged",
                "The stored copy of this file is damaged, so it cannot be downloaded. Upload the file again, and tell"
                " the people who run this site.",
            )
        case DatabaseUnavailable() | StoreError():
            return Trouble(
                503,
                "One moment",
                "The servers behind this page are being switched over. Nothing is lost, and uploads continue by"
                " themselves. Reload the page in a few seconds.",
                headers={"retry-after": str(RETRY_SECONDS)},
            )
    return None


class Guard:
    """Wraps endpoints. `message` renders a page for people from (request, identity, title, text).

    A request that only reads waits up to `patience` seconds for an unreachable database: as long as a switchover takes.
    """

    def __init__(
        self,
        accounts: Accounts,
        message: Callable[[Request, Identity | None, Trouble], Response],
        *,
        patience: float,
    ) -> None:
        self.accounts = accounts
        self._message = message
        self._patience = patience

    def page(self, endpoint: Endpoint) -> Handler:
        """For people. A user who is not signed in is sent to the login page. Errors are pages."""

        async def handle(request: Request) -> Response:
            identity = self.accounts.identify(request)
            if identity is None:
                return self._finish(request, None, to_login(request))
            return await self._answer(request, identity, endpoint, self._message)

        return handle

    def public_page(self, endpoint: Callable[[Request, Identity | None], Awaitable[Response]]) -> Handler:
        """For people who may not be signed in."""

        async def handle(request: Request) -> Response:
            return await self._answer(request, self.accounts.identify(request), endpoint, self._message)

        return handle

    def api(self, endpoint: Endpoint) -> Handler:
        """For programs and the page's script. Errors are JSON, `{"error": text}`."""

        async def handle(request: Request) -> Response:
            identity = self.accounts.identify(request)
            if identity is None:
                trouble = Trouble(
                    401,
                    "Sign in",
                    "Send an access token (Authorization: Bearer ...), or sign in on the page /login.",
                    headers={"www-authenticate": "Bearer"},
                )
                return self._finish(request, None, as_json(request, None, trouble))
            return await self._answer(request, identity, endpoint, as_json)

        return handle

    async def _answer[I: (Identity, Identity | None)](
        self,
        request: Request,
        identity: I,
        endpoint: Callable[[Request, I], Awaitable[Response]],
        tell: Callable[[Request, Identity | None, Trouble], Response],
    ) -> Response:
        if identity is not None:
            linetrace.add(user=identity.owner)
        try:
            if (identity is None or identity.by_cookie) and self.accounts.is_forged(request):
                raise Trouble(
                    403,
                    "Refused",
                    "This request did not come from a page of this site. Go to the page and try again there.",
                )
            response = await self._patiently(request, identity, endpoint)
        except Exception as error:
            trouble = trouble_of(error)
            if trouble is None:
                raise
            if trouble.status >= 500:
                log.warning("answered with an error", extra={"status": trouble.status, "error": str(error)})
            response = tell(request, identity, trouble)
        return self._finish(request, identity, response)

    async def _patiently[I: (Identity, Identity | None)](
        self, request: Request, identity: I, endpoint: Callable[[Request, I], Awaitable[Response]]
    ) -> Response:
        deadline = time.monotonic() + (self._patience if request.method in SAFE_METHODS else 0)
        while True:
            try:
                return await endpoint(request, identity)
            except DatabaseUnavailable:
                if time.monotonic() >= deadline:
                    raise
            await asyncio.sleep(PAUSE_SECONDS)

    def _finish(self, request: Request, identity: Identity | None, response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        # Not if the response itself signs in or out.
        if identity is not None and "set-cookie" not in response.headers:
            self.accounts.renew(request, response, identity)
        return response


def as_json(_request: Request, _identity: Identity | None, trouble: Trouble) -> Response:
    """An error for programs."""
    return JSONResponse({"error": trouble.text}, status_code=trouble.status, headers=trouble.headers)


def to_login(request: Request) -> Response:
    """Redirect to the login page, and from there back here."""
    target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    suffix = "" if request.method not in ("GET", "HEAD") or target == "/" else f"?next={quote(target, safe='')}"
    return RedirectResponse(f"/login{suffix}", status_code=303)
