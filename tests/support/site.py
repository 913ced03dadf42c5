"""The converged lab as tests see it: what clients see of it, what its hosts say, and what can be done to them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import requests

from ops.environment import Environment
from ops.lab.client import Client as Place
from ops.lab.host import LabHost
from ops.lab.lab import Lab
from ops.paths import ROOT, tool
from tests.support import clients
from tests.support.clients import Client
from tests.support.commands import run
from tests.support.waiting import until

Line = dict[str, Any]
_ASK_HAPROXY = """
import socket
asked = socket.socket(socket.AF_UNIX)
asked.connect("/run/haproxy/admin.sock")
asked.sendall(b"show stat\\n")
while said := asked.recv(65536):
    print(said.decode(), end="")
"""
ENDED = ("done", "failed", "terminated", "expired")


@dataclass
class Site:
    """A site whose hosts are all up.

    `started` are the clients of the running test, for the report of its failure; `measured` are the numbers that tests
    have found, for the end of the run.
    """

    lab: Lab
    environment: Environment
    access: dict[str, str]
    how: str
    started: list[Client] = field(default_factory=list)
    measured: list[str] = field(default_factory=list)

    # --- What clients see ---------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """https://<virtual IP>, without a slash at the end."""
        return self.access["url"].rstrip("/")

    @property
    def endpoint(self) -> str:
        return self.access["tus_endpoint"]

    @property
    def ca_file(self) -> str:
        return self.access["ca_file"]

    @property
    def token(self) -> str:
        return self.access["token"]

    def session(self) -> requests.Session:
        """HTTP with the token, trusting the lab's CA and nothing else; no proxy of this machine is used."""
        session = requests.Session()
        session.trust_env = False
        session.verify = self.ca_file
        session.headers["Authorization"] = f"Bearer {self.token}"
        return session

    @cached_property
    def http(self) -> requests.Session:
        """For the tests' own questions: a connection for each, as one that is kept may lead to a host that is gone."""
        session = self.session()
        session.headers["Connection"] = "close"
        return session

    def upload(self, upload_id: str) -> dict[str, Any]:
        """What the API says about an upload."""
        answer = self.http.get(f"{self.url}/api/uploads/{upload_id}", timeout=10)
        answer.raise_for_status()
        said: dict[str, Any] = answer.json()
        return said

    def wait_done(self, upload_id: str, seconds: float = 60) -> dict[str, Any]:
        """Wait for the end of an upload's processing, and return what the API says then. Fails if it is not `done`."""
        said: dict[str, Any] = {}

        def ended() -> bool:
            said.update(self.upload(upload_id))
            return said["state"] in ENDED

        until(ended, f"the processing of {upload_id} (now {said.get('state')})", seconds)
        assert said["state"] == "done", f"upload {upload_id} ended as {said}"
        return said

    def download_sha256(self, url: str) -> str:
        """SHA-256 in hex of what a URL of the site gives; `url` may be a path."""
        digest = hashlib.sha256()
        with self.http.get(urljoin(f"{self.url}/", url), stream=True, timeout=60) as answer:
            answer.raise_for_status()
            for block in answer.iter_content(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    def start(self, client: str, file: Path, *, inside: Sequence[str] = (), url: str = "") -> Client:
        """Start an upload with one of clients.START; with `url` a tab that goes on with an upload that exists."""
        given: dict[str, Any] = {"url": url} if url else {"endpoint": self.endpoint, "token": self.token}
        running = clients.START[client](file, ca_file=self.ca_file, inside=inside, **given)
        self.started.append(running)
        return running

    # --- What the hosts say -------------------------------------------------------------------------------------------

    @cached_property
    def hosts(self) -> dict[str, LabHost]:
        """The machines of the lab by name."""
        return self.lab.hosts()

    def run(self, host: str, *command: str, seconds: float = 30) -> str:
        """Standard output of a command run as root inside a host. Fails with what it wrote if it fails."""
        done = subprocess.run(
            self.hosts[host].command(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        assert done.returncode == 0, f"on {host}: {' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def group(self, name: str) -> list[str]:
        """Names of a group's hosts."""
        return self.environment.members(name)

    def versions(self) -> dict[str, str]:
        """Host -> release, of all hosts that run one."""
        hosts = dict.fromkeys([*self.group("web"), *self.group("workers")])
        return {host: Path(self.run(host, "readlink", "/opt/longhaul/current").strip()).name for host in hosts}

    def running(self, name: str) -> list[str]:
        """Names of a group's hosts that are on."""
        return [host for host in self.group(name) if self.hosts[host].init() is not None]

    def journal(self, host: str, unit: str, upload_id: str = "") -> list[Line]:
        """The JSON lines that a unit of the application has logged since the host's boot, oldest first."""
        text = self.run(host, "journalctl", "--boot", "--no-pager", "--output=cat", f"--unit={unit}")
        lines = []
        for line in text.splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and (not upload_id or entry.get("upload_id") == upload_id):
                    lines.append(entry)
        return lines

    def web_lines(self, upload_id: str) -> list[Line]:
        """What all web hosts that are on have logged about an upload, in the order of time."""
        lines = [line for host in self.running("web") for line in self.journal(host, "longhaul-web.service", upload_id)]
        return sorted(lines, key=lambda line: str(line["time"]))

    def committed(self, upload_id: str) -> list[Line]:
        """The log lines of pieces that were made to count, in order: `server`, `start`, `length`, `epoch`."""
        return [line for line in self.web_lines(upload_id) if line["message"] == "piece committed"]

    def sql(self, query: str) -> list[list[str]]:
        """Rows of a query, as text, asked of the primary."""
        for host in self.running("database"):
            with contextlib.suppress(AssertionError):
                command = ["runuser", "-u", "postgres", "--", "psql", "-XAt", "-F", "\t", "-d", "longhaul", "-c"]
                if self.run(host, *command, "select pg_is_in_recovery()").strip() == "f":
                    text = self.run(host, *command, query)
                    return [line.split("\t") for line in text.splitlines()]
        raise OSError("there is no primary at the moment")

    def primary(self) -> str:
        """The host of the PostgreSQL primary."""
        for host in self.running("database"):
            with contextlib.suppress(AssertionError):
                command = ["runuser", "-u", "postgres", "--", "psql", "-XAt", "-c", "select pg_is_in_recovery()"]
                if self.run(host, *command).strip() == "f":
                    return host
        raise OSError("there is no primary at the moment")

    def holder_of_virtual_ip(self) -> str:
        """The load balancer that has the virtual IP."""
        address = self.url.removeprefix("https://").partition(":")[0]
        holders = [
            host
            for host in self.running("loadbalancers")
            if f" {address}/" in self.run(host, "ip", "-4", "-oneline", "address", "show")
        ]
        assert len(holders) == 1, f"{address} is on {holders or 'no load balancer'}"
        return holders[0]

    def backends(self, host: str) -> dict[str, str]:
        """Server -> state, of the web servers as one load balancer sees them."""
        text = self.run(host, "python3", "-c", _ASK_HAPROXY)
        rows = [line.split(",") for line in text.splitlines()]
        status = rows[0].index("status")
        return {row[1]: row[status] for row in rows[1:] if row[0] == "web" and row[1] in self.group("web")}

    # --- Faults -------------------------------------------------------------------------------------------------------

    def power_cut(self, *hosts: str) -> None:
        """Take the power from hosts, all at once."""
        with ThreadPoolExecutor(len(hosts)) as pool:
            list(pool.map(lambda host: self.hosts[host].power_cut(), hosts))

    def make_whole(self, seconds: float = 120) -> None:
        """Switch on what is off, mend what a test has done, and wait until every host does its work again."""
        self.lab.heal()
        off = [name for name, host in self.hosts.items() if host.init() is None]
        if off:
            self.lab.up(off)
        for group, unit in (("web", "longhaul-web.service"), ("workers", "longhaul-worker.service")):
            for host in self.group(group):
                self.run(host, "systemctl", "start", unit)
        until(self._whole, "the whole site to be well again", seconds, every=0.5)

    def _whole(self) -> bool:
        with contextlib.suppress(AssertionError):
            for host in self.group("loadbalancers"):
                states = self.backends(host)
                if len(states) != len(self.group("web")) or set(states.values()) != {"UP"}:
                    return False
            self.holder_of_virtual_ip()
            return self._replicas() == len(self.group("database")) - 1
        return False

    def _replicas(self) -> int:
        """How many standbys stream from the primary."""
        rows = self.sql("select count(*) from pg_stat_replication where state = 'streaming' and sync_state != 'async'")
        return int(rows[0][0])

    @contextlib.contextmanager
    def line(self, name: str, rate: str = "") -> Iterator[ClientLine]:
        """A client of the lab with a network namespace and a line of its own, as long as the block runs."""
        place = self.lab.client(name, rate or None)
        try:
            yield ClientLine(self, place)
        finally:
            place.remove()

    # --- Reports ------------------------------------------------------------------------------------------------------

    def report(self) -> str:
        """What explains a failure: the state of the hosts, what the clients said, and all logs of their uploads."""
        parts = ["hosts: " + ", ".join(f"{name} {state}" for name, state in self.lab.states().items())]
        ids = []
        for client in self.started:
            parts.append(f"client {client.pid}:\n{client}")
            ids += sorted({str(event["url"]).rpartition("/")[2] for event in client.of("url")})
        for group, unit in (("web", "longhaul-web"), ("workers", "longhaul-worker"), ("loadbalancers", "haproxy")):
            parts += [self._excerpt(host, unit, ids) for host in self.running(group)]
        return "\n\n".join(parts)

    def _excerpt(self, host: str, unit: str, ids: list[str]) -> str:
        try:
            text = self.run(host, "journalctl", "--boot", "--no-pager", "--output=short-precise", f"--unit={unit}")
        except (AssertionError, subprocess.SubprocessError) as error:
            return f"{host} {unit}: no journal: {error}"
        lines = text.splitlines()
        about = [line for line in lines if any(upload_id in line for upload_id in ids)]
        return "\n".join(
            [f"{host} {unit}, about {ids or 'nothing in particular'} and the end:", *about[-60:], *lines[-15:]]
        )


@dataclass(frozen=True)
class ClientLine:
    """A client's place in the network: its own address, interface and kernel connections."""

    site: Site
    place: Place

    @property
    def inside(self) -> list[str]:
        """A command that runs another one here."""
        return self.place.command([])

    def start(self, client: str, file: Path, url: str = "") -> Client:
        """Start an upload from here."""
        return self.site.start(client, file, inside=self.inside, url=url)

    def acknowledged(self) -> int:
        """Bytes of the busiest TCP connection that the load balancer's kernel has acknowledged, without TLS's part.

        What a client counts as sent may still lie in its own kernel; this has left it.
        """
        said = self._run("ss", "--tcp", "--info", "--no-header", "--numeric", "state", "established")
        counts = [int(word.partition(":")[2]) for word in said.split() if word.startswith("bytes_acked:")]
        # A TLS 1.3 record of 16 KiB is 22 bytes longer than its content.
        return max(counts, default=0) * 16384 // 16406

    def cut(self) -> None:
        """Break all connections as a router that lost its table does: the client gets a reset, the site hears nothing.

        New connections are refused too, until `mend`.
        """
        rules = (
            "table ip cut {\n chain output {\n  type filter hook output priority 0\n"
            "  tcp dport 443 reject with tcp reset\n }\n}\n"
        )
        self._run("nft", "--file", "-", text=rules)

    def mend(self) -> None:
        """The end of `cut`."""
        self._run("nft", "delete", "table", "ip", "cut")

    def _run(self, *command: str, text: str = "") -> str:
        done = self.place.run(command, input=text, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, f"{' '.join(command)} of {self.place.name}: {done.stdout}{done.stderr}"
        return str(done.stdout)


class Poller:
    """Asks for a page several times a second, each time with a new connection, and counts what went wrong.

    A context manager; `failures` are pairs of seconds since the start and what happened, `slowest` is the longest time
    that an answer took. At most `seconds` long.
    """

    def __init__(self, site: Site, path: str = "/healthz", *, rate: float = 20, seconds: float = 600) -> None:
        self._site = site
        self._url = f"{site.url}{path}"
        self._every = 1 / rate
        self._seconds = seconds
        self._stop = threading.Event()
        self._began = time.monotonic()
        self.asked = 0
        self.slowest = 0.0
        self.failures: list[tuple[float, str]] = []
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(16)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Poller:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self._pool.shutdown()

    def _run(self) -> None:
        while not self._stop.wait(self._every) and time.monotonic() - self._began < self._seconds:
            self._pool.submit(self._ask, time.monotonic() - self._began)

    def _ask(self, at: float) -> None:
        problem = ""
        began = time.monotonic()
        try:
            with self._site.session() as session:
                answer = session.get(self._url, timeout=5, allow_redirects=False)
                if answer.status_code != 200:
                    problem = f"{answer.status_code} {answer.text[:100]!r}"
        except requests.RequestException as error:
            problem = repr(error)
        with self._lock:
            self.asked += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            if problem:
                self.failures.append((at, problem))

    @property
    def longest_gap(self) -> float:
        """Seconds from the first of failures in a row to the last one."""
        longest = 0.0
        run: list[float] = []
        for at, _ in sorted(self.failures):
            if run and at - run[-1] > 4 * self._every:
                run = []
            run.append(at)
            longest = max(longest, run[-1] - run[0])
        return longest


def inv(*arguments: str, seconds: float = 900, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a task as a user does, and return its exit code and output."""
    return run(tool("invoke"), "--search-root", str(ROOT), *arguments, seconds=seconds, env=env)
