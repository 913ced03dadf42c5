"""Real web applications under real servers: requests are traced by path, user and id, and by a token in a header."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from linetrace import Selection, tokens
from linetrace.context import current
from linetrace.wsgi import LineTrace
from tests.linetrace.running import PACKAGE, Live, module, write
from tests.linetrace.test_control import Client
from tests.linetrace.web_programs import PROGRAMS

KEY = b"a key of sixteen bytes and more"


class Site:
    """A running application."""

    def __init__(self, folder: Path, text: str) -> None:
        self.folder = folder
        self.text = text.splitlines()
        write(folder, {"main.py": text})
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        environment = {"PYTHONPATH": ":".join([str(PACKAGE.parent), *(path for path in sys.path if path)])}
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "main.py", str(self.port)], cwd=folder, env=environment, stdout=log, stderr=log
            )
        self._wait()

    @property
    def log(self) -> str:
        """What the process has written."""
        return (self.folder / "log").read_text()

    @property
    def traced(self) -> list[str]:
        """The lines that every trace of /hello/... has, in their order, without the module."""
        return [f"{number}: {line}" for number, line in enumerate(self.text, start=1) if line.endswith("# traced")]

    def client(self) -> Client:
        """A connection to the control socket."""
        return Client(self.folder / f"web-{self.process.pid}.sock")

    def get(self, path: str, **headers: str) -> str:
        """The body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path, headers={name.replace("_", "-"): text for name, text in headers.items()})
            answer = connection.getresponse()
            body = answer.read().decode()
        finally:
            connection.close()
        assert answer.status == 200, self.log
        return body

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self.process.poll() is None, self.log
                assert time.monotonic() < deadline, self.log
                time.sleep(0.02)
            else:
                return


@pytest.fixture(params=PROGRAMS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    started = Site(tmp_path, PROGRAMS[request.param])
    yield started
    started.close()


def lines_until_the_end(client: Client) -> list[dict[str, Any]]:
    """The lines of source of a trace that ends by itself."""
    found = []
    while (message := client.hear("line", "ended"))["type"] == "line":
        if message["kind"] == "line":
            found.append(message)
    client.close()
    return found


def test_requests_of_a_real_application_are_traced(site: Site) -> None:
    assert site.get("/hello/bob") == "hello bob"  # Django makes its middleware, and so listens, at the first request

    # The next request of a path and user.
    client = site.client()
    client.arm(selection={"kind": "next", "method": "GET", "path": "/hello/*", "user": "ann"})
    assert site.get("/stream") == "ab"
    assert site.get("/hello/bob", X_Request_ID="r-1") == "hello bob"
    assert site.get("/hello/cid", X_Request_ID="r-2") == "hello cid"
    found = lines_until_the_end(client)
    shown = [f"{line['line']}: {line['source']}" for line in found]
    assert [line for line in shown if line.endswith("# traced")] == site.traced
    assert {line["module"] for line in found} == {"__main__"}
    assert {(line["ids"]["request"], line["ids"]["user"]) for line in found} == {("r-1", "ann")}

    # One request by its id, with a body that is made while it is sent.
    client = site.client()
    client.arm(selection={"kind": "ids", "ids": {"request": "r-3"}})
    assert site.get("/stream", X_Request_ID="r-4") == "ab"
    assert site.get("/stream", X_Request_ID="r-3") == "ab"
    sources = [line["source"].strip() for line in lines_until_the_end(client)]
    yields = [line.strip() for line in site.text if line.strip().startswith("yield")]
    assert [line for line in sources if line.startswith("yield")] == yields
    assert sources

    # A token in a header.
    assert not (site.folder / "trace").exists()
    good, expired = tokens.make(KEY, "test", by="ann"), tokens.make(KEY, "test", seconds=1, now=time.time() - 5)
    for bad in (expired, tokens.make(KEY, "prod"), good[:-2] + "xx", "none"):
        assert site.get("/hello/bob", X_Linetrace=bad) == "hello bob"
    assert site.log.count("token refused") == 4
    assert not (site.folder / "trace").exists()
    assert site.get("/hello/bob", X_Linetrace=good) == "hello bob"
    deadline = time.monotonic() + 10
    while not (site.folder / "trace").exists() or "## ended" not in (site.folder / "trace").read_text():
        assert time.monotonic() < deadline, site.log
        time.sleep(0.02)
    trace = (site.folder / "trace").read_text().splitlines()
    assert [line.removeprefix("__main__:") for line in trace if line.endswith("# traced")] == site.traced
    assert "ended: its request was served" in trace[-1]

    # Nothing is left.
    client = site.client()
    client.say("status")
    found_status = client.hear("status")
    assert (found_status["traces"], found_status["tool"]) == ([], None)
    client.close()


def environ(**values: object) -> dict[str, Any]:
    """A WSGI environment."""
    return {"REQUEST_METHOD": "GET", "PATH_INFO": "/", **values}


def test_wsgi_bodies_that_servers_treat_specially_stay_what_they_are() -> None:
    class Wrapper:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"x"])

    bodies: list[Iterable[bytes]] = [[b"a"], (b"a", b"b"), Wrapper()]
    for body in bodies:
        app = LineTrace(lambda _environ, _start, body=body: body)
        assert app(environ(**{"wsgi.file_wrapper": Wrapper}), lambda *_: None) is body
        assert current.get() is None


def test_a_wsgi_body_is_closed_and_its_scope_ends(tmp_path: Path) -> None:
    text = """\
def app(environ, start_response):
    try:
        yield b"1"
        yield b"2"
    finally:
        closed.append(True)
closed = []
"""
    body_of = module(tmp_path, text)
    with Live(tmp_path, selection=Selection.next()) as live:
        body = LineTrace(body_of.app)(environ(HTTP_X_REQUEST_ID="r1"), lambda *_: None)
        assert next(iter(body)) == b"1"
        assert current.get() is None
        body.close()  # type: ignore[attr-defined]  # as PEP 3333 has it
        assert live.trace.ended == "its request was served"
    assert body_of.closed == [True]
    assert live.lines == [2, 3, 6]


def test_an_error_of_the_application_passes_through(tmp_path: Path) -> None:
    def broken(_environ: object, _start: object) -> Iterable[bytes]:
        raise LookupError("own")

    with pytest.raises(LookupError, match="own"):
        LineTrace(broken)(environ(), lambda *_: None)
    assert current.get() is None
