"""A web process as a browser or a program meets it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from longhaul.processing.records import Attempts
from longhaul.services import Services
from longhaul.stores.content import store_file
from longhaul.uploads.model import Upload
from longhaul.uploads.results import Result, result_object
from ops import frontend
from tests.support import Browser, make_settings, make_upload

APP = Path(__file__).parents[1]
TRACE_KEY = b"a key of the tests, for traces"
TOKENS = {"ann": "token-of-ann", "bob": "token-of-bob"}
CONTENT = "".join(f"line {number}\n" for number in range(200_000)).encode()  # 2.2 MiB
BLOCK = 1 << 20
PIECE = 3 * BLOCK // 2


@dataclass
class Site:
    """A web process, and the database and store behind it."""

    url: str
    conninfo: str
    root: Path
    process: subprocess.Popen[bytes]

    def browser(self, owner: str | None = "ann") -> Browser:
        """Signed in by cookie; None: not signed in."""
        browser = Browser(self.url)
        if owner is not None:
            assert browser.sign_in(TOKENS[owner]).status == 303
        return browser

    def program(self, owner: str = "ann") -> Browser:
        """With a bearer token."""
        return Browser(self.url, token=TOKENS[owner])

    @property
    def sockets(self) -> Path:
        """The folder in which the process listens for those who may trace it."""
        return self.root / "run"

    def sql(self, query: str, *values: Any) -> None:
        with psycopg.connect(self.conninfo) as connection:
            connection.execute(query.encode(), values)

    def uploaded(self, content: bytes = CONTENT, **metadata: str) -> str:
        """An upload of ann that has arrived; returns its id."""
        return self._with_services(lambda services: make_upload(services, content, piece=PIECE, **metadata))

    def processed(self, results: dict[str, bytes], content: bytes = b"content") -> str:
        """An upload of ann that is done, with those results; returns its id."""

        async def make(services: Services) -> Upload:
            upload = await make_upload(services, content)
            attempts = Attempts(services.database, worker="test", release="r1")
            attempt = await attempts.begin(upload.id, 1)
            assert attempt is not None
            made: list[Result] = []
            for name, data in results.items():
                path = self.root / "result"
                path.write_bytes(data)
                result_id = uuid.uuid4()
                object_name = result_object(upload.id, attempt.id, result_id)
                stored = await store_file(services.store, object_name, path)
                made.append(
                    Result(
                        id=result_id,
                        name=name,
                        size=stored.size,
                        sha256=stored.sha256,
                        content_type="text/plain",
                        digests=stored.digests,
                        object_name=object_name,
                    )
                )
            digest = hashlib.sha256(content).hexdigest()
            assert await attempts.publish(
                attempt, sha256=digest, media_type="text/plain", results=made, processors="p1"
            )
            return upload

        return self._with_services(make)

    def _with_services(self, work: Callable[[Services], Coroutine[Any, Any, Upload]]) -> str:
        async def run() -> str:
            services = Services.from_settings(make_settings(self.conninfo, self.root))
            try:
                return (await work(services)).id
            finally:
                await services.close()

        return asyncio.run(run())


@contextmanager
def served(conninfo: str, root: Path) -> Iterator[Site]:
    """A site of ann and bob with a database of its own, and its files below `root`."""
    frontend.build()
    (root / "store").mkdir()
    (root / "credentials").mkdir()
    (root / "run").mkdir()
    (root / "credentials" / "trace-key").write_bytes(TRACE_KEY)
    tokens = (f"{name}:{hashlib.sha256(token.encode()).hexdigest()}\n" for name, token in TOKENS.items())
    (root / "credentials" / "access-tokens").write_text("".join(tokens))
    (root / "credentials" / "session-secret").write_text("a secret of the tests\n")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": str(APP),
        "CREDENTIALS_DIRECTORY": str(root / "credentials"),
        "RUNTIME_DIRECTORY": str(root / "run"),
        "LONGHAUL_ENVIRONMENT": "tests",
        "LONGHAUL_DATABASE": conninfo,
        "LONGHAUL_STORE": f"directory:{root / 'store'}",
        "LONGHAUL_LISTEN": f"127.0.0.1:{port}",
        "LONGHAUL_SERVER": "test",
        "LONGHAUL_DRAIN_MARK": str(root / "drain"),
        "LONGHAUL_EPOCH_POLL_SECONDS": "0.1",
        "LONGHAUL_HANDOVER_SECONDS": "5",
    }
    with (root / "web.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "longhaul.cli", "web"], env=environment, stdout=log)
    made = Site(f"http://127.0.0.1:{port}", conninfo, root, process)
    try:
        _wait_until_healthy(made)
        yield made
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_healthy(site: Site) -> None:
    deadline = time.monotonic() + 40
    while True:
        try:
            if Browser(site.url).get("/healthz").status == 200:
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, (site.root / "web.log").read_text()
        assert site.process.poll() is None, (site.root / "web.log").read_text()
        time.sleep(0.1)
