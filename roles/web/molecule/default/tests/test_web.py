"""The unit of the web service: what it is given, what it cannot do, how it ends and comes back.

A stand-in runs in the place of a release: it reports what a release would find. Its settings are also given to the
application's own code, which must accept them.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from testinfra.host import Host

from app.longhaul.settings import Settings
from roles.conftest import Ansible

ROLE_HOSTS = ["web1"]
UNIT = "longhaul-web.service"
STAND_IN = r"""
#!/usr/bin/python3
import http.server, json, os, pathlib, signal, socket, ssl, sys, time

def refused(act):
    try:
        act()
    except OSError:
        return True
    return False

def report():
    credentials = pathlib.Path(os.environ["CREDENTIALS_DIRECTORY"])
    return {
        "command": sys.argv[1:],
        "uid": os.getuid(),
        "environment": {k: v for k, v in os.environ.items() if k.startswith("LONGHAUL_")},
        "credentials": {path.name: path.read_text() for path in credentials.iterdir()},
        "refused": {
            "write to the release": refused(lambda: open("/opt/longhaul/current/x", "w")),
            "write the drain mark": refused(lambda: open("/var/lib/longhaul/drain", "w")),
            "read all secrets": refused(lambda: os.listdir("/etc/longhaul/credentials")),
            "read the host's key": refused(lambda: open("/etc/longhaul/pki/host.key")),
            "see other processes": not pathlib.Path("/proc/1").exists(),
            "raw sockets": refused(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
            "other address families": refused(lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)),
        },
    }

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(json.dumps(report()).encode())

def hand_over(*_):
    print("handing over", flush=True)
    time.sleep(3)
    print("handed over", flush=True)
    os._exit(0)

if sys.argv[1] == "migrate":
    print(json.dumps(report()), flush=True)
    sys.exit("longhaul migrate: told to fail" if os.path.exists("/opt/longhaul/fail") else 0)
signal.signal(signal.SIGTERM, hand_over)
host, port = os.environ["LONGHAUL_LISTEN"].rsplit(":", 1)
server = http.server.ThreadingHTTPServer((host, int(port)), Handler)
tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
tls.load_cert_chain(os.environ["LONGHAUL_TLS_CERT"], os.environ["LONGHAUL_TLS_KEY"])
server.socket = tls.wrap_socket(server.socket, server_side=True)
server.serve_forever()
""".lstrip()
PROGRAM = "/opt/longhaul/releases/stand-in/venv/bin/longhaul"
MARK = "/var/lib/longhaul/drain"
# What a load balancer answers while only web1 serves.
BALANCER = """
import os, socket
os.makedirs("/run/haproxy", exist_ok=True)
listener = socket.socket(socket.AF_UNIX)
listener.bind("/run/haproxy/admin.sock")
listener.listen()
while True:
    connection, _ = listener.accept()
    connection.recv(99)
    connection.sendall(b"# pxname,svname,status\\nweb,web1,UP\\nweb,web2,NOLB\\n")
    connection.close()
"""


@pytest.fixture
def release(host: Host) -> Iterator[None]:
    """A stand-in as the current release, and the service running it."""
    host.check_output(
        f"install -D -m 0755 /dev/null {PROGRAM} && printf %s {shlex.quote(STAND_IN)} > {PROGRAM}"
        f" && ln -sfn releases/stand-in /opt/longhaul/current && systemctl start {UNIT}"
    )
    yield
    host.check_output(f"systemctl stop {UNIT}; rm -r /opt/longhaul/current /opt/longhaul/releases/stand-in")


@pytest.fixture
def ask(host: Host, variables: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Any]:
    """Ask the service for its report, as a balancer would: over TLS, for the host's name."""
    authority = tmp_path_factory.mktemp("tls") / "ca.crt"
    authority.write_text(host.check_output("cat /etc/longhaul/pki/ca.crt"))
    context = ssl.create_default_context(cafile=str(authority))

    def report() -> Any:
        url = f"https://{variables['ansible_host']}:{variables['web_port']}/"
        deadline, last = time.monotonic() + 15, ""
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(url, timeout=5, context=context) as answer:
                    return json.load(answer)
            except OSError as error:
                last = str(error)
                time.sleep(0.2)
        raise AssertionError(f"{last}\n{host.run(f'journalctl -n 30 -u {UNIT}').stdout}")

    return report


def properties(host: Host, unit: str = UNIT) -> dict[str, str]:
    """What systemd says of a unit."""
    return dict(line.split("=", 1) for line in host.check_output(f"systemctl show {unit}").splitlines() if "=" in line)


