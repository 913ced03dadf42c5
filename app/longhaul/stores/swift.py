"""OpenStack Swift through several proxies, with tempauth.

This module relies on three promises of Swift: 201 means that a quorum of replicas has fsynced the object; a body that
is cut short leaves nothing; an ETag that does not match gives 422 and leaves nothing. No other answer proves a quorum.
An object that is visible may have a single copy, left by a PUT that got 503: one copy is enough for HEAD to find it and
for `If-None-Match: *` to be refused with 412.

A piece of one batch is sent whole, with its MD5. After a failure it is sent again through another proxy, over whatever
the earlier try left: the bytes are the same, because each name has one writer. A larger piece is streamed:
`Expect: 100-continue` finds a proxy that can take it before the first byte is sent. After that a failure ends the
piece, because the bytes that were sent are no longer in memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import aiohttp
from yarl import URL

from longhaul import logs
from longhaul.stores.content import hashing
from longhaul.stores.interface import Entry, ObjectMissing, StoreError

log = logs.get(__name__)

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 30.0
"""Longest wait for an answer, or for more of one: a frozen storage host delays a request by up to 12 s."""
AVOID_SECONDS = 5.0
"""A proxy that failed is tried last for this long."""
LISTING = 5000
READ_BYTES = 1 << 18


class _Retry(Exception):
    """This proxy cannot do it now: try another one."""


class _NewToken(Exception):
    """The proxies no longer know the token (they keep tokens in memcached): log in again."""


@dataclass(frozen=True, slots=True)
class _Login:
    token: str
    path: str
    """Path of the account, such as /v1/AUTH_files; the same at every proxy."""


@dataclass(frozen=True, slots=True)
class _Target:
    """A container at a proxy, with the headers that each request needs."""

    container: URL
    headers: dict[str, str]

    def object(self, name: str) -> URL:
        return URL(f"{self.container}/{quote(name)}", encoded=True)


class SwiftStore:
    """Objects in one container."""

    def __init__(
        self,
        proxies: Sequence[str],
        *,
        user: str,
        key: str,
        container: str,
        ca_file: str = "",
        patience: float = 60.0,
    ) -> None:
        """`proxies` are base URLs. Requests that can be repeated are tried for `patience` seconds."""
        self._proxies = [proxy.rstrip("/") for proxy in proxies]
        self._avoid_until = dict.fromkeys(self._proxies, 0.0)
        self._user = user
        self._key = key
        self._container = container
        self._ca_file = ca_file
        self.patience = patience
        self._login: _Login | None = None
        self._login_lock = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None

    def sink(self, name: str) -> SwiftSink:
        """See Store."""
        return SwiftSink(self, name)

    async def read(self, name: str, start: int, length: int) -> AsyncIterator[bytes]:
        """See Store."""
        if length == 0:
            return
        headers = {"Range": f"bytes={start}-{start + length - 1}"}

        async def open_object(target: _Target) -> aiohttp.ClientResponse:
            response = await self.session.get(target.object(name), headers=target.headers | headers)
            if response.status not in (200, 206):
                await _refuse(response, name)
            return response

        response = await self.through_a_proxy(f"reading {name}", open_object)
        try:
            async for data in response.content.iter_chunked(READ_BYTES):
                yield data
        except (aiohttp.ClientError, TimeoutError) as error:
            raise StoreError(f"reading {name} broke off: {error!r}") from error
        finally:
            response.close()

    async def delete(self, name: str) -> None:
        """See Store."""

        async def remove(target: _Target) -> None:
            async with self.session.delete(target.object(name), headers=target.headers) as response:
                if response.status not in (204, 404):
                    await _refuse(response, name)

        await self.through_a_proxy(f"deleting {name}", remove)

    async def close(self) -> None:
        """See Store."""
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """Made at first use, because it belongs to the running event loop."""
        if self._session is None:
            context = ssl.create_default_context(cafile=self._ca_file or None)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=context),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=ANSWER_SECONDS),
                auto_decompress=False,
            )
        return self._session

    async def through_a_proxy[T](
        self, what: str, operation: Callable[[_Target], Awaitable[T]], patience: float | None = None
    ) -> T:
        """Try the operation at one proxy after the other, for `patience` seconds. Raises StoreError, ObjectMissing."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self.patience if patience is None else patience)
        pause = 0.1
        while True:
            missing: ObjectMissing | None = None
            reasons = []
            for proxy in self._in_order():
                try:
                    return await self._at(proxy, operation)
                except ObjectMissing as error:
                    # A proxy that reaches too few replicas answers 404 too: ask all proxies.
                    missing = error
                except (aiohttp.ClientError, TimeoutError, OSError, _Retry) as error:
                    self._avoid_until[proxy] = loop.time() + AVOID_SECONDS
                    reasons.append(f"{proxy}: {error!r}")
            if missing is not None and not reasons:
                raise missing
            if loop.time() + pause > deadline:
                raise StoreError(f"{what}: {'; '.join(reasons)}")
            log.warning("the store is away, trying again", extra={"what": what, "reasons": reasons})
            await asyncio.sleep(pause)
            pause = min(2.0, pause * 2)

    async def _at[T](self, proxy: str, operation: Callable[[_Target], Awaitable[T]]) -> T:
        login = await self._logged_in(proxy)
        try:
            return await operation(self._target(proxy, login))
        except _NewToken:
            if self._login is login:
                self._login = None
        login = await self._logged_in(proxy)
        try:
            return await operation(self._target(proxy, login))
        except _NewToken:
            raise _Retry("a new token was refused: are the proxies' clocks right, do they share memcached?") from None

    def _target(self, proxy: str, login: _Login) -> _Target:
        return _Target(URL(f"{proxy}{login.path}/{self._container}"), {"X-Auth-Token": login.token})

    def _in_order(self) -> list[str]:
        """The proxies in turn. Those that failed lately come last."""
        self._proxies.append(self._proxies.pop(0))
        now = asyncio.get_running_loop().time()
        return sorted(self._proxies, key=lambda proxy: self._avoid_until[proxy] > now)

    async def _logged_in(self, proxy: str) -> _Login:
        async with self._login_lock:
            if self._login is None:
                self._login = await self._log_in(proxy)
            return self._login

    async def _log_in(self, proxy: str) -> _Login:
        headers = {"X-Auth-User": self._user, "X-Auth-Key": self._key}
        async with self.session.get(f"{proxy}/auth/v1.0", headers=headers) as response:
            if response.status == 401:
                raise _Retry(f"user {self._user!r} or its key is wrong")
            if response.status not in (200, 204):
                await _refuse(response, "login")
            path = urlsplit(response.headers["X-Storage-Url"]).path.rstrip("/")
            login = _Login(response.headers["X-Auth-Token"], path)
        target = self._target(proxy, login)
        async with self.session.put(target.container, headers=target.headers) as response:
            if response.status not in (201, 202):
                await _refuse(response, "the container")
        return login

    async def list(self, prefix: str) -> AsyncIterator[Entry]:
        """See Store."""
        marker = ""
        while True:
            query = {"format": "json", "prefix": prefix, "marker": marker, "limit": str(LISTING)}

            async def page(target: _Target, query: dict[str, str] = query) -> list[Entry]:
                async with self.session.get(target.container.with_query(query), headers=target.headers) as response:
                    if response.status == 404:
                        return []
                    if response.status not in (200, 204):
                        await _refuse(response, "the container")
                    rows = await response.json() if response.status == 200 else []
                    return [Entry(row["name"], row["bytes"]) for row in rows]

            entries = await self.through_a_proxy(f"listing {prefix}", page)
            for entry in entries:
                yield entry
            if len(entries) < LISTING:
                return
            marker = entries[-1].name


