"""The routes of the pages and of the API, and who may use them. `server` adds the upload protocol."""

from __future__ import annotations

import hashlib
import mimetypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from longhaul.services import Services
from longhaul.settings import SettingsError
from longhaul.web.accounts import Accounts, Authenticator
from longhaul.web.api import Api
from longhaul.web.feed import Feed
from longhaul.web.guard import HEADERS, Guard
from longhaul.web.pages import Pages


def authenticator(services: Services) -> Authenticator:
    """Recognises users by bearer token or by the cookie of a browser's session. Raises SettingsError."""
    return Accounts.from_settings(services.settings)


def pages_and_api(services: Services) -> Sequence[BaseRoute]:
    """Routes of pages and API. Raises SettingsError."""
    accounts = Accounts.from_settings(services.settings)
    feed = Feed(services)
    pages = Pages(services, accounts)
    api = Api(services, feed)
    guard = Guard(accounts, pages.message, patience=services.settings.page_hold_seconds)
    return [
        Route("/", guard.page(pages.landing)),
        Route("/login", guard.public_page(pages.login), methods=["GET", "POST"]),
        Route("/logout", guard.public_page(pages.logout), methods=["POST"]),
        Route("/uploads/{id}", guard.page(pages.upload)),
        Route("/uploads/{id}/retry", guard.page(pages.retry), methods=["POST"]),
        Route("/uploads/{id}/remove", guard.page(pages.remove), methods=["POST"]),
        Route("/api/events", guard.api(api.events)),
        Route("/api/uploads", guard.api(api.list)),
        Route("/api/uploads/{id}", guard.api(api.get)),
        Route("/api/uploads/{id}", guard.api(api.delete), methods=["DELETE"]),
        Route("/api/uploads/{id}/retry", guard.api(api.retry), methods=["POST"]),
        Route("/api/uploads/{id}/content", guard.api(api.content)),
        Route("/api/uploads/{id}/results/{name}", guard.api(api.result)),
        Mount("/static", Static(directory=frontend())),
    ]


class Static(StaticFiles):
    """The built frontend. Its file names are the same in each release, so browsers ask each time and mostly get 304.

    A version of a file is known by its content only: all files of a release have the time of its commit, so size and
    time may agree between releases. Hence there is no Last-Modified, and no Range: the file may have changed meanwhile.
    """

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """See StaticFiles."""
        del stat_result
        content = Path(full_path).read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        headers = {name: HEADERS[name] for name in ("content-security-policy", "x-content-type-options")}
        headers |= {"etag": etag, "cache-control": "no-cache"}
        known = Headers(scope=scope).get("if-none-match", "").split(",")
        if etag in [tag.strip().removeprefix("W/") for tag in known]:
            return Response(status_code=304, headers=headers)
        return Response(content, status_code, headers, mimetypes.guess_type(full_path)[0])


def frontend() -> Path:
    """Folder of the built frontend: beside a release's environment, or in the source tree. Raises SettingsError."""
    released = Path(sys.prefix).parent / "frontend"
    built = Path(__file__).parents[2] / "frontend" / "dist"
    for folder in (released, built):
        if (folder / "app.js").is_file():
            return folder
    raise SettingsError(f"the frontend is not built (looked in {released} and {built}): run ./inv app.frontend")