def test_without_a_release_the_service_waits(host: Host) -> None:
    host.check_output(f"systemctl start {UNIT}")
    state = properties(host)
    assert (state["UnitFileState"], state["ActiveState"], state["ConditionResult"]) == ("enabled", "inactive", "no")


@pytest.mark.usefixtures("release")
def test_the_service_gets_its_settings_and_secrets(ask: Callable[[], Any], variables: Mapping[str, Any]) -> None:
    report = ask()
    assert report["command"] == ["web"]
    assert report["uid"] != 0
    settings = Settings.from_environment(report["environment"])
    assert settings.public_url == variables["web_public_url"]
    assert settings.server == "web1"
    assert settings.max_upload_bytes == variables["policy_largest_upload_bytes"]
    assert settings.handover_seconds == variables["policy_handover_seconds"]
    assert settings.upload_days * 86400 > int(variables["policy_longest_upload_seconds"])
    files = {"ca.crt", "host.crt", "host.key"}
    secrets = {name: text.splitlines() for name, text in report["credentials"].items() if name not in files}
    assert secrets == {
        "database-password": [variables["web_database_password"]],
        "swift-key": [variables["web_storage_key"]],
        "session-secret": list(variables["web_session_secrets"]),
        "trace-key": [variables["web_trace_key"]],
        "access-tokens": [
            f"{name}:{hashlib.sha256(token.encode()).hexdigest()}"
            for name, token in sorted(variables["web_access_tokens"].items())
        ],
    }


@pytest.mark.usefixtures("release")
def test_every_setting_is_known_to_the_application(ask: Callable[[], Any]) -> None:
    known = {f"LONGHAUL_{name.upper()}" for name in Settings.__annotations__}
    assert set(ask()["environment"]) <= known


@pytest.mark.usefixtures("release")
def test_the_service_can_do_nothing_else(host: Host, ask: Callable[[], Any]) -> None:
    assert [what for what, refused in ask()["refused"].items() if not refused] == []
    exposure = host.check_output(f"systemd-analyze security --no-pager {UNIT} | tail -1")
    assert float(re.findall(r"\d+\.\d+", exposure)[0]) < 2, exposure


@pytest.mark.usefixtures("release")
def test_a_stop_leaves_time_for_the_hand_over(host: Host, ask: Callable[[], Any], variables: Mapping[str, Any]) -> None:
    ask()
    host.check_output(f"systemctl stop {UNIT}")
    state = properties(host)
    assert (state["Result"], state["ExecMainStatus"]) == ("success", "0"), state
    assert "handed over" in host.check_output(f"journalctl --unit={UNIT} --lines=5 --output=cat --no-pager")
    allowed = host.check_output(f"systemctl show --property=TimeoutStopUSec --value {UNIT}")
    assert allowed == f"{int(variables['policy_stop_seconds'])}s"
    assert int(variables["policy_stop_seconds"]) > variables["policy_handover_seconds"]


@pytest.mark.usefixtures("release")
def test_the_service_comes_back_when_it_dies(host: Host, ask: Callable[[], Any]) -> None:
    ask()
    before = properties(host)["MainPID"]
    host.check_output(f"systemctl kill --signal=KILL {UNIT}")
    deadline = time.monotonic() + 10
    while properties(host)["MainPID"] in {before, "0"}:
        assert time.monotonic() < deadline, properties(host)
        time.sleep(0.2)
    assert ask()["command"] == ["web"]


@pytest.mark.usefixtures("release")
def test_migrations_run_with_the_release_that_is_named(host: Host, variables: Mapping[str, Any]) -> None:
    host.run_test("echo 'MIGRATE_ARGUMENTS=--phase expand' >/run/longhaul-migrate.env")
    host.check_output("systemctl start longhaul-migrate@stand-in.service")
    said = host.check_output("journalctl --unit=longhaul-migrate@stand-in.service --output=cat --no-pager")
    report = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
    assert report["command"] == ["migrate", "--phase", "expand"]
    assert report["credentials"]["database-password"].strip() == variables["web_database_password"]
    Settings.from_environment(report["environment"])  # complains of a certificate without its key
    host.check_output("touch /opt/longhaul/fail")
    try:
        assert host.run("systemctl start longhaul-migrate@stand-in.service").failed
    finally:
        host.check_output("rm /opt/longhaul/fail; systemctl reset-failed longhaul-migrate@stand-in.service")


