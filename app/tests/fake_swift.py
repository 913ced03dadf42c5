"""The part of OpenStack Swift's behaviour that the store relies on, in this process, with faults on demand.

Semantics as in the documentation and as measured on a real cluster: 201 after the whole body, nothing after a body cut
short, 422 for a wrong ETag, tokens that end, listings by name. 201 means copies on a quorum of the storage hosts, but
any one copy is enough for HEAD, GET and listings, and for `If-None-Match: *` to be refused with 412. Nothing is
replicated later.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

from aiohttp import web

USER, KEY = "files:app", "fake-key"
HOSTS, QUORUM = 3, 2


class Fault(Enum):
    """What a proxy does wrong with the next request that it fits."""

    UNAVAILABLE = "answers 503 before it takes the body"
    UNAVAILABLE_LATE = "answers 503 after the body"
    ONE_COPY = "answers 503 when one storage host has the object and the others do not answer"
    CUT_BODY = "closes the connection when the first of the body has come"
    LOSE_ANSWER = "stores the object, then closes the connection"
    FORGET_TOKENS = "its memcached was restarted"
    FLIP_BYTE = "delivers a wrong byte"
    CUT_ANSWER = "closes the connection in the middle of the object"
    WRONG_ETAG = "has stored something else than was sent"


FAULT: web.RequestKey[Fault | None] = web.RequestKey("fault", Fault | None)  # type: ignore[arg-type]  # a union
_FITS = {
    "PUT": {
        Fault.UNAVAILABLE,
        Fault.UNAVAILABLE_LATE,
        Fault.ONE_COPY,
        Fault.CUT_BODY,
        Fault.LOSE_ANSWER,
        Fault.FORGET_TOKENS,
        Fault.WRONG_ETAG,
    },
    "GET": {Fault.UNAVAILABLE, Fault.FORGET_TOKENS, Fault.FLIP_BYTE, Fault.CUT_ANSWER},
    "HEAD": {Fault.UNAVAILABLE},
    "DELETE": {Fault.UNAVAILABLE},
}


@dataclass
class Cluster:
    """What all proxies share: storage hosts, tokens, and the faults that are due."""

    hosts: list[dict[str, bytes]] = field(default_factory=lambda: [{} for _ in range(HOSTS)])
    """The objects of each storage host. The first one gets a copy of all."""
    containers: set[str] = field(default_factory=set)
    tokens: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    chunked: int = 0

    def objects(self) -> dict[str, bytes]:
        """What can be seen: any copy is enough."""
        return {name: data for host in self.hosts for name, data in host.items()}

    def find(self, name: str) -> bytes | None:
        """The object as a proxy finds it, or None."""
        return next((host[name] for host in self.hosts if name in host), None)

    def durable(self, name: str) -> bytes | None:
        """The object as it is found after the loss of the host that loses the most; None if there is no other copy."""
        return next((host[name] for host in self.hosts[1:] if name in host), None)

    def put(self, name: str, data: bytes, copies: int) -> None:
        """Store it on so many hosts."""
        for host in self.hosts[:copies]:
            host[name] = data

    def delete(self, name: str) -> bool:
        """Remove all copies; False if there were none."""
        copies = [host.pop(name, None) for host in self.hosts]
        return any(copy is not None for copy in copies)

    def fault(self, method: str) -> Fault | None:
        """Take the first fault that fits."""
        for fault in self.faults:
            if fault in _FITS[method]:
                self.faults.remove(fault)
                return fault
        return None


class FakeSwift:
    """Proxies in front of one cluster: `async with FakeSwift(2) as swift`."""

    def __init__(self, proxies: int = 2) -> None:
        self.cluster = Cluster()
        self.urls: list[str] = []
        self._count = proxies
        self._runners: list[web.AppRunner] = []

    async def __aenter__(self) -> FakeSwift:
        for _ in range(self._count):
            application = web.Application(client_max_size=1 << 40)
            application.router.add_get("/auth/v1.0", self._login)
            application.router.add_route("*", "/v1/AUTH_files/{container}", self._container)
            application.router.add_route(
                "*", "/v1/AUTH_files/{container}/{name:.+}", self._object, expect_handler=self._expect
            )
            runner = web.AppRunner(application, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self._runners.append(runner)
            host, port = runner.addresses[0][:2]
            self.urls.append(f"http://{host}:{port}")
        return self

    async def __aexit__(self, *_: object) -> None:
        for runner in self._runners:
            await runner.cleanup()

    async def stop_proxy(self, number: int) -> None:
        """Kill one: its connections break, new ones are refused."""
        await self._runners[number].cleanup()

    async def _login(self, request: web.Request) -> web.Response:
        if (request.headers.get("X-Auth-User"), request.headers.get("X-Auth-Key")) != (USER, KEY):
            return web.Response(status=401)
        token = f"AUTH_tk{secrets.token_hex(8)}"
        self.cluster.tokens.add(token)
        # A proxy tells the address that it thinks it has.
        return web.Response(headers={"X-Storage-Url": "http://inside:8080/v1/AUTH_files", "X-Auth-Token": token})

    def _authorised(self, request: web.Request) -> bool:
        return request.headers.get("X-Auth-Token") in self.cluster.tokens

    async def _container(self, request: web.Request) -> web.Response:
        container = request.match_info["container"]
        if not self._authorised(request):
            return web.Response(status=401)
        if request.method == "PUT":
            self.cluster.containers.add(container)
            return web.Response(status=201)
        if container not in self.cluster.containers:
            return web.Response(status=404)
        if request.method == "HEAD":
            return web.Response(status=204)
        prefix, marker = f"{container}/{request.query['prefix']}", f"{container}/{request.query['marker']}"
        objects = self.cluster.objects()
        names = sorted(name for name in objects if name.startswith(prefix) and name > marker)
        rows = [
            {"name": name.removeprefix(f"{container}/"), "bytes": len(objects[name])}
            for name in names[: int(request.query["limit"])]
        ]
        return web.json_response(rows)

    async def _expect(self, request: web.Request) -> web.StreamResponse | None:
        """What happens before the body is asked for: here refusals come at no cost."""
        if (refusal := self._refusal(request)) is not None:
            return refusal
        assert request.transport is not None
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    def _refusal(self, request: web.Request) -> web.Response | None:
        fault = request.get(FAULT) or self.cluster.fault(request.method)
        request[FAULT] = fault
        if fault is Fault.FORGET_TOKENS:
            self.cluster.tokens.clear()
            request[FAULT] = None
        status = None
        if fault is Fault.UNAVAILABLE:
            status = 503
        elif not self._authorised(request):
            status = 401
        elif request.match_info["container"] not in self.cluster.containers:
            status = 404
        elif "If-None-Match" in request.headers and self.cluster.find(self._name(request)) is not None:
            status = 412
        if status is None:
            return None
        self.cluster.statuses[status] += 1
        return web.Response(status=status, headers={"Connection": "close"})

    def _name(self, request: web.Request) -> str:
        return f"{request.match_info['container']}/{request.match_info['name']}"

    async def _object(self, request: web.Request) -> web.StreamResponse:
        self.cluster.seen[request.method] += 1
        if (refusal := self._refusal(request)) is not None:
            return refusal
        name, fault = self._name(request), request[FAULT]
        if request.method == "PUT":
            response = await self._put(request, name, fault)
        elif request.method == "DELETE":
            response = web.Response(status=204 if self.cluster.delete(name) else 404)
        elif (data := self.cluster.find(name)) is None:
            response = web.Response(status=404)
        else:
            return await self._get(request, data, fault)
        self.cluster.statuses[response.status] += 1
        return response

    async def _put(self, request: web.Request, name: str, fault: Fault | None) -> web.Response:
        body = bytearray()
        self.cluster.chunked += request.headers.get("Transfer-Encoding") == "chunked"
        async for part in request.content.iter_any():
            body += part
            if fault is Fault.CUT_BODY:
                _cut(request)
        if fault is Fault.UNAVAILABLE_LATE:
            return web.Response(status=503)
        if "Content-Length" in request.headers and len(body) != int(request.headers["Content-Length"]):
            return web.Response(status=499)
        if fault is Fault.WRONG_ETAG:
            body = bytearray(len(body))
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        if request.headers.get("ETag", etag) != etag:
            return web.Response(status=422)
        self.cluster.put(name, bytes(body), 1 if fault is Fault.ONE_COPY else QUORUM)
        if fault is Fault.ONE_COPY:
            return web.Response(status=503)
        if fault is Fault.LOSE_ANSWER:
            _cut(request)
        return web.Response(status=201, headers={"ETag": etag})

    async def _get(self, request: web.Request, data: bytes, fault: Fault | None) -> web.StreamResponse:
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        status, part = 200, data
        if "Range" in request.headers:
            span = request.http_range
            part, status = data[span], 206
        if fault is Fault.FLIP_BYTE and part:
            part = part[:-1] + bytes([part[-1] ^ 1])
        response = web.StreamResponse(status=status, headers={"ETag": etag, "Content-Length": str(len(part))})
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        if fault is Fault.CUT_ANSWER:
            await response.write(part[: len(part) // 2])
            _cut(request)
        await response.write(part)
        return response


def _cut(request: web.Request) -> None:
    """Break the connection and end the handler."""
    if request.transport is not None:
        request.transport.abort()
    raise asyncio.CancelledError
