"""What the tests of pages, API and processing share."""

from __future__ import annotations

import asyncio
import base64
import functools
import http.client
import json
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from longhaul.services import Services
from longhaul.settings import Settings
from longhaul.uploads.model import Upload
from longhaul.uploads.pieces import PieceWriter

PROCESSORS = Path(__file__).parents[1] / "processors"


def asynchronous[**P](test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Makes a plain test function of a coroutine function, with an event loop of its own."""

    @functools.wraps(test)
    def run(*arguments: P.args, **named: P.kwargs) -> None:
        asyncio.run(test(*arguments, **named))

    return run


async def until[T](ask: Callable[[], Awaitable[T | None]], *, seconds: float = 15.0) -> T:
    """The first answer that is neither None nor False; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := await ask()):
        assert time.monotonic() < deadline, f"still {answer!r} after {seconds} s"
        await asyncio.sleep(0.05)
    return answer


def make_settings(conninfo: str, root: Path, **values: Any) -> Settings:
    """Settings over a database and a store of the test's own."""
    work = root / "work"
    work.mkdir(exist_ok=True)
    (root / "store").mkdir(exist_ok=True)
    given: dict[str, Any] = {
        "database": conninfo,
        "store": f"directory:{root / 'store'}",
        "server": "test",
        "processors": str(PROCESSORS),
        "work": str(work),
    }
    return Settings(**(given | values))


async def make_upload(
    services: Services, content: bytes, *, filename: str = "file.bin", piece: int = 1 << 20, **metadata: str
) -> Upload:
    """An upload of `content` that has arrived whole, in pieces of `piece` bytes, and is queued."""
    encoded = {name: base64.b64encode(value.encode()).decode() for name, value in metadata.items()}
    upload = await services.uploads.create(owner="ann", size=len(content), filename=filename, metadata=encoded)
    if not content:
        return upload
    upload = await services.uploads.take_over(upload.id, upload.key, receiver="test")
    for start in range(0, len(content), piece):
        writer = PieceWriter(services.store, upload_id=upload.id, epoch=upload.epoch, start=start)
        await writer.write(content[start : start + piece])
        await services.uploads.commit_pieces([await writer.close()])
    return await services.uploads.get(upload.id)


@dataclass(frozen=True)
class Answer:
    """An answer over HTTP; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Browser:
    """As much of a browser as the tests need: cookies, and the headers that show where a request came from."""

    url: str
    token: str | None = None
    cookies: dict[str, str] = field(default_factory=dict)
    set_cookie: str = ""
    """The last Set-Cookie header, whole."""

    def connect(self) -> http.client.HTTPConnection:
        """A connection of its own, for streams."""
        return http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=20)

    def headers(self, method: str, headers: dict[str, str] | None = None) -> dict[str, str]:
        """What this browser sends with a request."""
        sent: dict[str, str] = {}
        if self.token is not None:
            sent["Authorization"] = f"Bearer {self.token}"
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if method not in ("GET", "HEAD"):
            sent["Origin"] = self.url
        return sent | (headers or {})

    def ask(
        self, method: str, path: str, body: bytes | str | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """One request; redirects are not followed."""
        connection = self.connect()
        try:
            connection.request(method, path, body=body, headers=self.headers(method, headers))
            response = connection.getresponse()
            answer = Answer(
                response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
            )
        finally:
            connection.close()
        if "set-cookie" in answer.headers:
            self.set_cookie = answer.headers["set-cookie"]
            for name, morsel in SimpleCookie(self.set_cookie).items():
                if morsel.value:
                    self.cookies[name] = morsel.value
                else:
                    self.cookies.pop(name, None)
        return answer

    def get(self, path: str, **headers: str) -> Answer:
        """GET; `headers` with `_` for `-`."""
        return self.ask("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def sign_in(self, token: str, **fields: str) -> Answer:
        """Send the login form."""
        form = "&".join(f"{name}={value}" for name, value in ({"token": token} | fields).items())
        return self.ask("POST", "/login", form, {"Content-Type": "application/x-www-form-urlencoded"})

    def upload(self, content: bytes, filename: str = "file.txt", *, send: int | None = None) -> str:
        """Upload with tus (only the first `send` bytes of it) and return the upload's id."""
        created = self.ask(
            "POST",
            "/files/",
            headers={
                "Tus-Resumable": "1.0.0",
                "Upload-Length": str(len(content)),
                "Upload-Metadata": f"filename {base64.b64encode(filename.encode()).decode()}",
            },
        )
        assert created.status == 201, created.text
        path = urlsplit(created.headers["location"]).path
        part = content if send is None else content[:send]
        if part:
            sent = self.ask(
                "PATCH",
                path,
                part,
                {
                    "Tus-Resumable": "1.0.0",
                    "Upload-Offset": "0",
                    "Content-Type": "application/offset+octet-stream",
                },
            )
            assert sent.status == 204, sent.text
        return path.rsplit("/", 1)[1]
