"""Running a processor's script: as a child, and behind a socket as on the servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path

import pytest

from longhaul.processing.runner import Runner, SocketRunner, SubprocessRunner
from longhaul.processing.script import Outcome, ProcessorError, ProcessorInterrupted, ProcessorJob, UnknownProcessor
from tests.support import asynchronous, until

APP = Path(__file__).parents[1]
STARTED = 'import json, os, sys, time\njob = json.load(sys.stdin)\nout = job["output"]\n'
# Leaves a child behind and then waits for ever; both write their process ids.
FAMILY = (
    STARTED
    + """
child = os.fork()
if child == 0:
    time.sleep(600)
open(out + "/pids", "w").write(f"{os.getpid()} {child}")
print(json.dumps({"progress": 0.5, "message": "half"}), flush=True)
time.sleep(600)
"""
)


class Bench:
    """A directory of scripts, a work directory, and the two ways of running."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.longest = ""
        self.scripts = root / "scripts"
        self.work = root / "work"
        for folder in (self.scripts, self.work, self.work / "output", self.work / "scratch"):
            folder.mkdir()
        (self.work / "input").write_bytes(b"content")
        self.units: list[asyncio.subprocess.Process] = []

    def script(self, text: str, name: str = "script") -> None:
        (self.scripts / f"{name}.py").write_text(text)

    def job(self, processor: str = "script") -> ProcessorJob:
        return ProcessorJob(
            upload_id="an-upload",
            job_id=7,
            request_id="a-request",
            processor=processor,
            input=str(self.work / "input"),
            output=str(self.work / "output"),
            scratch=str(self.work / "scratch"),
            filename="name of the user.txt",
        )

    @property
    def version(self) -> str:
        """What the scripts are called that stand in the folder of the release."""
        return self.scripts.resolve().parent.name

    def pids(self) -> list[int]:
        path = self.work / "output" / "pids"
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []

    @contextlib.asynccontextmanager
    async def runner(self, kind: str) -> AsyncIterator[Runner]:
        if kind == "child":
            yield SubprocessRunner(self.scripts)
            return
        async with self.listening() as path:
            yield SocketRunner(path, self.scripts)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """A socket like the unit's: each connection becomes standard input of `longhaul processor`."""
        path = str(self.root / "s")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        listener.setblocking(False)
        accepting = asyncio.create_task(self._accept(listener))
        try:
            yield path
        finally:
            accepting.cancel()
            await asyncio.wait({accepting})
            listener.close()
            for unit in self.units:
                await asyncio.wait_for(unit.wait(), 10)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            connection.setblocking(True)
            with connection:
                self.units.append(
                    await asyncio.create_subprocess_exec(
                        sys.executable,
                        "-m",
                        "longhaul.cli",
                        "processor",
                        stdin=connection.fileno(),
                        stdout=asyncio.subprocess.DEVNULL,
                        env={
                            "PYTHONPATH": str(APP),
                            "LONGHAUL_PROCESSORS": str(self.scripts),
                            "LONGHAUL_WORK": str(self.work),
                            "LONGHAUL_PROCESSOR_SECONDS": self.longest,
                        },
                    )
                )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


both = pytest.mark.parametrize("kind", ["child", "socket"])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter: it went between the opening and the reading
        return False


async def all_dead(pids: list[int]) -> bool:
    return not any(alive(pid) for pid in pids)


@both
@asynchronous
async def test_progress_results_and_exit_code(bench: Bench, kind: str) -> None:
    bench.script(
        STARTED
        + """
assert open(job["input"]).read() == "content"
assert job["filename"] == "name of the user.txt" and job["job_id"] == 7
assert os.getcwd() == os.path.realpath(job["scratch"]) == os.path.realpath(os.environ["TMPDIR"])
open(out + "/result", "w").write(os.environ.get("LONGHAUL_WORK", "no settings"))
print('{"progress": 0.25, "message": "a quarter"}', flush=True)
print("this is not JSON", flush=True)
print('["neither", "an", "object"]', flush=True)
print('{"progress": 7, "media_type": "text/plain", "exit_code": 99}', flush=True)
sys.exit(3)
"""
    )
    seen: list[tuple[float, str]] = []
    async with bench.runner(kind) as runner:
        outcome = await runner.run(bench.job(), lambda now: seen.append((now.fraction, now.message)))
    assert outcome == Outcome(
        fraction=1.0, message="a quarter", media_type="text/plain", error=None, exit_code=3, processors=bench.version
    )
    assert seen == [(0.25, "a quarter"), (1.0, "a quarter")]
    assert (bench.work / "output" / "result").read_text() == "no settings"


