"""The tus resumable upload protocol 1.0.0 (https://tus.io/protocols/resumable-upload) over the domain.

Core with the extensions creation, creation-with-upload, termination, expiration and checksum. The answers follow what
real clients do with them:

- tus-js-client begins a new upload, from byte 0, after a HEAD that is not 2xx or 423, and forgets the URL after other
  4xx answers. So HEAD of an existing upload answers 200. While the database is unreachable, HEAD is held; then the
  connection is closed without an answer, which clients treat as a network error.
- After a PATCH it tries again on 409, 423, 5xx and network errors, and gives up on any other 4xx. So a passing
  condition is answered with 423, or the connection is closed.
- The upload URL contains its own key: HEAD, PATCH and DELETE need no login and never answer 401 or 403.

Beyond the protocol, the metadata `sha256` at creation says what the whole content is (`proof` takes it later).
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC
from email.utils import format_datetime
from enum import StrEnum

from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

import linetrace
from longhaul import logs
from longhaul.database import DatabaseUnavailable
from longhaul.services import Services
from longhaul.uploads import takeover
from longhaul.uploads.checksum import ALGORITHMS, Checksum
from longhaul.uploads.model import Gone, NotFound, Upload, WrongOffset
from longhaul.uploads.receiving import Budget, Ending, Limits, Received, Receiver
from longhaul.web.accounts import Authenticator
from longhaul.web.tus_exchange import VERSION, Exchange, Refusal, Silence
from longhaul.web.tus_headers import (
    announced_checksum,
    announced_size,
    expected_sha256,
    parse_metadata,
    text_of,
)

log = logs.get(__name__)

EXTENSIONS = "creation,creation-with-upload,termination,expiration,checksum"
BODY_TYPE = "application/offset+octet-stream"
CHECKSUM_MISMATCH = 460


class Method(StrEnum):
    """What can be done to an upload URL."""

    HEAD = "HEAD"
    PATCH = "PATCH"
    DELETE = "DELETE"
    OPTIONS = "OPTIONS"
    POST = "POST"


class Tus:
    """ASGI application for `/files/` (creation) and `/files/{key}/{id}` (uploads)."""

    def __init__(self, services: Services, authenticator: Authenticator) -> None:
        self._services = services
        self._authenticator = authenticator
        self._settings = services.settings
        self._budget = Budget(services.settings.buffer_bytes)
        self._limits = Limits.from_settings(services.settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        exchange = Exchange(scope, receive, send)
        with logs.bound(upload_id=scope["path_params"].get("id")):
            try:
                await self._serve(exchange)
            except Refusal as refusal:
                await exchange.refuse(refusal.status, refusal.text, refusal.headers)
            except NotFound as error:
                await exchange.refuse(404, str(error))
            except Gone as error:
                await exchange.refuse(410, str(error))
            except WrongOffset as error:
                await exchange.refuse(409, str(error))
            except Silence as reason:
                log.warning("connection closed without an answer", extra={"reason": str(reason)})
                await exchange.close()
            except asyncio.CancelledError:
                # uvicorn would answer 500, and a client would begin its upload again.
                exchange.abort()
                raise
            except Exception:
                log.exception("connection closed because of an error in this program")
                await exchange.close()

    async def _serve(self, exchange: Exchange) -> None:
        method = exchange.headers.get("x-http-method-override", exchange.scope["method"]).upper()
        on_upload = "id" in exchange.scope["path_params"]
        allowed = [Method.HEAD, Method.PATCH, Method.DELETE] if on_upload else [Method.POST]
        if method == Method.OPTIONS:
            await exchange.answer(
                204,
                {
                    "Tus-Version": VERSION,
                    "Tus-Extension": EXTENSIONS,
                    "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
                    "Tus-Max-Size": str(self._settings.max_upload_bytes),
                },
            )
            return
        if method not in allowed:
            raise Refusal(
                405,
                f"{method} is not possible here. Possible: {', '.join(allowed)} (tus {VERSION})",
                {"Allow": ", ".join([*allowed, Method.OPTIONS])},
            )
        if (version := exchange.headers.get("tus-resumable")) != VERSION:
            raise Refusal(
                412,
                f"Tus-Resumable is {version!r}: this server speaks {VERSION}, send Tus-Resumable: {VERSION}",
                {"Tus-Version": VERSION},
            )
        if method == Method.POST:
            await self._create(exchange)
            return
        upload_id, key = exchange.scope["path_params"]["id"], exchange.scope["path_params"]["key"]
        if method == Method.HEAD:
            await self._offset(exchange, upload_id, key)
        elif method == Method.PATCH:
            await self._receive(exchange, upload_id, key)
        else:
            await self._terminate(exchange, upload_id, key)

    # --- POST --------------------------------------------------------------------------------------------------------

    async def _create(self, exchange: Exchange) -> None:
        owner = self._authenticator.authenticate(HTTPConnection(exchange.scope))
        if owner is None:
            raise Refusal(
                401,
                "log in, or send Authorization: Bearer <access token>",
                {"WWW-Authenticate": 'Bearer realm="longhaul"'},
            )
        linetrace.add(user=owner)
        size = announced_size(exchange.headers, self._settings.max_upload_bytes)
        metadata = parse_metadata(exchange.headers.get("upload-metadata", ""))
        carries = exchange.headers.get("content-type") == BODY_TYPE
        checksum = announced_checksum(exchange.headers)
        sha256 = expected_sha256(metadata)
        try:
            upload = await self._services.uploads.create(
                owner=owner,
                size=size,
                filename=text_of(metadata, "filename", "name"),
                content_type=text_of(metadata, "filetype", "type"),
                metadata=metadata,
                request_id=exchange.request_id,
                expected_sha256=sha256,
            )
        except DatabaseUnavailable as error:
            raise Refusal(503, "uploads cannot be created now: try again in a minute", {"Retry-After": "30"}) from error
        linetrace.add(upload=upload.id)
        log.info("upload created", extra={"upload_id": upload.id, "owner": owner, "size": size})
        headers = {"Location": self._location(exchange, upload), "Upload-Expires": _expires(upload)}
        if carries and size:
            # The upload exists even if the body fails. The client learns how much of the body counts.
            with logs.bound(upload_id=upload.id), contextlib.suppress(Silence):
                taken = await self._take(upload.id, upload.key, offset=0, receive=True)
                result = await self._receive_body(exchange, taken, checksum)
                if result.ending is Ending.CHECKSUM:
                    # Nothing of the request is kept, and that includes the upload.
                    with contextlib.suppress(DatabaseUnavailable):
                        await self._services.uploads.terminate(upload.id)
                    raise _wrong_checksum("nothing of this request was kept, create the upload again")
                headers |= {"Upload-Offset": str(result.offset), "Upload-Expires": _expires(result.upload)}
        await exchange.answer(201, headers)

    def _location(self, exchange: Exchange, upload: Upload) -> str:
        base = self._settings.public_url.rstrip("/")
        if not base:
            host = exchange.headers.get("host", "localhost")
            base = f"{exchange.scope['scheme']}://{host}"
        return f"{base}/files/{upload.key}/{upload.id}"

    # --- HEAD --------------------------------------------------------------------------------------------------------

    async def _offset(self, exchange: Exchange, upload_id: str, key: str) -> None:
        upload = await self._take(upload_id, key)
        headers = {
            "Upload-Offset": str(upload.offset),
            "Upload-Length": str(upload.size),
            "Upload-Expires": _expires(upload),
        }
        if upload.metadata:
            headers["Upload-Metadata"] = ",".join(f"{name} {value}".rstrip() for name, value in upload.metadata.items())
        await exchange.answer(200, headers)

    async def _take(self, upload_id: str, key: str, *, offset: int | None = None, receive: bool = False) -> Upload:
        """Take the upload over. Raises Silence if that is not possible in time."""
        if self._services.receivers.closing.is_set():
            raise Silence("this server is about to stop")
        try:
            # Ends the wait, not the transaction: a transaction is never cancelled.
            async with asyncio.timeout(self._settings.head_hold_seconds):
                return await takeover.take(
                    self._services.uploads, self._services.receivers, upload_id, key, offset=offset, receive=receive
                )
        except (TimeoutError, DatabaseUnavailable) as error:
            raise Silence(f"the database is away: {error}") from error

    # --- PATCH -------------------------------------------------------------------------------------------------------

    async def _receive(self, exchange: Exchange, upload_id: str, key: str) -> None:
        if (kind := exchange.headers.get("content-type", "")) != BODY_TYPE:
            raise Refusal(415, f"Content-Type is {kind[:60]!r}: send the bytes as {BODY_TYPE}")
        text = exchange.headers.get("upload-offset", "")
        if not (text.isascii() and text.isdigit()) or len(text) > 19:
            raise Refusal(400, f"Upload-Offset {text[:40]!r} is not a number: send the offset that HEAD told")
        checksum = announced_checksum(exchange.headers)
        upload = await self._take(upload_id, key, offset=int(text), receive=True)
        length = exchange.headers.get("content-length", "")
        if length.isdigit() and upload.offset + int(length) > upload.size:
            await self._services.uploads.leave(upload.id, upload.epoch)
            raise _too_large(upload)
        result = await self._receive_body(exchange, upload, checksum)
        await self._report(exchange, result)

    async def _receive_body(self, exchange: Exchange, upload: Upload, checksum: Checksum | None) -> Received:
        receiver = Receiver(
            upload,
            exchange.body(),
            uploads=self._services.uploads,
            store=self._services.store,
            receivers=self._services.receivers,
            budget=self._budget,
            limits=self._limits,
            checksum=checksum,
        )
        return await receiver.run()

    async def _report(self, exchange: Exchange, result: Received) -> None:
        match result.ending:
            case Ending.COMPLETE:
                await exchange.answer(
                    204, {"Upload-Offset": str(result.offset), "Upload-Expires": _expires(result.upload)}
                )
            case Ending.DISCONNECTED:
                pass
            case Ending.TOO_LARGE:
                raise _too_large(result.upload)
            case Ending.CHECKSUM:
                raise _wrong_checksum(f"nothing of this request was kept, send it again from offset {result.offset}")
            case Ending.ASKED | Ending.TAKEN_OVER | Ending.HANDED_OVER | Ending.STORE:
                raise Refusal(
                    423,
                    f"{result.ending.value}; {result.offset} bytes are kept: ask for the offset with HEAD and go on",
                )
            case Ending.IDLE | Ending.DATABASE:
                raise Silence(result.ending.value)

    # --- DELETE ------------------------------------------------------------------------------------------------------

    async def _terminate(self, exchange: Exchange, upload_id: str, key: str) -> None:
        try:
            async with asyncio.timeout(self._settings.head_hold_seconds):
                upload = await self._services.uploads.terminate(upload_id, key)
        except (TimeoutError, DatabaseUnavailable) as error:
            raise Silence(f"the database is away: {error}") from error
        self._services.receivers.taken(upload)
        log.info("upload terminated", extra={"offset": upload.offset})
        await exchange.answer(204)


def _wrong_checksum(advice: str) -> Refusal:
    return Refusal(CHECKSUM_MISMATCH, f"the body does not have the checksum in Upload-Checksum: {advice}")


def _too_large(upload: Upload) -> Refusal:
    return Refusal(
        413, f"more bytes than the {upload.size} announced at creation: create a new upload with the true size"
    )


def _expires(upload: Upload) -> str:
    """IMF-fixdate, RFC 9110."""
    # The database gives times in its own zone; `format_datetime` takes the object `UTC` only.
    return format_datetime(upload.expires_at.astimezone(UTC), usegmt=True)