def test_secrets_are_for_root_only(host: Host) -> None:
    for name in ("database-password", "swift-key", "access-tokens", "session-secret"):
        file = host.file(f"/etc/longhaul/credentials/{name}")
        assert (file.user, file.mode) == ("root", 0o600)
    assert host.file("/etc/longhaul/credentials").mode == 0o700


@pytest.mark.usefixtures("release")
def test_new_settings_restart_the_service(ask: Callable[[], Any], ansible: Ansible) -> None:
    """That the same settings change nothing is the scenario's idempotence. Its lab has no load balancer to wait for."""
    ask()
    ansible.converge(web_public_url="https://other.example", site_loadbalancers=[])
    try:
        assert ask()["environment"]["LONGHAUL_PUBLIC_URL"] == "https://other.example"
    finally:
        ansible.converge(site_loadbalancers=[])


@pytest.mark.usefixtures("release")
def test_what_an_interrupted_run_drained_serves_again(
    host: Host, variables: Mapping[str, Any], ask: Callable[[], Any], ansible: Ansible
) -> None:
    ask()
    before = properties(host)["MainPID"]
    host.check_output(f"echo '{variables['web_drain_reason']}' > {MARK}")
    ansible.converge(site_loadbalancers=[])
    assert not host.file(MARK).exists
    assert properties(host)["MainPID"] != before
    ask()


@pytest.mark.usefixtures("release")
def test_what_somebody_drained_stays_drained(host: Host, ask: Callable[[], Any], ansible: Ansible) -> None:
    ask()
    before = properties(host)["MainPID"]
    host.check_output(f"echo 'new settings, by hand' > {MARK}")
    try:
        ansible.converge(site_loadbalancers=[])
        assert properties(host)["MainPID"] == before
        ansible.converge(web_public_url="https://other.example", site_loadbalancers=[])
        assert properties(host)["MainPID"] != before
        assert host.file(MARK).content_string == "new settings, by hand\n"
    finally:
        host.check_output(f"rm {MARK}")
        ansible.converge(site_loadbalancers=[])


@pytest.fixture
def alone(host: Host) -> Iterator[None]:
    """A load balancer on this host that knows two web hosts, of which only this one serves."""
    host.check_output("systemd-run --unit=balancer python3 -c %s", BALANCER)
    host.check_output("sh -c 'until test -S /run/haproxy/admin.sock; do sleep 0.1; done'")
    yield
    host.check_output("systemctl stop balancer; rm -r /run/haproxy")


@pytest.mark.usefixtures("release", "alone")
def test_the_last_one_is_not_drained_and_nothing_is_forgotten(
    host: Host, ask: Callable[[], Any], ansible: Ansible
) -> None:
    ask()
    before = properties(host)["MainPID"]
    other = "https://other.example"
    try:
        answer = ansible.converge(
            check=False, web_public_url=other, site_loadbalancers=["web1"], site_web=["web1", "web2"]
        )
        assert answer.returncode != 0
        assert "web1 can send traffic to no other web host" in " ".join(answer.stdout.split())
        assert not host.file(MARK).exists
        assert properties(host)["MainPID"] == before
        ansible.converge(web_public_url=other, site_loadbalancers=[])
        assert ask()["environment"]["LONGHAUL_PUBLIC_URL"] == other
    finally:
        ansible.converge(site_loadbalancers=[])


@pytest.mark.usefixtures("release")
def test_a_service_without_copies_of_the_certificates_is_restarted(
    host: Host, ask: Callable[[], Any], ansible: Ansible
) -> None:
    """As one that an earlier unit started, which made no copies."""
    ask()
    copies = f"/run/credentials/{UNIT}"
    host.check_output(f"umount {copies}; rm -rf {copies}")
    ansible.converge(site_loadbalancers=[])
    assert host.file(f"{copies}/ca.crt").exists
    ask()


@pytest.mark.usefixtures("release")
def test_a_changed_authority_restarts_the_service(host: Host, ask: Callable[[], Any], ansible: Ansible) -> None:
    """It reads whom it trusts when it starts. Text around a certificate says nothing to whoever reads it."""
    ask()
    host.check_output("sed -i.before '1i Another authority' /etc/longhaul/pki/ca.crt")
    ansible.converge(site_loadbalancers=[])
    try:
        assert ask()["credentials"]["ca.crt"].startswith("Another authority")
    finally:
        host.check_output("mv /etc/longhaul/pki/ca.crt.before /etc/longhaul/pki/ca.crt")
        ansible.converge(site_loadbalancers=[])
