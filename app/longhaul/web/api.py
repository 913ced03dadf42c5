"""The JSON API: the state of uploads, their content and their results.

    GET    /api/uploads                        the owner's uploads, newest first
    GET    /api/uploads/{id}                   one upload
    DELETE /api/uploads/{id}                   deletes content and results
    POST   /api/uploads/{id}/retry             processes a file again, after its processing failed
    GET    /api/uploads/{id}/content           the file, with Range
    GET    /api/uploads/{id}/results/{name}    a result, with Range
    GET    /api/events[?upload=ID]             live updates for the pages (server-sent events)

Another owner's uploads are answered with 404.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from longhaul import logs
from longhaul.services import Services
from longhaul.stores.content import read_verified
from longhaul.uploads.model import MISMATCH, NotFound, State, Upload
from longhaul.uploads.pieces import read_content
from longhaul.uploads.results import Maker, Result, Results
from longhaul.web.accounts import Identity
from longhaul.web.feed import SHOWN, Feed
from longhaul.web.guard import Trouble
from longhaul.web.ranges import Span, Unsatisfiable, parse_range

log = logs.get(__name__)


class Api:
    """The endpoints that the module's docstring lists."""

    def __init__(self, services: Services, feed: Feed) -> None:
        self._services = services
        self._feed = feed
        self._results = Results(services.database)

    async def list(self, request: Request, identity: Identity) -> Response:
        uploads = await self._services.uploads.list(identity.owner, SHOWN)
        base = base_url(self._services, request)
        return JSONResponse({"uploads": [describe(upload, [], base) for upload in uploads]})

    async def get(self, request: Request, identity: Identity) -> Response:
        upload = await own(self._services, request, identity)
        results = await self._results.published(upload)
        maker = await self._results.maker(upload)
        return JSONResponse(describe(upload, results, base_url(self._services, request), maker))

    async def delete(self, request: Request, identity: Identity) -> Response:
        upload = await own(self._services, request, identity)
        await self._services.uploads.terminate(upload.id)
        log.info("deleted by its owner", extra={"upload_id": upload.id, "owner": identity.owner})
        return Response(status_code=204)

    async def retry(self, request: Request, identity: Identity) -> Response:
        upload = await own(self._services, request, identity)
        upload = await process_again(self._services, upload)
        return JSONResponse(describe(upload, [], base_url(self._services, request)), status_code=202)

    async def events(self, request: Request, identity: Identity) -> Response:
        only = request.query_params.get("upload")
        if only is not None:
            await own(self._services, request, identity, only)
        events = self._feed.events(identity.owner, only)
        # The first event is made before the answer begins: if the database is unreachable, the answer is 503.
        first = await anext(events)
        return StreamingResponse(
            chain(first, events), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )

    async def content(self, request: Request, identity: Identity) -> Response:
        upload = await own(self._services, request, identity)
        if upload.is_mismatched:
            raise _mismatched()
        if not upload.has_content:
            raise Trouble(
                409,
                "Not complete",
                f"Only {upload.offset} of {upload.size} bytes have arrived: finish the upload, then download.",
            )
        pieces = await self._services.uploads.pieces(upload.id)
        return await download(
            request,
            name=upload.filename or upload.id,
            size=upload.size,
            # The content of an upload never changes, so its id identifies it.
            etag=upload.id,
            read=lambda span: read_content(self._services.store, pieces, span.start, span.length),
        )

    async def result(self, request: Request, identity: Identity) -> Response:
        upload = await own(self._services, request, identity)
        result = await self._results.named(upload, request.path_params["name"])
        if result is None:
            raise Trouble(404, "Not found", "This file has no result of that name. The file's page lists its results.")
        return await download(
            request,
            name=result.name,
            size=result.size,
            etag=result.sha256,
            read=lambda span: read_verified(
                self._services.store,
                result.object_name,
                result.size,
                result.digests,
                start=span.start,
                length=span.length,
            ),
        )


