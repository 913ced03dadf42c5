"""The worker's unit, and the cage in which processors run.

A stand-in runs in the place of a release: as `longhaul worker` it reports what it was given, as `longhaul processor` it
tries what a malicious file could make a processor do.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from testinfra.host import Host

from app.longhaul.settings import Settings
from roles.conftest import Ansible
from tests.support.waiting import until

ROLE_HOSTS = ["worker1"]
UNIT = "longhaul-worker.service"
PROGRAM = "/opt/longhaul/releases/stand-in/venv/bin/longhaul"
STAND_IN = r"""
#!/usr/bin/python3
import json, os, pathlib, signal, socket, subprocess, sys, time

def outcome(act):
    try:
        act()
    except (OSError, MemoryError) as error:
        return type(error).__name__
    return "done"

def work():
    credentials = pathlib.Path(os.environ["CREDENTIALS_DIRECTORY"])
    print(json.dumps({
        "environment": {k: v for k, v in os.environ.items() if k.startswith("LONGHAUL_")},
        "credentials": {path.name: path.read_text().strip() for path in credentials.iterdir()},
        "write to the release": outcome(lambda: open("/opt/longhaul/current/x", "w")),
        "write to the work folder": outcome(lambda: os.mkdir(os.environ["LONGHAUL_WORK"] + "/random-name")),
    }), flush=True)
    os.rmdir(os.environ["LONGHAUL_WORK"] + "/random-name")
    def hand_back(*_):
        time.sleep(2)
        print("handed back", flush=True)
        os._exit(0)
    signal.signal(signal.SIGTERM, hand_back)
    while True:
        time.sleep(60)

def size(path, count):
    with open(path, "wb") as file:
        file.truncate(count)

def process():
    connection = socket.socket(fileno=0)
    lines = connection.makefile("r")
    job = json.loads(lines.readline())
    folder, other = job["folder"], job["other"]
    if job.get("stay"):
        subprocess.Popen(["sleep", "1234"], start_new_session=True)
        connection.sendall(b"started\n")
        lines.readline()  # ends when the worker hangs up
        sys.exit(1)
    answer = {
        "user": os.getuid(),
        "groups": os.getgroups(),
        "environment": sorted(os.environ),
        "interfaces": [line.split(":")[0].strip() for line in open("/proc/self/net/dev") if ":" in line],
        "internet socket": outcome(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)),
        "write to its folder": outcome(lambda: open(folder + "/result", "w")),
        "write elsewhere below the work folder": outcome(lambda: open(os.path.dirname(folder) + "/x", "w")),
        "list the work folder": outcome(lambda: os.listdir(os.path.dirname(folder))),
        "write to the release": outcome(lambda: open("/opt/longhaul/current/x", "w")),
        "write to /tmp of others": os.listdir("/tmp"),
        "read secrets": outcome(lambda: os.listdir("/etc/longhaul")),
        "ask for another run": outcome(lambda: socket.socket(socket.AF_UNIX).connect("/run/longhaul/processor.sock")),
        "talk to systemd": outcome(lambda: socket.socket(socket.AF_UNIX).connect("/run/systemd/private")),
        "talk to D-Bus": outcome(lambda: socket.socket(socket.AF_UNIX).connect("/run/dbus/system_bus_socket")),
        "processes in sight": [name for name in os.listdir("/proc") if name.isdecimal()],
        "much memory": outcome(lambda: bytearray(job["too much memory"])),
        "become root": subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode,
    }
    connection.sendall(json.dumps(answer).encode() + b"\n")

