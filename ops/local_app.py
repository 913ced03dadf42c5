"""Runs the application on this machine: web service, worker and a database of its own, without root and without a lab.

Its database, files, access token and logs are in .cache/app.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ops import frontend
from ops.console import console
from ops.errors import Exit, Failure
from ops.paths import APP, CACHE
from ops.throwaway_postgresql import throwaway_postgresql

STATE = CACHE / "app"
START_SECONDS = 30
STOP_SECONDS = 30
SOCKET_PATH_BYTES = 107 - len("/.s.PGSQL.5432")


def forget(state: Path) -> None:
    """Remove everything that earlier runs left in `state`. Raises Failure if one still runs."""
    if state.exists():
        with _locked(state):
            shutil.rmtree(state)


@dataclass
class LocalApp:
    """The application while it runs here; `url` without trailing slash."""

    state: Path
    url: str
    token: str
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, command: str) -> None:
        """Start `longhaul <command>`; its log goes to <command>.log."""
        with self._log(command) as log:
            self.processes[command] = subprocess.Popen(
                [sys.executable, "-m", "longhaul.cli", command],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C must reach this process only, which then stops the others in order.
                start_new_session=True,
            )

    def stop(self, command: str, *, kill: bool = False) -> None:
        """Stop it as a service manager would; with `kill`, as a power cut would."""
        process = self.processes.pop(command)
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            console.print(f"{command} does not stop, killing it")
            process.kill()
            process.wait()

    def wait_until_healthy(self) -> None:
        """Return when the web service answers. Raises Failure with the end of its log."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/healthz", timeout=2):  # noqa: S310  # our own http URL
                    return
            except (urllib.error.URLError, OSError):
                if self.processes["web"].poll() is not None or time.monotonic() > deadline:
                    raise Failure(f"the web service did not start:\n{self.tail('web')}") from None
            time.sleep(0.1)

    def watch(self) -> None:
        """Block while all is well; restart a worker that asks for it. Raises Failure if a process ends."""
        while True:
            for command, process in list(self.processes.items()):
                if (code := process.poll()) is None:
                    continue
                if command == "worker" and code == 1:
                    console.print("the worker ended itself and is started again, as on a server")
                    self.start(command)
                else:
                    raise Failure(f"{command} ended with exit code {code}:\n{self.tail(command)}")
            time.sleep(0.5)

    def tail(self, command: str) -> str:
        """The last lines of a log."""
        return "\n".join((self.state / f"{command}.log").read_text(errors="replace").splitlines()[-15:])

    def _log(self, command: str) -> IO[bytes]:
        return (self.state / f"{command}.log").open("ab")


@contextmanager
def running(state: Path, *, port: int, settings: dict[str, str] | None = None) -> Iterator[LocalApp]:
    """The application on http://127.0.0.1:<port> (0: any free port), with its files in `state`.

    `settings` are further environment variables. Raises Failure.
    """
    state.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0 and state.stat().st_uid != 0:
        # PostgreSQL, which does not run as root, cannot look into another user's folder.
        raise Failure(
            f"{state} belongs to another user", "Run it as that user, without sudo: ./inv app.run", Exit.USAGE
        )
    if len(os.fsencode(state / "postgresql")) > SOCKET_PATH_BYTES:
        raise Failure(f"{state} is too long a path for a Unix socket", hint="work in a directory with a shorter path")
    with ExitStack() as stack:
        stack.enter_context(_locked(state))
        port = _usable(port)
        frontend.build()
        token = _credentials(state)
        server = stack.enter_context(throwaway_postgresql(state / "postgresql"))
        app = LocalApp(
            state=state,
            url=f"http://127.0.0.1:{port}",
            token=token,
            environment=_environment(state, port, server.conninfo) | (settings or {}),
        )
        _migrate(app)
        try:
            app.start("web")
            app.start("worker")
            app.wait_until_healthy()
            yield app
        finally:
            for command in list(app.processes):
                app.stop(command)


def _migrate(app: LocalApp) -> None:
    migration = subprocess.run(
        [sys.executable, "-m", "longhaul.cli", "migrate"],
        env=app.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if migration.returncode != 0:
        raise Failure(
            f"the database could not be migrated:\n{migration.stdout}{migration.stderr}",
            hint="begin with an empty database: ./inv app.run --fresh",
        )


def _environment(state: Path, port: int, database: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LONGHAUL_")}
    return kept | {
        "PYTHONPATH": str(APP),
        "CREDENTIALS_DIRECTORY": str(state / "credentials"),
        "LONGHAUL_DATABASE": database,
        "LONGHAUL_STORE": f"directory:{state / 'store'}",
        "LONGHAUL_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "LONGHAUL_LISTEN": f"127.0.0.1:{port}",
        "LONGHAUL_SERVER": "local",
        "LONGHAUL_DRAIN_MARK": str(state / "drain"),
        "LONGHAUL_PROCESSORS": str(APP / "processors"),
        "LONGHAUL_WORK": str(state / "work"),
    }


def _credentials(state: Path) -> str:
    """Make the credentials at the first run; returns the access token."""
    directory = state / "credentials"
    token_file = state / "token"
    (state / "store").mkdir(exist_ok=True)
    if not token_file.exists():
        directory.mkdir(mode=0o700, exist_ok=True)
        token = secrets.token_urlsafe(32)
        (directory / "access-tokens").write_text(f"me:{hashlib.sha256(token.encode()).hexdigest()}\n")
        (directory / "session-secret").write_text(secrets.token_urlsafe(48) + "\n")
        token_file.touch(mode=0o600)
        token_file.write_text(token)
    return token_file.read_text().strip()


def _usable(port: int) -> int:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise Failure(
                f"port {port} of 127.0.0.1 cannot be used: {error.strerror}",
                hint="choose another: ./inv app.run --port=8090",
                code=Exit.UNAVAILABLE,
            ) from None
        chosen: int = listener.getsockname()[1]
        return chosen


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(
                f"the application already runs on {state}", hint="end that run first (Ctrl-C)", code=Exit.TEMPORARY
            ) from None
        yield