@both
@asynchronous
async def test_scripts_that_were_shipped_run_in_place_of_the_releases_own(bench: Bench, kind: str) -> None:
    bench.script("import sys\nsys.exit(3)\n")
    for version, code in (("v1", 4), ("v2", 5)):
        shipped = bench.root / "shipments" / version / "processors"
        shipped.mkdir(parents=True)
        (shipped / f"{bench.job().processor}.py").write_text(f"import sys\nsys.exit({code})\n")
    link = bench.scripts.parent / "shipped"
    found = []
    async with bench.runner(kind) as runner:
        for version in ("v1", "v2", ""):
            link.unlink(missing_ok=True)
            if version:
                link.symlink_to(bench.root / "shipments" / version / "processors")
            outcome = await runner.run(bench.job(), lambda now: None)
            found.append((outcome.exit_code, outcome.processors))
    assert found == [(4, "v1"), (5, "v2"), (3, bench.version)]


@both
@asynchronous
async def test_a_script_says_why_it_failed(bench: Bench, kind: str) -> None:
    bench.script('print(\'{"error": "Not a WAV file."}\'); raise SystemExit(1)')
    async with bench.runner(kind) as runner:
        outcome = await runner.run(bench.job(), lambda _: None)
    assert (outcome.exit_code, outcome.error) == (1, "Not a WAV file.")


@both
@asynchronous
async def test_a_script_that_is_killed(bench: Bench, kind: str) -> None:
    bench.script("import os; os.kill(os.getpid(), 9)")
    async with bench.runner(kind) as runner:
        outcome = await runner.run(bench.job(), lambda _: None)
    assert outcome.exit_code == -9


@both
@asynchronous
async def test_an_endless_line_ends_the_run(bench: Bench, kind: str) -> None:
    bench.script('import sys\nwhile True: sys.stdout.write("x" * 65536)')
    async with bench.runner(kind) as runner:
        outcome = await runner.run(bench.job(), lambda _: None)
    assert outcome.exit_code == -9


@asynchronous
async def test_standard_error_is_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.script("raise ValueError('what went wrong')")
    with caplog.at_level(logging.WARNING):
        outcome = await SubprocessRunner(bench.scripts).run(bench.job(), lambda _: None)
    assert outcome.exit_code == 1
    assert "ValueError: what went wrong" in caplog.text


@both
@asynchronous
async def test_a_child_that_is_left_behind_does_not_outlive_the_run(bench: Bench, kind: str) -> None:
    bench.script(
        STARTED
        + """
child = os.fork()
if child == 0:
    time.sleep(600)
open(out + "/pids", "w").write(f"{os.getpid()} {child}")
"""
    )
    async with bench.runner(kind) as runner:
        outcome = await asyncio.wait_for(runner.run(bench.job(), lambda _: None), 15)
    assert outcome.exit_code == 0
    assert len(bench.pids()) == 2
    await until(lambda: all_dead(bench.pids()))


@both
@asynchronous
async def test_cancelling_ends_script_and_children(bench: Bench, kind: str) -> None:
    bench.script(FAMILY)
    half = asyncio.Event()
    async with bench.runner(kind) as runner:
        run = asyncio.create_task(runner.run(bench.job(), lambda _: half.set()))
        await asyncio.wait_for(half.wait(), 15)
        assert all(map(alive, bench.pids()))
        run.cancel()
        await asyncio.wait({run})
        assert run.cancelled()
        await until(lambda: all_dead(bench.pids()))


@asynchronous
async def test_a_unit_that_is_told_to_stop_says_so(bench: Bench) -> None:
    bench.script(FAMILY)
    half = asyncio.Event()
    async with bench.runner("socket") as runner:
        run = asyncio.create_task(runner.run(bench.job(), lambda _: half.set()))
        await asyncio.wait_for(half.wait(), 15)
        bench.units[0].send_signal(signal.SIGTERM)
        with pytest.raises(ProcessorInterrupted, match="told to stop"):
            await asyncio.wait_for(run, 10)
        await until(lambda: all_dead(bench.pids()))
        assert await bench.units[0].wait() == 1


