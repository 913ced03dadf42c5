"""Real web processes on this machine, and clients that talk to them byte by byte."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TOKEN = "token-of-the-tests"
TUS = {"Tus-Resumable": "1.0.0"}
BODY = {"Content-Type": "application/offset+octet-stream"}
LOGIN = {"Authorization": f"Bearer {TOKEN}"}
MIB = 1 << 20
START_SECONDS = 60


@dataclass
class Answer:
    """Status, headers in lower case, and text."""

    status: int
    headers: dict[str, str]
    text: str


@dataclass
class Web:
    """A web process; `name` is its server's, `module` what is run."""

    name: str
    port: int
    environment: dict[str, str]
    output: Path
    process: subprocess.Popen[bytes] | None = None
    module: str = "tests.bare_web"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it is healthy."""
        with self.output.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module], env=self.environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if self.request("GET", "/healthz").status == 200:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"{self.name} did not start:\n{self.output.read_text()}")

    def kill(self) -> None:
        """As a power cut would."""
        self._signal(signal.SIGKILL)

    def stop(self) -> int:
        """As systemd would; returns the exit code."""
        return self._signal(signal.SIGTERM)

    def terminate(self) -> None:
        """Send SIGTERM and do not wait."""
        assert self.process is not None
        self.process.terminate()

    def _signal(self, number: int) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(number)
        code = self.process.wait(timeout=60)
        self.process = None
        return code

    def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        """One request on a connection of its own; `path` may be a whole URL."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, urlsplit(path).path, skip_accept_encoding=True)
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            if body is not None and "Content-Length" not in (headers or {}):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, fields, response.read().decode())
        finally:
            connection.close()

    def create(self, size: int, **headers: str) -> str:
        """Create an upload, and return its URL."""
        answer = self.request(
            "POST", "/files/", TUS | {"Authorization": f"Bearer {TOKEN}", "Upload-Length": str(size)} | headers
        )
        assert answer.status == 201, answer
        return answer.headers["location"]

    def offset(self, url: str) -> int:
        """Ask by HEAD."""
        answer = self.request("HEAD", url, TUS)
        assert answer.status == 200, answer
        return int(answer.headers["upload-offset"])

    def patch(self, url: str, offset: int, body: bytes) -> Answer:
        """Send bytes."""
        return self.request("PATCH", url, TUS | BODY | {"Upload-Offset": str(offset)}, body)

    def open_patch(self, url: str, offset: int, length: int, headers: dict[str, str] | None = None) -> RawPatch:
        """Begin a PATCH whose body is sent by hand."""
        fields = {"Upload-Offset": str(offset), "Content-Length": str(length)} | (headers or {})
        return RawPatch.begin(self.port, urlsplit(url).path, fields)

    def log(self) -> list[dict[str, Any]]:
        """All lines that the process logged, which are all JSON."""
        return [json.loads(line) for line in self.output.read_text().splitlines() if line]


@dataclass
class RawPatch:
    """A PATCH on a bare socket."""

    socket: socket.socket

    @classmethod
    def begin(cls, port: int, path: str, headers: dict[str, str]) -> RawPatch:
        """Send the head of the request."""
        raw = socket.create_connection(("127.0.0.1", port), timeout=30)
        fields = TUS | BODY | {"Host": "test"} | headers
        head = f"PATCH {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        raw.sendall(head.encode() + b"\r\n")
        return cls(raw)

    def send(self, data: bytes) -> None:
        """Send a part of the body."""
        self.socket.sendall(data)

    def cut(self) -> None:
        """Close the connection."""
        self.socket.close()

    def answer_head(self, seconds: float = 60) -> bytes:
        """The beginning of the answer; then closes the connection."""
        self.socket.settimeout(seconds)
        try:
            return self.socket.recv(65536)
        finally:
            self.cut()

    def answer(self, seconds: float = 30) -> bytes:
        """Everything that comes until the server closes the connection. Raises TimeoutError."""
        self.socket.settimeout(seconds)
        received = b""
        try:
            with contextlib.suppress(ConnectionResetError):
                while data := self.socket.recv(65536):
                    received += data
        finally:
            self.cut()
        return received


@dataclass
class Site:
    """Web processes over one database and one directory store."""

    folder: Path
    conninfo: str
    settings: dict[str, str] = field(default_factory=dict)
    webs: list[Web] = field(default_factory=list)

    def web(self, name: str, module: str = Web.module) -> Web:
        """Start another process."""
        web = Web(name, free_port(), {}, self.folder / f"{name}.log", module=module)
        web.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("LONGHAUL_")},
            "PYTHONPATH": os.pathsep.join(sys.path),
            "CREDENTIALS_DIRECTORY": str(self.folder / "credentials"),
            "LONGHAUL_DATABASE": self.conninfo,
            "LONGHAUL_STORE": f"directory:{self.folder}/store",
            "LONGHAUL_LISTEN": f"127.0.0.1:{web.port}",
            "LONGHAUL_SERVER": name,
            "LONGHAUL_DRAIN_MARK": str(self.folder / f"{name}.drain"),
            **self.settings,
        }
        self.webs.append(web)
        web.start()
        return web

    def content(self, url: str) -> bytes:
        """What the database and the store say that an upload contains, read without the application."""
        import psycopg

        with psycopg.connect(self.conninfo) as connection:
            rows = connection.execute(
                "select name from pieces where upload_id = %s and retired_at is null order by start",
                (url.rpartition("/")[2],),
            )
            return b"".join([(self.folder / "store" / name).read_bytes() for (name,) in rows])

    def jobs(self, url: str) -> int:
        """How many jobs were queued for an upload."""
        import psycopg

        with psycopg.connect(self.conninfo) as connection:
            row = connection.execute(
                "select count(*) from procrastinate_jobs where args->>'upload_id' = %s", (url.rpartition("/")[2],)
            ).fetchone()
            assert row is not None
            return int(row[0])


@contextlib.contextmanager
def site(folder: Path, conninfo: str, **settings: str) -> Iterator[Site]:
    """A site whose processes end with the `with`; `settings` by their names without LONGHAUL_."""
    (folder / "store").mkdir(parents=True)
    (folder / "credentials").mkdir()
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    (folder / "credentials" / "access-tokens").write_text(f"tester:{digest}\n")
    made = Site(folder, conninfo, {f"LONGHAUL_{name.upper()}": value for name, value in settings.items()})
    try:
        yield made
    finally:
        for web in made.webs:
            web.kill()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