def describe(upload: Upload, results: list[Result], base: str, maker: Maker | None = None) -> dict[str, Any]:
    """An upload for programs. Sizes in bytes, fractions from 0 to 1, times in ISO 8601."""
    progress = upload.progress or {}
    path = f"{base}/api/uploads/{upload.id}"
    processed = {State.DONE: 1.0, State.PROCESSING: float(progress.get("fraction") or 0.0)}.get(upload.state)
    return {
        "id": upload.id,
        "state": upload.state.value,
        "offset": upload.offset,
        "size": upload.size,
        "sha256": upload.sha256,
        "expected_sha256": upload.expected_sha256,
        "filename": upload.filename,
        "media_type": upload.detected_type,
        "progress": {
            "upload": upload.offset / upload.size if upload.size else 1.0,
            "processing": processed,
            "message": progress.get("message") if upload.state is State.PROCESSING else None,
        },
        "error": upload.error,
        "processed_by": asdict(maker) if maker else None,
        "results": [
            {
                "name": result.name,
                "url": f"{path}/results/{quote(result.name)}",
                "size": result.size,
                "sha256": result.sha256,
            }
            for result in results
        ],
        "content_url": f"{path}/content" if upload.has_content else None,
        "page_url": f"{base}/uploads/{upload.id}",
        "created_at": upload.created_at.isoformat(),
        "completed_at": upload.completed_at.isoformat() if upload.completed_at else None,
        "finished_at": upload.finished_at.isoformat() if upload.finished_at else None,
        "expires_at": upload.expires_at.isoformat() if upload.state is State.RECEIVING else None,
    }


async def own(services: Services, request: Request, identity: Identity, upload_id: str | None = None) -> Upload:
    """The upload that the path (or `upload_id`) names. Raises NotFound if it is not this owner's."""
    upload = await services.uploads.get(upload_id or request.path_params["id"])
    if upload.owner != identity.owner:
        raise NotFound(f"upload {upload.id} is not one of {identity.owner}")
    return upload


async def process_again(services: Services, upload: Upload) -> Upload:
    """Queue the processing of a failed upload. Raises Trouble (409) in any other state."""
    if upload.is_mismatched:
        raise _mismatched()
    queued = await services.uploads.process_again(upload.id)
    if queued is None:
        raise Trouble(
            409,
            "Nothing to do",
            f"Only a file whose processing failed can be processed again; this one is {upload.state.value}.",
        )
    return queued


def _mismatched() -> Trouble:
    return Trouble(409, "Not what was sent", MISMATCH)


def base_url(services: Services, request: Request) -> str:
    """What absolute URLs begin with, without a trailing slash."""
    return services.settings.public_url.rstrip("/") or f"{request.url.scheme}://{request.url.netloc}"


async def download(
    request: Request,
    *,
    name: str,
    size: int,
    etag: str,
    read: Any,
) -> Response:
    """The answer to GET or HEAD with Range and If-Range (RFC 9110, 14). Raises StoreError before its first byte.

    If a later block is damaged, the connection is closed before the announced length is reached.
    """
    quoted = f'"{etag}"'
    headers = {
        "accept-ranges": "bytes",
        "etag": quoted,
        "content-disposition": disposition(name),
        # Uploaded content is never shown as a page of this site.
        "content-security-policy": "sandbox; default-src 'none'",
        "cache-control": "private, no-cache",
    }
    if quoted in [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    wanted = request.headers.get("range")
    if wanted and request.headers.get("if-range", quoted) != quoted:
        wanted = None
    try:
        span = parse_range(wanted, size)
    except Unsatisfiable as error:
        raise Trouble(
            416,
            "No such part",
            f"The file has {size} bytes. The requested range is outside of it.",
            headers={"content-range": f"bytes */{size}", "accept-ranges": "bytes"},
        ) from error
    status = 200
    if span is None:
        span = Span(0, size)
    else:
        status = 206
        headers["content-range"] = f"bytes {span.start}-{span.end - 1}/{size}"
    headers["content-length"] = str(span.length)
    if request.method == "HEAD" or span.length == 0:
        return Response(status_code=status, headers=headers, media_type="application/octet-stream")
    blocks: AsyncIterator[bytes] = read(span)
    first = await anext(blocks)
    return StreamingResponse(
        chain(first, blocks), status_code=status, headers=headers, media_type="application/octet-stream"
    )


async def chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """`first`, then `rest`."""
    yield first
    async for block in rest:
        yield block


def disposition(name: str) -> str:
    """Content-Disposition that makes browsers save under a harmless form of `name` (RFC 6266, RFC 8187)."""
    clean = "".join("_" if ord(char) < 32 or ord(char) == 127 or char in '/\\:*?"<>|' else char for char in name)
    clean = clean.strip(" .")[-200:] or "file"
    plain = clean.encode("ascii", "replace").decode().replace("?", "_")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(clean, safe='')}"