class SwiftSink:
    """One object on its way in; see Sink."""

    def __init__(self, store: SwiftStore, name: str) -> None:
        self._store = store
        self._name = name
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._length = 0
        self._first = b""
        self._stream: _Stream | None = None

    async def write(self, data: bytes) -> None:
        """See Sink."""
        await asyncio.get_running_loop().run_in_executor(hashing, self._md5.update, data)
        self._length += len(data)
        if self._length == len(data):
            # This may be all: then it is sent whole when the sink is closed.
            self._first = data
            return
        if self._stream is None:
            self._stream = await self._store.through_a_proxy(f"storing {self._name}", self._open_stream)
            first, self._first = self._first, b""
            await self._stream.send(first)
        await self._stream.send(data)

    async def close(self) -> None:
        """See Sink."""
        if self._stream is None:
            await self._store.through_a_proxy(f"storing {self._name}", self._put_whole)
            return
        status, etag = await self._stream.finish()
        if status != 201:
            raise StoreError(f"storing {self._name}: status {status}")
        if etag != self._md5.hexdigest():
            raise StoreError(f"storing {self._name}: {etag} was stored instead of {self._md5.hexdigest()}")

    async def abort(self) -> None:
        """See Sink."""
        self._first = b""
        if self._stream is not None:
            await self._stream.abort()

    async def _put_whole(self, target: _Target) -> None:
        status = await self._put(target, {"If-None-Match": "*"})
        if status == 412:
            # An earlier try left at least one copy. Only another PUT can tell whether there are enough.
            await self._compare(target)
            status = await self._put(target, {})
        if status != 201:
            _judge(status, self._name)

    async def _put(self, target: _Target, condition: dict[str, str]) -> int:
        headers = target.headers | condition | {"ETag": self._md5.hexdigest()} | _BINARY
        async with self._store.session.put(target.object(self._name), data=self._first, headers=headers) as response:
            return response.status

    async def _compare(self, target: _Target) -> None:
        """Raise StoreError if other bytes have this name."""
        async with self._store.session.head(target.object(self._name), headers=target.headers) as response:
            if response.status != 200:
                await _refuse(response, self._name)
            found = response.headers.get("ETag", "").strip('"'), response.headers.get("Content-Length")
            if found != (self._md5.hexdigest(), str(self._length)):
                raise StoreError(f"{self._name} exists with other content: {found}")

    async def _open_stream(self, target: _Target) -> _Stream:
        stream = _Stream(self._store.session, target.object(self._name), target.headers | {"If-None-Match": "*"})
        await stream.open(self._name)
        return stream


