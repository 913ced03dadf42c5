"""A sender proves that its file is the one that an upload began with, and says what the whole file is.

    GET  /files/{key}/{id}/digests    {"sha256": text or null, "blocks": [{"start", "length", "sha256"}, ...]}: SHA-256
                                      of the whole file, as the sender said or as was computed; and of some
                                      ranges of what the server has (see `uploads/sampling.py`). In bytes and
                                      hexadecimal.
    PUT  /files/{key}/{id}/sha256     the body is the SHA-256 of the whole file in hexadecimal. 204, or 409 if the
                                      content, or the SHA-256 that was sent before, is another one

As for all requests on an upload URL, its key is enough: the user may have signed out meanwhile. Errors are answered as
JSON, `{"error": text}`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from longhaul import logs
from longhaul.database import DatabaseUnavailable
from longhaul.services import Services
from longhaul.uploads.model import Gone, Mismatch, NotFound, sha256_from
from longhaul.uploads.sampling import sample

log = logs.get(__name__)

BODY_BYTES = 1024
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Proof:
    """The endpoints that the module's docstring lists."""

    def __init__(self, services: Services) -> None:
        self._uploads = services.uploads

    async def digests(self, request: Request) -> Response:
        """GET."""
        return await _answer(request, self._digests)

    async def sha256(self, request: Request) -> Response:
        """PUT."""
        return await _answer(request, self._sha256)

    async def _digests(self, request: Request) -> Response:
        upload, blocks = await sample(self._uploads, request.path_params["id"], request.path_params["key"])
        return JSONResponse(
            {"sha256": upload.expected_sha256 or upload.sha256, "blocks": [asdict(block) for block in blocks]},
            headers=HEADERS,
        )

    async def _sha256(self, request: Request) -> Response:
        text = ""
        async for part in request.stream():
            text += part.decode("ascii", errors="replace")
            if len(text) > BODY_BYTES:
                break
        upload = await self._uploads.expect(request.path_params["id"], request.path_params["key"], sha256_from(text))
        log.info("sender's SHA-256 recorded", extra={"sha256": upload.expected_sha256})
        return Response(status_code=204, headers=HEADERS)


async def _answer(request: Request, endpoint: Callable[[Request], Awaitable[Response]]) -> Response:
    with logs.bound(upload_id=request.path_params["id"]):
        try:
            return await endpoint(request)
        except ValueError as error:
            return _refuse(400, error)
        except NotFound as error:
            return _refuse(404, error)
        except Mismatch as error:
            return _refuse(409, error)
        except Gone as error:
            return _refuse(410, error)
        except DatabaseUnavailable:
            return _refuse(503, "the database is being switched over: try again in a few seconds")


def _refuse(status: int, reason: Exception | str) -> Response:
    log.info("refused", extra={"status": status, "reason": str(reason)})
    return JSONResponse({"error": str(reason)}, status_code=status, headers=HEADERS)
