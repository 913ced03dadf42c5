"""The tus resumable upload protocol 1.0.0 (https://tus.io/protocols/resumable-upload) over the domain.

Core with the extensions creation, creation-with-upload, termination, expiration and checksum. The answers are chosen by
what real clients make of them:

- tus-js-client begins a new upload, from byte 0, after a HEAD that is not 2xx or 423, and forgets the URL after other
  4xx answers. So HEAD of an upload that exists answers 200; while the database is away it is held, and then the
  connection is closed without an answer, which clients take for a network error.
- It goes on after 409, 423, 5xx and network errors of a PATCH, and gives up after any other 4xx. So what will pass is
  answered with 423, or the connection is closed.
- The upload URL carries its own key: HEAD, PATCH and DELETE ask for no login and never answer 401 or 403.

Beyond the protocol, the metadata `sha256` at creation says what the whole content is (see `proof.py` for later).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import time
from collections.abc import Callable
from datetime import UTC
from email.utils import format_datetime
from enum import StrEnum
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from longhaul import logs
from longhaul.database import DatabaseUnavailable
from longhaul.services import Services
from longhaul.uploads import takeover
from longhaul.uploads.checksum import ALGORITHMS, Checksum
from longhaul.uploads.model import Gone, NotFound, Upload, WrongOffset, sha256_from
from longhaul.uploads.receiving import Budget, Disconnected, Ending, Limits, Received, Receiver, Source
from longhaul.web.accounts import Authenticator

log = logs.get(__name__)

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,termination,expiration,checksum"
BODY_TYPE = "application/offset+octet-stream"
METADATA_BYTES = 8192
CHECKSUM_MISMATCH = 460
SHA256_METADATA = "sha256"
"""Key of an upload's metadata: SHA-256 of the whole content in hexadecimal."""
ABORT = "longhaul.abort"
"""ASGI extension: a function that closes the connection at once, without an answer (see `server.Protocol`)."""
LINGER_SECONDS = 2.0
"""An answer that is given while the body still comes is lost if the connection is closed under the sender: so what
comes is read and thrown away for this long."""