@asynchronous
async def test_a_script_that_never_ends_is_a_failure_not_an_interruption(bench: Bench) -> None:
    bench.script(FAMILY)
    bench.longest = "3"
    async with bench.runner("socket") as runner:
        outcome = await asyncio.wait_for(runner.run(bench.job(), lambda _: None), 30)
        await until(lambda: all_dead(bench.pids()))
    assert outcome.exit_code == -9
    assert outcome.error is not None
    assert "longest allowed" in outcome.error


@asynchronous
async def test_the_worker_can_remove_what_a_script_kept_for_itself(bench: Bench) -> None:
    bench.script(STARTED + "os.umask(0)\nos.makedirs(out + '/a/b', 0o700)\nos.mkdir(job['scratch'] + '/c', 0o700)")
    async with bench.runner("socket") as runner:
        await runner.run(bench.job(), lambda _: None)
    for path in ("output/a", "output/a/b", "scratch/c"):
        assert (bench.work / path).stat().st_mode & 0o770 == 0o770


@asynchronous
async def test_a_unit_that_is_killed_gives_no_verdict(bench: Bench) -> None:
    bench.script(FAMILY)
    half = asyncio.Event()
    async with bench.runner("socket") as runner:
        run = asyncio.create_task(runner.run(bench.job(), lambda _: half.set()))
        await asyncio.wait_for(half.wait(), 15)
        bench.units[0].kill()
        with pytest.raises(ProcessorInterrupted):
            await asyncio.wait_for(run, 10)
    # On a server systemd kills the rest of the unit's group; here nobody does.
    for pid in bench.pids():
        os.kill(pid, signal.SIGKILL)


@both
@pytest.mark.parametrize("name", ["missing", "../outside", "Script", "", "script.py"])
@asynchronous
async def test_only_scripts_of_the_directory_are_run(bench: Bench, kind: str, name: str) -> None:
    bench.script("raise SystemExit(0)")
    (bench.root / "outside.py").write_text("raise SystemExit(0)")
    async with bench.runner(kind) as runner:
        with pytest.raises(UnknownProcessor, match=r"There is no processor .* one of these: script\."):
            runner.check(name)
        with pytest.raises(ProcessorError, match="There is no processor"):
            await runner.run(bench.job(name), lambda _: None)
        runner.check("script")


@asynchronous
async def test_a_unit_touches_only_files_below_its_work_directory(bench: Bench) -> None:
    bench.script("raise SystemExit(0)")
    (bench.work / "input").unlink()
    (bench.work / "input").symlink_to("/etc/hostname")
    async with bench.runner("socket") as runner:
        with pytest.raises(ProcessorError, match="is not below"):
            await runner.run(bench.job(), lambda _: None)


@asynchronous
async def test_a_unit_ignores_what_only_the_worker_s_release_knows(bench: Bench) -> None:
    bench.script(STARTED + 'open(out + "/given", "w").write(json.dumps(job))\n')
    line = json.dumps({**asdict(bench.job()), "parameters": {}, "of_tomorrow": 1}).encode() + b"\n"
    async with bench.listening() as path:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(line)
        verdict = await asyncio.wait_for(reader.read(), 20)
        writer.close()
    assert json.loads(verdict.removeprefix(b"="))["exit_code"] == 0, verdict
    given = json.loads((bench.work / "output" / "given").read_text())
    assert given == json.loads(bench.job().for_script())


@pytest.mark.parametrize("line", [b"", b"not JSON", b"[]", b"7", b'{"upload_id": "an-upload"}'])
def test_a_line_that_is_not_a_job_is_refused(line: bytes) -> None:
    with pytest.raises(ProcessorError, match="not a job"):
        ProcessorJob.from_line(line)


def test_the_authors_guide_shows_the_job_that_a_script_gets(bench: Bench) -> None:
    guide = (APP / "processors" / "README.md").read_text()
    (shown,) = [json.loads(line) for line in guide.splitlines() if line.startswith('{"upload_id"')]
    assert list(shown) == list(json.loads(bench.job().for_script()))


@asynchronous
async def test_without_the_socket_the_error_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ProcessorError, match=r"longhaul-processor\.socket"):
        await SocketRunner(str(tmp_path / "none"), tmp_path).run(Bench(tmp_path).job(), lambda _: None)
