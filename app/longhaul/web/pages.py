"""The pages for people. They show everything without a script. The script adds uploading and live updates."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from longhaul import __version__, logs
from longhaul.services import Services
from longhaul.stores.content import read_verified
from longhaul.uploads.model import Upload
from longhaul.uploads.results import Result, Results
from longhaul.web.accounts import SESSION_SECONDS, Accounts, Identity
from longhaul.web.api import own, process_again
from longhaul.web.feed import SHOWN
from longhaul.web.guard import Trouble
from longhaul.web.views import size_text, time_text, view

log = logs.get(__name__)

REFRESH_SECONDS = 10
"""How often a page without script reloads itself."""
SHOWN_TEXT_BYTES = 64 * 1024
"""Text results up to this size are shown on the page too."""


class Pages:
    """Endpoints of the pages."""

    def __init__(self, services: Services, accounts: Accounts) -> None:
        self._services = services
        self._accounts = accounts
        self._results = Results(services.database)
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("longhaul.web"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    async def landing(self, _request: Request, identity: Identity) -> Response:
        """Upload area, and all files of this user with their state."""
        uploads = await self._services.uploads.list(identity.owner, SHOWN)
        now = datetime.now(UTC)
        return self._render(
            identity,
            "landing.html",
            views=[view(upload, now) for upload in uploads],
            shown=SHOWN if len(uploads) == SHOWN else None,
            max_bytes=self._services.settings.max_upload_bytes,
            # Twice the time that the server itself waits for an unreachable database or store.
            stall_seconds=2 * self._services.settings.head_hold_seconds,
            max_text=size_text(self._services.settings.max_upload_bytes),
        )

    async def upload(self, request: Request, identity: Identity) -> Response:
        """Everything about one file."""
        upload = await own(self._services, request, identity)
        results = await self._results.published(upload)
        times = [
            ("Upload began", upload.created_at),
            ("Upload complete", upload.completed_at),
            ("Finished", upload.finished_at),
        ]
        return self._render(
            identity,
            "upload.html",
            view=view(upload, datetime.now(UTC)),
            upload=upload,
            results=[await self._result(upload, result) for result in results],
            times=[(label, moment) for label, moment in times if moment is not None],
            time_text=time_text,
        )

    async def _result(self, upload: Upload, result: Result) -> dict[str, Any]:
        text = None
        if result.name.endswith(".txt") and 0 < result.size <= SHOWN_TEXT_BYTES:
            blocks = read_verified(self._services.store, result.object_name, result.size, result.digests)
            text = b"".join([block async for block in blocks]).decode(errors="replace")
        return {
            "name": result.name,
            "url": f"/api/uploads/{upload.id}/results/{quote(result.name)}",
            "size_text": size_text(result.size),
            "text": text,
        }

    async def retry(self, request: Request, identity: Identity) -> Response:
        """The button "Process again"."""
        upload = await own(self._services, request, identity)
        await process_again(self._services, upload)
        return RedirectResponse(f"/uploads/{upload.id}", status_code=303)

    async def remove(self, request: Request, identity: Identity) -> Response:
        """The button "Delete"."""
        upload = await own(self._services, request, identity)
        await self._services.uploads.terminate(upload.id)
        log.info("deleted by its owner", extra={"upload_id": upload.id, "owner": identity.owner})
        return RedirectResponse("/", status_code=303)

    async def login(self, request: Request, identity: Identity | None) -> Response:
        """The login form, and the answer to it."""
        if request.method != "POST":
            if identity is not None:
                return RedirectResponse(local_path(request.query_params.get("next", "/")), status_code=303)
            return self._login_form(local_path(request.query_params.get("next", "/")))
        form = await request.form(max_fields=10, max_files=0)
        target = local_path(str(form.get("next", "/")))
        signed_in = self._accounts.identify_token(str(form.get("token", "")))
        if signed_in is None:
            log.warning("login refused", extra={"client": request.client.host if request.client else None})
            return self._login_form(
                target,
                problem="This site does not know that token. Copy the whole token again, without blanks around it."
                " If it still fails, ask the people who run this site for a new one.",
            )
        log.info("signed in", extra={"owner": signed_in.owner})
        response = RedirectResponse(target, status_code=303)
        self._accounts.sign_in(request, response, signed_in)
        return response

    def _login_form(self, target: str, problem: str = "") -> Response:
        return self._render(
            None,
            "login.html",
            status=403 if problem else 200,
            next=target,
            problem=problem,
            session_days=SESSION_SECONDS // 86400,
        )

    async def logout(self, request: Request, _identity: Identity | None) -> Response:
        """End the session. Running uploads continue: their URLs need no session."""
        response = RedirectResponse("/login", status_code=303)
        self._accounts.sign_out(request, response)
        return response

    def message(self, request: Request, identity: Identity | None, trouble: Trouble) -> Response:
        """An error as a page."""
        retry = trouble.status == 503 and request.method == "GET"
        return self._render(
            identity,
            "message.html",
            status=trouble.status,
            headers=trouble.headers,
            title=trouble.title,
            text=trouble.text,
            link=request.url.path if retry else "/",
            link_text="Reload" if retry else "To the list of files",
            refresh=trouble.headers.get("retry-after") if retry else None,
        )

    def _render(
        self,
        identity: Identity | None,
        template: str,
        status: int = 200,
        headers: dict[str, str] | None = None,
        **values: object,
    ) -> Response:
        html = self._templates.get_template(template).render(
            owner=identity.owner if identity else None,
            version=__version__,
            request_id=logs.bound_ids().get("request_id"),
            refresh_seconds=REFRESH_SECONDS,
            **values,
        )
        return HTMLResponse(html, status_code=status, headers=headers)


def local_path(target: str) -> str:
    """`target` if it is a path on this site, else the landing page: a link must not lead users to another site."""
    if target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable():
        return target
    return "/"