class Refusal(Exception):
    """An answer that ends the request; its text tells the client what to do."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers or {}


class Silence(Exception):
    """The connection is to be closed without an answer."""


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
        exchange = _Exchange(scope, receive, send)
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
                # uvicorn would answer 500, and a client would begin its upload anew.
                exchange.abort()
                raise
            except Exception:
                log.exception("connection closed because of an error in this program")
                await exchange.close()

    async def _serve(self, exchange: _Exchange) -> None:
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
                f"{method} is not possible here; possible: {', '.join(allowed)} (tus {VERSION})",
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

    async def _create(self, exchange: _Exchange) -> None:
        owner = self._authenticator.authenticate(HTTPConnection(exchange.scope))
        if owner is None:
            raise Refusal(
                401,
                "log in, or send Authorization: Bearer <access token>",
                {"WWW-Authenticate": 'Bearer realm="longhaul"'},
            )
        size = self._announced_size(exchange.headers)
        metadata = parse_metadata(exchange.headers.get("upload-metadata", ""))
        carries = exchange.headers.get("content-type") == BODY_TYPE
        checksum = _checksum(exchange.headers)
        expected_sha256 = _expected_sha256(metadata)
        try:
            upload = await self._services.uploads.create(
                owner=owner,
                size=size,
                filename=_text_of(metadata, "filename", "name"),
                content_type=_text_of(metadata, "filetype", "type"),
                metadata=metadata,
                request_id=exchange.request_id,
                expected_sha256=expected_sha256,
            )
        except DatabaseUnavailable as error:
            raise Refusal(
                503, "uploads cannot be created just now: try again in a minute", {"Retry-After": "30"}
            ) from error
        log.info("upload created", extra={"upload_id": upload.id, "owner": owner, "size": size})
        headers = {"Location": self._location(exchange, upload), "Upload-Expires": _expires(upload)}
        if carries and size:
            # The upload exists whatever becomes of the body; the client learns how much of it counts.
            with logs.bound(upload_id=upload.id), contextlib.suppress(Silence):
                taken = await self._take(upload.id, upload.key, offset=0, receive=True)
                result = await self._receive_body(exchange, taken, checksum)
                if result.ending is Ending.CHECKSUM:
                    # Nothing of the request is to be left, and that includes the upload.
                    with contextlib.suppress(DatabaseUnavailable):
                        await self._services.uploads.terminate(upload.id)
                    raise _wrong_checksum("nothing of this request was kept, create the upload again")
                headers |= {"Upload-Offset": str(result.offset), "Upload-Expires": _expires(result.upload)}
        await exchange.answer(201, headers)

    def _announced_size(self, headers: Headers) -> int:
        if "upload-defer-length" in headers:
            raise Refusal(400, "Upload-Defer-Length is not supported: send the size as Upload-Length")
        text = headers.get("upload-length")
        if text is None:
            raise Refusal(400, "Upload-Length is missing: send the size of the file in bytes")
        if not (text.isascii() and text.isdigit()) or len(text) > 19:
            raise Refusal(400, f"Upload-Length {text[:40]!r} is not a number of bytes: send digits only, 0 or more")
        if int(text) > self._settings.max_upload_bytes:
            raise Refusal(
                413,
                f"the file is too large: {text} bytes, and this server takes at most"
                f" {self._settings.max_upload_bytes} in one upload",
                {"Tus-Max-Size": str(self._settings.max_upload_bytes)},
            )
        return int(text)

    def _location(self, exchange: _Exchange, upload: Upload) -> str:
        base = self._settings.public_url.rstrip("/")
        if not base:
            host = exchange.headers.get("host", "localhost")
            base = f"{exchange.scope['scheme']}://{host}"
        return f"{base}/files/{upload.key}/{upload.id}"

    # --- HEAD --------------------------------------------------------------------------------------------------------

    async def _offset(self, exchange: _Exchange, upload_id: str, key: str) -> None:
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
        """Take the upload over. Raises Silence when that could not be done in time."""
        if self._services.receivers.closing.is_set():
            raise Silence("this server is about to stop")
        try:
            # Ends the waiting, not the transaction: that one is never cancelled.
            async with asyncio.timeout(self._settings.head_hold_seconds):
                return await takeover.take(
                    self._services.uploads, self._services.receivers, upload_id, key, offset=offset, receive=receive
                )
        except (TimeoutError, DatabaseUnavailable) as error:
            raise Silence(f"the database is away: {error}") from error

    # --- PATCH -------------------------------------------------------------------------------------------------------

    async def _receive(self, exchange: _Exchange, upload_id: str, key: str) -> None:
        if (kind := exchange.headers.get("content-type", "")) != BODY_TYPE:
            raise Refusal(415, f"Content-Type is {kind[:60]!r}: send the bytes as {BODY_TYPE}")
        text = exchange.headers.get("upload-offset", "")
        if not (text.isascii() and text.isdigit()) or len(text) > 19:
            raise Refusal(400, f"Upload-Offset {text[:40]!r} is not a number: send the offset that HEAD told")
        checksum = _checksum(exchange.headers)
        upload = await self._take(upload_id, key, offset=int(text), receive=True)
        length = exchange.headers.get("content-length", "")
        if length.isdigit() and upload.offset + int(length) > upload.size:
            await self._services.uploads.leave(upload.id, upload.epoch)
            raise _too_large(upload)
        result = await self._receive_body(exchange, upload, checksum)
        await self._report(exchange, result)

    async def _receive_body(self, exchange: _Exchange, upload: Upload, checksum: Checksum | None) -> Received:
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

    async def _report(self, exchange: _Exchange, result: Received) -> None:
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
            case Ending.ASKED | Ending.SUPERSEDED | Ending.HANDED_OVER | Ending.STORE:
                raise Refusal(
                    423,
                    f"{result.ending.value}; {result.offset} bytes are kept: ask for the offset with HEAD and go on",
                )
            case Ending.IDLE | Ending.DATABASE:
                raise Silence(result.ending.value)

    # --- DELETE ------------------------------------------------------------------------------------------------------

    async def _terminate(self, exchange: _Exchange, upload_id: str, key: str) -> None:
        try:
            async with asyncio.timeout(self._settings.head_hold_seconds):
                upload = await self._services.uploads.terminate(upload_id, key)
        except (TimeoutError, DatabaseUnavailable) as error:
            raise Silence(f"the database is away: {error}") from error
        self._services.receivers.taken(upload)
        log.info("upload terminated", extra={"offset": upload.offset})
        await exchange.answer(204)


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.headers = Headers(scope=scope)
        self.request_id: str | None = scope.get("state", {}).get("request_id")
        self._receive = receive
        self._send = send
        self._body_ended = self.headers.get("content-length", "0") == "0" and ("transfer-encoding" not in self.headers)

    def body(self) -> Source:
        """The request's body."""

        async def read() -> bytes:
            while not self._body_ended:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                self._body_ended = not message.get("more_body", False)
                if data := message.get("body", b""):
                    return bytes(data)
            return b""

        return read

    async def answer(
        self, status: int, headers: dict[str, str] | None = None, text: str = "", *, linger: bool = True
    ) -> None:
        """Send an answer. While the body still comes, read on for a moment, so that the answer is not lost."""
        body = f"{text}\n".encode() if text else b""
        fields = {"Tus-Resumable": VERSION, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        fields |= headers or {}
        if status != HTTPStatus.NO_CONTENT:
            fields["Content-Length"] = str(len(body))
        if body:
            fields["Content-Type"] = "text/plain; charset=utf-8"
        linger = linger and not self._body_ended
        if not self._body_ended:
            fields["Connection"] = "close"
        start: Message = {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in fields.items()],
        }
        await self._send(start)
        if self.scope["method"] == "HEAD":
            body = b""
        if linger:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
            await self._discard()
            body = b""
        await self._send({"type": "http.response.body", "body": body})

    async def refuse(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        """Answer with an error."""
        log.info("refused", extra={"status": status, "reason": text})
        # A client that misses a 423 takes it for a network error, and does the same.
        await self.answer(status, headers, text, linger=status != HTTPStatus.LOCKED)

    async def close(self) -> None:
        """Close the connection without an answer."""
        if not self.abort():
            await self.answer(423, {}, "just now this cannot be done: try again in a minute")
            return
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def abort(self) -> bool:
        """Break the connection, and say whether that is possible here."""
        abort: Callable[[], None] | None = self.scope.get("extensions", {}).get(ABORT)
        if abort is not None:
            abort()
        return abort is not None

    async def _discard(self) -> None:
        if self.headers.get("expect", "").lower() == "100-continue":
            return  # the client waits for the word before it sends the body
        deadline = time.monotonic() + LINGER_SECONDS
        read = self.body()
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while await read() and time.monotonic() < deadline:
                    pass
        except (TimeoutError, Disconnected):
            pass


def parse_metadata(header: str) -> dict[str, str]:
    """Upload-Metadata as name -> base64 value. Raises Refusal for a malformed one."""
    if len(header) > METADATA_BYTES:
        raise Refusal(400, f"Upload-Metadata has {len(header)} characters: send at most {METADATA_BYTES}")
    metadata: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in header.split(","))):
        name, _, value = pair.partition(" ")
        try:
            decoded = base64.b64decode(value, validate=True)
        except binascii.Error:
            raise Refusal(
                400, f"Upload-Metadata: the value of {name[:40]!r} is not base64; send pairs 'name base64(value)'"
            ) from None
        if not name.isascii() or name in metadata:
            raise Refusal(400, f"Upload-Metadata: {name[:40]!r} is not ASCII or is given twice")
        if b"\0" in decoded:
            raise Refusal(400, f"Upload-Metadata: the value of {name[:40]!r} contains a null byte")
        metadata[name] = value
    return metadata