class _Stream:
    """A chunked PUT under way."""

    def __init__(self, session: aiohttp.ClientSession, url: URL, headers: dict[str, str]) -> None:
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=1)
        self._wanted = asyncio.Event()
        self._task = asyncio.create_task(self._put(session, url, headers))

    async def open(self, name: str) -> None:
        """Wait until the proxy asks for the body. Raises _Retry, _NewToken and aiohttp's errors."""
        wanted = asyncio.create_task(self._wanted.wait())
        try:
            await asyncio.wait({wanted, self._task}, timeout=ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if self._wanted.is_set():
                return
            if not self._task.done():
                raise TimeoutError(f"no answer in {ANSWER_SECONDS} s")
            status, _ = self._task.result()
            _judge(status, name)
        except BaseException:
            await self.abort()
            raise
        finally:
            wanted.cancel()

    async def send(self, data: bytes) -> None:
        """Queue a part. Returns when the part before it is being sent. Raises StoreError."""
        put = asyncio.create_task(self._parts.put(data))
        try:
            await asyncio.wait({put, self._task}, timeout=ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if self._task.done():
                raise StoreError(f"the store ended the request early: {_outcome(self._task)}")
            if not put.done():
                raise StoreError(f"the store took nothing for {ANSWER_SECONDS} s")
        finally:
            put.cancel()

    async def finish(self) -> tuple[int, str]:
        """End the body; returns status and ETag. Raises StoreError."""
        await self.send_end()
        done, _ = await asyncio.wait({self._task}, timeout=2 * ANSWER_SECONDS)
        if not done:
            raise StoreError(f"no answer to a stored piece in {2 * ANSWER_SECONDS} s")
        try:
            return self._task.result()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise StoreError(f"the store broke off: {error!r}") from error

    async def send_end(self) -> None:
        put = asyncio.create_task(self._parts.put(None))
        await asyncio.wait({put, self._task}, timeout=ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        put.cancel()

    async def abort(self) -> None:
        """Close the connection. A body that is cut short leaves nothing in the store."""
        self._task.cancel()
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.exception()

    async def _put(self, session: aiohttp.ClientSession, url: URL, headers: dict[str, str]) -> tuple[int, str]:
        async with session.put(url, data=self._body(), headers=headers | _BINARY, expect100=True) as response:
            if response.status != 201:
                # The proxy did not take the body: do not wait until the rest of it is sent.
                response.close()
            return response.status, response.headers.get("ETag", "").strip('"')

    async def _body(self) -> AsyncIterator[bytes]:
        self._wanted.set()
        while (part := await self._parts.get()) is not None:
            yield part


_BINARY = {"Content-Type": "application/octet-stream"}


def _outcome(task: asyncio.Task[tuple[int, str]]) -> str:
    error = task.exception()
    return f"status {task.result()[0]}" if error is None else repr(error)


async def _refuse(response: aiohttp.ClientResponse, name: str) -> None:
    status = response.status
    response.release()
    _judge(status, name)


def _judge(status: int, name: str) -> None:
    """Raise what an unexpected status means."""
    if status == 401:
        raise _NewToken
    if status == 404:
        raise ObjectMissing(f"{name} is not in the store")
    raise _Retry(f"{name}: status {status}")