work() if sys.argv[1] == "worker" else process()
""".lstrip()
# Says one line at the socket, prints what comes back, and hangs up when its standard input ends.
CALLER = (
    "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
    "s.sendall(sys.argv[2].encode() + b'\\n'); print(s.makefile().readline(), flush=True); sys.stdin.read()"
)


@pytest.fixture(scope="module")
def release(host_name: str, hosts: Mapping[str, Host]) -> Iterator[None]:
    """A stand-in as the current release, and the worker running it."""
    host = hosts[host_name]
    host.check_output(
        f"install -D -m 0755 /dev/null {PROGRAM} && printf %s {shlex.quote(STAND_IN)} > {PROGRAM}"
        f" && ln -sfn releases/stand-in /opt/longhaul/current && systemctl start {UNIT}"
    )
    yield
    host.check_output(f"systemctl stop {UNIT}; rm -r /opt/longhaul/current /opt/longhaul/releases/stand-in")


def properties(host: Host, unit: str = UNIT) -> dict[str, str]:
    """What systemd says of a unit."""
    return dict(line.split("=", 1) for line in host.check_output(f"systemctl show {unit}").splitlines() if "=" in line)


def report(host: Host, seconds: float = 15) -> dict[str, Any]:
    """What the worker said when it last started."""
    deadline = time.monotonic() + seconds
    while True:
        said = host.check_output(f"journalctl --unit={UNIT} --output=cat --no-pager --lines=20").splitlines()
        reports: list[dict[str, Any]] = [json.loads(line) for line in said if line.startswith("{")]
        if reports:
            return reports[-1]
        assert time.monotonic() < deadline, said
        time.sleep(0.2)


class Cage:
    """Runs of the stand-in processor, asked for as the worker would."""

    def __init__(self, host: Host, variables: Mapping[str, Any]) -> None:
        self._host, self._variables = host, variables
        self.folder = f"{variables['worker_directory']}/6f1d"
        self.other = f"{variables['worker_directory']}/a27c"

    def command(self, user: str = "longhaul-worker", **job: Any) -> str:
        """The shell command that asks for a run and prints its first line."""
        megabytes = self._variables["worker_processor_memory_megabytes"]
        job = {"folder": self.folder, "other": self.other, "too much memory": megabytes * 2**20, **job}
        call = shlex.join(["python3", "-c", CALLER, "/run/longhaul/processor.sock", json.dumps(job)])
        return f"runuser -u {user} -- {call}"

    def run(self, **job: Any) -> Any:
        """One whole run."""
        answer = self._host.run(self.command(**job) + " </dev/null")
        logs = self._host.run("journalctl --lines=30 --no-pager --unit='longhaul-processor@*'").stdout
        assert answer.succeeded, f"{answer}\n{logs}"
        assert answer.stdout.strip(), logs
        return json.loads(answer.stdout)


@pytest.fixture
def cage(host: Host, variables: Mapping[str, Any], release: None) -> Iterator[Cage]:
    """Two folders of jobs, as a worker makes them, and runs in the first."""
    made = Cage(host, variables)
    for folder in (made.folder, made.other):
        host.check_output(f"install -d -o longhaul-worker -g longhaul-processor -m 0770 {folder}")
    yield made
    host.check_output(f"rm -r {made.folder} {made.other}")


def test_without_a_release_the_worker_waits_and_the_socket_listens(host: Host) -> None:
    host.check_output(f"systemctl start {UNIT}")
    state = properties(host)
    assert (state["UnitFileState"], state["ActiveState"], state["ConditionResult"]) == ("enabled", "inactive", "no")
    assert properties(host, "longhaul-processor.socket")["ActiveState"] == "active"


@pytest.mark.usefixtures("release")
def test_the_worker_gets_its_settings_and_secrets(host: Host, variables: Mapping[str, Any]) -> None:
    said = report(host)
    settings = Settings.from_environment(said["environment"])
    assert set(said["environment"]) <= {f"LONGHAUL_{name.upper()}" for name in Settings.__annotations__}
    assert settings.worker_concurrency == variables["worker_concurrency"]
    assert settings.job_stop_seconds == variables["policy_job_stop_seconds"]
    assert settings.work == variables["worker_directory"]
    assert said["credentials"] == {
        "database-password": variables["worker_database_password"],
        "swift-key": variables["worker_storage_key"],
        "ca.crt": host.check_output("cat /etc/longhaul/pki/ca.crt"),
    }
    assert said["write to the release"] != "done"
    assert said["write to the work folder"] == "done"
    exposure = host.check_output(f"systemd-analyze security --no-pager {UNIT} | tail -1")
    assert float(re.findall(r"\d+\.\d+", exposure)[0]) < 2, exposure


@pytest.mark.usefixtures("release")
def test_a_stop_leaves_time_for_jobs(host: Host, variables: Mapping[str, Any]) -> None:
    report(host)
    host.check_output(f"systemctl stop {UNIT}")
    state = properties(host)
    assert (state["Result"], state["ExecMainStatus"]) == ("success", "0"), state
    assert "handed back" in host.check_output(f"journalctl --unit={UNIT} --lines=5 --output=cat --no-pager")
    allowed = host.check_output(f"systemd-analyze timespan $(systemctl show -P TimeoutStopUSec {UNIT} | tr -d ' ')")
    microseconds = int(re.findall(r"\d+", allowed.splitlines()[1])[-1])
    assert microseconds > variables["policy_job_stop_seconds"] * 1_000_000
    host.check_output(f"systemctl start {UNIT}")


def test_a_processor_sees_and_touches_its_own_files_only(cage: Cage, variables: Mapping[str, Any]) -> None:
    seen = cage.run()
    assert seen["write to its folder"] == "done"
    may_not = [
        "internet socket",
        "write elsewhere below the work folder",
        "list the work folder",
        "write to the release",
        "read secrets",
        "ask for another run",
        "talk to systemd",
        "talk to D-Bus",
    ]
    assert [act for act in may_not if seen[act] == "done"] == []
    assert seen["interfaces"] == ["lo"]
    assert seen["write to /tmp of others"] == []
    assert len(seen["processes in sight"]) == 1, "other processes are visible"
    assert seen["much memory"] == "MemoryError"
    assert seen["become root"] != 0
    assert seen["user"] != 0
    assert "CREDENTIALS_DIRECTORY" not in seen["environment"]


def test_only_the_worker_may_ask_for_a_run(host: Host, cage: Cage) -> None:
    for user in ("longhaul-processor", "nobody"):
        answer = host.run(cage.command(user=user) + " </dev/null")
        assert answer.failed
        assert "PermissionError" in answer.stderr


def test_when_the_worker_hangs_up_nothing_of_the_run_is_left(host: Host, cage: Cage) -> None:
    host.check_output(f"rm -f /run/started; (sleep 3 | {cage.command(stay=True)}) >/run/started")
    until(lambda: host.run("pgrep --full 'sleep [1]234'").failed)
    until(lambda: "longhaul-processor@" not in host.check_output("systemctl list-units --all --plain --no-legend"))
    assert "started" in host.check_output("cat /run/started")


def test_no_more_runs_at_once_than_jobs(host: Host, cage: Cage, variables: Mapping[str, Any]) -> None:
    limit = variables["worker_concurrency"]
    calls = " & ".join(f"(sleep 4 | {cage.command(stay=True)}) >/run/call-{number}" for number in range(limit + 1))
    host.check_output(f"{calls} & wait; true")
    started = host.check_output("cat /run/call-*").count("started")
    assert started == limit
    until(lambda: host.run("pgrep --full 'sleep [1]234'").failed)


def test_the_cage_is_tight_in_systemds_eyes(host: Host) -> None:
    exposure = host.check_output("systemd-analyze security --no-pager longhaul-processor@x.service | tail -1")
    assert float(re.findall(r"\d+\.\d+", exposure)[0]) < 1.5, exposure


@pytest.mark.usefixtures("release")
def test_new_settings_restart_the_worker(host: Host, ansible: Ansible) -> None:
    """That the same settings change nothing is the scenario's idempotence."""
    assert report(host)["environment"]["LONGHAUL_WORKER_CONCURRENCY"] != "3"
    ansible.converge(worker_concurrency=3)
    try:
        until(lambda: report(host)["environment"]["LONGHAUL_WORKER_CONCURRENCY"] == "3")
        assert properties(host, "longhaul-processor.socket")["MaxConnections"] == "3"
    finally:
        ansible.converge()


@pytest.mark.usefixtures("release")
def test_a_worker_without_a_copy_of_the_authority_is_restarted(host: Host, ansible: Ansible) -> None:
    """As one that an earlier unit started, which made no copies."""
    copies = f"/run/credentials/{UNIT}"
    host.check_output(f"umount {copies}; rm -rf {copies}")
    ansible.converge()
    assert host.file(f"{copies}/ca.crt").exists


@pytest.mark.usefixtures("release")
def test_a_changed_authority_restarts_the_worker(host: Host, ansible: Ansible) -> None:
    """It reads whom it trusts when it starts. Text around a certificate says nothing to whoever reads it."""
    host.check_output("sed -i.before '1i Another authority' /etc/longhaul/pki/ca.crt")
    ansible.converge()
    try:
        until(lambda: report(host)["credentials"]["ca.crt"].startswith("Another authority"))
    finally:
        host.check_output("mv /etc/longhaul/pki/ca.crt.before /etc/longhaul/pki/ca.crt")
        ansible.converge()