def _checksum(headers: Headers) -> Checksum | None:
    """What the body must be, if the client says so. Raises Refusal."""
    if (header := headers.get("upload-checksum")) is None:
        return None
    try:
        return Checksum.parse(header)
    except ValueError as error:
        raise Refusal(400, f"Upload-Checksum: {error}", {"Tus-Checksum-Algorithm": ",".join(ALGORITHMS)}) from None


def _wrong_checksum(advice: str) -> Refusal:
    return Refusal(CHECKSUM_MISMATCH, f"the bytes that came are not those of Upload-Checksum: {advice}")


def _expected_sha256(metadata: dict[str, str]) -> str | None:
    """What the client says that the whole content is. Raises Refusal."""
    if SHA256_METADATA not in metadata:
        return None
    try:
        return sha256_from(base64.b64decode(metadata[SHA256_METADATA]).decode("utf-8", errors="replace"))
    except ValueError as error:
        raise Refusal(400, f"Upload-Metadata, {SHA256_METADATA}: {error}") from None


def _text_of(metadata: dict[str, str], *names: str) -> str:
    """The first of these that is there, as text without control characters, at most 255 characters long."""
    for name in names:
        if value := metadata.get(name):
            text = base64.b64decode(value).decode("utf-8", errors="replace")
            return "".join(letter for letter in text if letter.isprintable())[:255]
    return ""


def _too_large(upload: Upload) -> Refusal:
    return Refusal(
        413, f"more bytes than the {upload.size} announced at creation: create a new upload with the true size"
    )


def _expires(upload: Upload) -> str:
    """IMF-fixdate, RFC 9110."""
    # The database gives times in its own zone, and this function takes no other object than `UTC`.
    return format_datetime(upload.expires_at.astimezone(UTC), usegmt=True)
