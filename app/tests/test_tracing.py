"""Traces of the application: from the request that creates an upload to the script that processes it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import linetrace
from linetrace import Limits, Selection, tokens
from linetrace.arm import arm, wait
from linetrace.trace import Trace
from longhaul import logs
from longhaul.processing.runner import SocketRunner, verdict_line
from longhaul.processing.script import ProcessorJob
from tests.linetrace.running import Recorder
from tests.served import APP, TOKENS, TRACE_KEY, Site
from tests.support import asynchronous
from tests.test_runner import Bench, both

SCRIPT = """\
import json, sys
job = json.load(sys.stdin)
total = 0
for number in range(3):
    total += number
print(json.dumps({"progress": 1, "message": f"{total} {len(job)}"}), flush=True)
sys.exit(4)
"""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@contextlib.contextmanager
def traced(folder: Path, **how: Any) -> Iterator[tuple[Trace, Recorder]]:
    """Trace this process; at the end all lines have come."""
    sink = Recorder()
    trace = arm([folder], sink, **how)
    try:
        yield trace, sink
    finally:
        trace.stop("the test ends it")
        assert wait(trace, 10)


@both
@asynchronous
async def test_the_script_of_a_traced_job_is_traced(bench: Bench, kind: str) -> None:
    bench.script(SCRIPT)
    with traced(bench.root, selection=Selection.of(job=7)) as (_, sink):
        async with bench.runner(kind) as runner:
            with logs.bound(upload_id="an-upload", job_id=7):
                outcome = await runner.run(bench.job(), lambda _: None)
    assert (outcome.exit_code, outcome.message) == (4, f"3 {len(json.loads(bench.job().for_script()))}")
    shown = [line for line in sink.lines if line.module == "__main__" and line.kind == "line"]
    assert [line.number for line in shown] == [1, 2, 3, 4, 5, 4, 5, 4, 5, 4, 6, 7]
    assert shown[4].text == "    total += number"
    assert shown[4].file == str(bench.scripts / "script.py")
    assert {tuple(sorted(line.ids.items())) for line in shown} == {(("job", "7"), ("upload", "an-upload"))}


@both
@pytest.mark.parametrize("signal", ["", "import signal; signal.signal(signal.SIGPIPE, signal.SIG_DFL)"])
@asynchronous
async def test_a_trace_that_ends_disarms_the_script_which_goes_on(bench: Bench, kind: str, signal: str) -> None:
    """Though its loop shows nothing any more, and though it would be killed for writing to nobody."""
    bench.script(
        f"import sys, time; {signal}\n"
        "begun = time.monotonic()\n"
        "print('{\"progress\": 0.5}', flush=True)\n"
        "while sys.monitoring.get_tool(3) is not None and time.monotonic() < begun + 30:\n"
        "    pass\n"
        "sys.exit(5 if sys.monitoring.get_tool(3) is None else 6)\n"
    )
    limits = Limits(seconds=300)
    with traced(bench.root, selection=Selection.of(job=7), limits=limits) as (trace, sink):
        async with bench.runner(kind) as runner:
            with logs.bound(job_id=7):
                outcome = await runner.run(bench.job(), lambda _: trace.stop("enough"))
    assert outcome.exit_code == 5
    assert [line for line in sink.lines if line.module == "__main__"]


@both
@asynchronous
async def test_a_line_that_is_too_long_costs_only_itself(bench: Bench, kind: str) -> None:
    bench.script(f"x = {'1' * 90_000!r}\ny = 2\nraise SystemExit(y)\n")
    with traced(bench.root, selection=Selection.of(job=7)) as (_, sink):
        async with bench.runner(kind) as runner:
            with logs.bound(job_id=7):
                outcome = await runner.run(bench.job(), lambda _: None)
    assert outcome.exit_code == 2
    assert [line.number for line in sink.lines if line.module == "__main__" and line.kind == "line"] == [2, 3]


@pytest.mark.parametrize("how", [{}, {"limits": {"lines": -1}, "options": {}}, {"limits": [], "options": None}])
@asynchronous
async def test_a_unit_that_is_asked_for_an_impossible_trace_runs_the_script(bench: Bench, how: dict[str, Any]) -> None:
    bench.script("raise SystemExit(2)")
    async with bench.listening() as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(json.dumps({**json.loads(bench.job().for_script()), "how_traced": how}).encode() + b"\n")
        verdict = await asyncio.wait_for(reader.read(), 20)
        writer.close()
    assert json.loads(verdict.removeprefix(b"="))["exit_code"] == 2, verdict


@both
@pytest.mark.parametrize(
    "written",
    [b'{"kind": [], "time": 1, "line": 1}', b"null", b'{"time": 1e999}', b"\\xff\\n", b"{" * 50_000, b"[" * 30_000],
)
@asynchronous
async def test_whatever_a_script_writes_as_its_trace_its_job_goes_on(bench: Bench, kind: str, written: bytes) -> None:
    bench.script(
        "import os, stat\n"
        "for name in os.listdir('/proc/self/fd'):\n"
        "    try:\n"
        "        if stat.S_ISSOCK(os.fstat(int(name)).st_mode): os.write(int(name), "
        f"{written!r} + b'\\n')\n"
        "    except OSError: pass\n"
        "raise SystemExit(2)\n"
    )
    with traced(bench.root, selection=Selection.of(job=7)) as (trace, _):
        async with bench.runner(kind) as runner:
            with logs.bound(job_id=7):
                outcome = await runner.run(bench.job(), lambda _: None)
        assert not trace.ended
    assert outcome.exit_code == 2


@asynchronous
async def test_a_unit_of_an_older_release_is_not_told_that_the_trace_is_over(bench: Bench) -> None:
    """It would take anything that it is sent for the end of the connection."""
    said: list[bytes] = []

    async def older(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said.append(await reader.readline())
        writer.write(b'{"progress": 0.5}\n')
        with contextlib.suppress(TimeoutError):
            said.append(await asyncio.wait_for(reader.read(1), 2))
        writer.write(verdict_line(0))
        writer.close()

    server = await asyncio.start_unix_server(older, str(bench.root / "s"))
    bench.script("")
    async with server:
        with traced(bench.root, selection=Selection.of(job=7)) as (trace, _), logs.bound(job_id=7):
            runner = SocketRunner(str(bench.root / "s"), bench.scripts)
            outcome = await runner.run(bench.job(), lambda _: trace.stop("enough"))
    assert outcome.exit_code == 0
    assert len(said) == 1


def test_the_script_is_not_told_of_the_trace(bench: Bench) -> None:
    job = ProcessorJob(**{**json.loads(bench.job().for_script()), "how_traced": {"limits": {}}})
    assert "how_traced" not in json.loads(job.for_script())
    assert ProcessorJob.from_line(job.line()) == job


def test_bound_ids_are_the_tracer_s_too() -> None:
    with logs.bound(upload_id="u1", request_id=None), linetrace.bound(job=5) as scope:
        assert scope.ids == {"upload": "u1", "job": "5"}


# --- The web process --------------------------------------------------------------------------------------------------


class Attached:
    """`python -m linetrace attach` at a site's web process."""

    def __init__(self, site: Site, *words: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "linetrace", "attach", "--json", "--while-fed", "60", *words, str(site.sockets)],
            env={"PATH": os.defpath, "PYTHONPATH": str(APP), "LOGNAME": "ann"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.hear()["type"] == "hello"
        armed = self.hear()
        assert armed["type"] == "armed", armed

    def hear(self) -> dict[str, Any]:
        """The next message."""
        assert self._process.stdout is not None
        message: dict[str, Any] = json.loads(self._process.stdout.readline())
        return message

    def end(self) -> list[dict[str, Any]]:
        """End the trace; the messages that had not been heard."""
        output, _ = self._process.communicate(timeout=30)
        assert self._process.returncode == 0
        return [json.loads(line) for line in output.splitlines()]


def create(site: Site, owner: str = "ann", **headers: str) -> str:
    """Create an upload with its content in the same request; returns its path."""
    request = urllib.request.Request(f"{site.url}/files/", data=b"content", method="POST")  # noqa: S310
    for name, value in {
        "Authorization": f"Bearer {TOKENS[owner]}",
        "Tus-Resumable": "1.0.0",
        "Upload-Length": "7",
        "Content-Type": "application/offset+octet-stream",
        **headers,
    }.items():
        request.add_header(name, value)
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return str(answer.headers["Location"]).removeprefix(site.url)


def lines_of(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message for message in messages if message["type"] == "line" and message["kind"] == "line"]


def test_the_next_upload_is_followed_and_nobody_else(site: Site) -> None:
    attached = Attached(site, "--next", "--method", "POST", "--path", "/files*", "--follow", "upload")
    upload_id = create(site).rpartition("/")[2]
    create(site, "bob")
    lines = lines_of(attached.end())
    assert {line["ids"]["user"] for line in lines if "user" in line["ids"]} == {"ann"}
    assert {line["ids"]["upload"] for line in lines if "upload" in line["ids"]} == {upload_id}
    assert all({"user", "request"} & set(line["ids"]) for line in lines)
    modules = {line["module"] for line in lines}
    assert {"longhaul.web.tus", "longhaul.uploads.receiving", "longhaul.uploads.decisions"} <= modules
    assert not any(module.startswith(("starlette", "uvicorn", "psycopg", "linetrace")) for module in modules)
    tus = (APP / "longhaul" / "web" / "tus.py").read_text().splitlines()
    assert all(line["source"] == tus[line["line"] - 1] for line in lines if line["module"] == "longhaul.web.tus")


def test_a_request_is_traced_by_its_id(site: Site) -> None:
    attached = Attached(site, "--request", "request-of-the-test")
    create(site, **{"X-Request-Id": "another-request"})
    create(site, **{"X-Request-Id": "request-of-the-test"})
    messages: list[dict[str, Any]] = []
    while not messages or messages[-1]["type"] != "ended":
        messages.append(attached.hear())
    assert messages[-1]["reason"] == "its request was served"
    assert {line["ids"]["request"] for line in lines_of(messages)} == {"request-of-the-test"}
    attached.end()


def test_values_do_not_show_what_gives_access(site: Site) -> None:
    attached = Attached(site, "--values", "*", "--calls", "--returns", "--user", "ann")
    path = create(site, **{"Upload-Metadata": "filename c2VjcmV0LnR4dA=="})
    key = path.split("/")[2]
    with contextlib.suppress(urllib.error.HTTPError):
        site.program().get(f"/api/uploads/{path.rpartition('/')[2]}")
    with contextlib.suppress(urllib.error.HTTPError):
        site.browser("ann").get("/")
    said = json.dumps(attached.end())
    assert "secret.txt" in said
    for secret in (TOKENS["ann"], key, TRACE_KEY.decode()):
        assert secret not in said, [said[max(0, at.start() - 300) : at.end() + 60] for at in re.finditer(secret, said)]


def logged(site: Site, begin: int, text: str) -> list[dict[str, Any]]:
    """Lines of the process's log since `begin` with this message, once there are any."""
    deadline = time.monotonic() + 10
    while True:
        lines = [json.loads(line) for line in (site.root / "web.log").read_text()[begin:].splitlines()]
        if found := [line for line in lines if text in line["message"]]:
            return found
        assert time.monotonic() < deadline, lines
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("environment", "seconds", "key", "reason"),
    [
        ("tests", -1, TRACE_KEY, "the token has expired"),
        ("prod", 60, TRACE_KEY, "the token is for the environment prod, this is tests"),
        ("tests", 60, b"the key of somebody else", "the token was altered, or signed with another key"),
    ],
)
def test_a_token_that_is_not_valid_here_and_now_traces_nothing(
    site: Site, environment: str, seconds: float, key: bytes, reason: str
) -> None:
    token = tokens.make(key, environment, seconds=60, by="ann", now=time.time() - 60 + seconds)
    begin = len((site.root / "web.log").read_text())
    create(site, **{tokens.HEADER: token})
    (line,) = logged(site, begin, "token refused")
    assert line["message"] == f"token refused: {reason}"
    assert token not in (site.root / "web.log").read_text()


def test_a_valid_token_asks_for_the_trace_of_its_request(site: Site) -> None:
    token = tokens.make(TRACE_KEY, "tests", by="ann")
    begin = len((site.root / "web.log").read_text())
    create(site, **{tokens.HEADER: token})
    # A machine without syslog cannot have one.
    wanted = "trace armed" if Path("/dev/log").exists() else "not traced: there is no syslog at /dev/log"
    assert logged(site, begin, wanted)
