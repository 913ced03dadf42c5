"""The web process: uvicorn around the application, its health, and its end.

At SIGTERM the process stops listening. At the same time every receiver stores and commits what it has and closes its
connection. Clients continue at another server. uvicorn alone would wait for requests to end, which may take a week.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from linetrace.asgi import LineTrace
from longhaul import logs, tracing
from longhaul.services import Services
from longhaul.settings import POLICY, Settings, SettingsError
from longhaul.web import routes, tus, tus_exchange
from longhaul.web.proof import Proof

log = logs.get(__name__)

BACKLOG = 8192
"""Connections that may wait to be accepted: thousands of clients may come back at once. The kernel limits it too."""
KEEP_ALIVE_SECONDS = int(POLICY["policy_balancer_keep_alive_seconds"]) + 15
"""Longer than the balancer keeps an idle connection: else this server could close it as a request arrives."""
CLOSING_SECONDS = 2.0


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which also lets the application close a connection without an answer."""

    def on_headers_complete(self) -> None:
        """See HttpToolsProtocol."""
        extensions: dict[str, Any] = self.scope.setdefault("extensions", {})
        extensions[tus_exchange.ABORT] = self.transport.abort
        super().on_headers_complete()


class Server(uvicorn.Server):
    """Begins the hand-over when told to stop."""

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services
        self._handing_over: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """See uvicorn.Server."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Signal handler. Unlike uvicorn's, it lets the process end with exit code 0 instead of by the signal."""
        del sig, frame
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._hand_over)

    def _hand_over(self) -> None:
        if self._handing_over is None:
            log.info("handing over", extra={"receivers": len(self._services.receivers.all())})
            self._handing_over = asyncio.create_task(self._services.receivers.hand_over())
            self._handing_over.add_done_callback(lambda _: log.info("handed over"))


class Health:
    """Answers the load balancer: 200 sends requests here, 404 drains this host, 503 avoids it.

    If the database is unreachable, this host first stays in: all hosts would go out at the same time, and clients that
    can be made to wait would be refused. It answers 503 after `head_hold_seconds`, when requests are refused anyway.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._mark = Path(services.settings.drain_mark)
        self._started = time.monotonic()

    async def answer(self, _: Request) -> Response:
        """Serve /healthz."""
        if self._services.receivers.closing.is_set():
            return PlainTextResponse("stopping\n", 404)
        if self._mark.exists():
            return PlainTextResponse(f"drained: {self._mark} exists\n", 404)
        polled = self._services.receivers.polled_at
        if polled is None:
            return PlainTextResponse("the database was not reached since the start\n", 503)
        silence = asyncio.get_running_loop().time() - polled
        if silence > self._services.settings.head_hold_seconds:
            return PlainTextResponse(f"the database was last reached {silence:.0f} s ago\n", 503)
        return PlainTextResponse("ok\n")


class RequestLog:
    """Gives each request its id and one log line. Plain ASGI: bodies pass through unchanged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope).get("x-request-id", ""))
        scope.setdefault("state", {})["request_id"] = request_id
        began = time.monotonic()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        with logs.bound(request_id=request_id):
            try:
                await self._app(scope, receive, sending)
            finally:
                # Not for health checks: each balancer sends one every second.
                if scope["path"] != "/healthz":
                    log.info(
                        "request",
                        extra={
                            "method": scope["method"],
                            "path": without_key(scope["path"]),
                            "status": status or None,
                            "seconds": round(time.monotonic() - began, 3),
                            "client": (scope.get("client") or ("",))[0],
                        },
                    )


def without_key(path: str) -> str:
    """The path of a request without the key of an upload URL, which gives the right to send and delete."""
    return re.sub(r"^/files/[^/]+/", "/files/-/", path)


def _request_id(given: str) -> str:
    return given if re.fullmatch(r"[A-Za-z0-9:._-]{4,128}", given) else secrets.token_hex(8)


def create_app(services: Services) -> Starlette:
    """The whole web application. Raises SettingsError."""
    uploads = tus.Tus(services, routes.authenticator(services))
    proof = Proof(services)
    served: list[BaseRoute] = [
        Route("/healthz", Health(services).answer),
        Route("/files", uploads),
        Route("/files/", uploads),
        Route("/files/{key}/{id}", uploads),
        Route("/files/{key}/{id}/digests", proof.digests),
        Route("/files/{key}/{id}/sha256", proof.sha256, methods=["PUT"]),
        *routes.pages_and_api(services),
    ]

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(services.receivers.watch())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            # A COMMIT that hangs is left: its client got no answer.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSING_SECONDS):
                    await services.close()

    app = Starlette(routes=served, lifespan=lifespan)
    app.router.redirect_slashes = False
    trace_key = services.settings.credential("trace-key")
    app.add_middleware(
        LineTrace,
        folders=tracing.FOLDERS,
        token_key=trace_key.encode() if trace_key else None,
        environment=services.settings.environment,
        request_id=lambda scope: scope["state"]["request_id"],
    )
    app.add_middleware(RequestLog)  # the outer one: it makes the id
    return app


def serve(settings: Settings) -> None:
    """Run the web process until it is told to stop. Raises SettingsError."""
    services = Services.from_settings(settings)
    host, port = settings.listen_address()
    config = uvicorn.Config(
        create_app(services),
        host=host,
        port=port,
        http=Protocol,
        loop="uvloop",
        lifespan="on",
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, int(settings.handover_seconds)),
        ssl_certfile=settings.tls_cert or None,
        ssl_keyfile=settings.tls_key or None,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"LONGHAUL_TLS_CERT and LONGHAUL_TLS_KEY cannot be used: {error}") from error
    Server(config, services).run()
