"""Certificates hold before strict verifiers, are renewed in time, and a new authority takes over without a gap."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from testinfra.host import Host

from ops import authority_rotation as authority
from ops import pki, secrets
from ops.environment import Environment

ROLE_HOSTS = ["web1"]
ALL = ["lb1", "web1"]
DIRECTORY = "/etc/longhaul/pki"
TOLD = "/run/longhaul-pki"

# Both sides show a certificate and check the other's as strictly as Python 3.13 can. The server reads its files when it
# starts and when it is reloaded, as services do; the client reads them for every connection.
SERVER = """
import signal, socket, ssl
def load(*_):
    global context
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile="/etc/longhaul/pki/ca.crt")
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain("/etc/longhaul/pki/host.crt", "/etc/longhaul/pki/host.key")
load()
signal.signal(signal.SIGHUP, load)
listener = socket.create_server(("", 8443))
while True:
    connection, _ = listener.accept()
    try:
        with context.wrap_socket(connection, server_side=True) as secure:
            subject = dict(entry[0] for entry in secure.getpeercert()["subject"])
            secure.sendall(subject["commonName"].encode())
    except OSError as error:
        print(error, flush=True)
"""
SERVER_UNIT = """\
[Unit]
ReloadPropagatedFrom=longhaul-pki.service
[Service]
ExecStart=/usr/bin/python3 /run/tls-server.py
ExecReload=/bin/kill -HUP $MAINPID
ExecReload=/bin/sh -c 'echo again >> /run/tls-server-reloads'
"""
CLIENT = """
import socket, ssl, sys, time
def shake_hands(address, name):
    context = ssl.create_default_context(cafile="/etc/longhaul/pki/ca.crt")
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_cert_chain("/etc/longhaul/pki/host.crt", "/etc/longhaul/pki/host.key")
    with socket.create_connection((address, 8443), 5) as plain:
        with context.wrap_socket(plain, server_hostname=name) as secure:
            return secure.recv(999).decode()
address, name, how = sys.argv[1:]
while how == "forever":
    try:
        print("good" if shake_hands(address, name) == "lb1" else "bad: nobody", flush=True)
    except OSError as error:
        print("bad:", error, flush=True)
    time.sleep(0.05)
print(shake_hands(address, name))
"""

# An ACME server whose own certificate is that of its host. It asks the names directly, as no HAProxy is between.
ACME_PORT = 14000
ACME_SERVER = {
    "listenAddress": f"0.0.0.0:{ACME_PORT}",
    "managementListenAddress": "127.0.0.1:15000",
    "certificate": f"{DIRECTORY}/host.crt",
    "privateKey": f"{DIRECTORY}/host.key",
    "tlsPort": 5001,
    "ocspResponderURL": "",
    "externalAccountBindingRequired": False,
    "certificateValidityPeriod": 7 * 86400,  # less than lego waits for, so that every run renews
}


def certificate(host: Host, name: str = "host.crt") -> x509.Certificate:
    """A certificate as it stands on a host."""
    return x509.load_pem_x509_certificate(host.check_output(f"cat {DIRECTORY}/{name}").encode())


@pytest.fixture(scope="module")
def server(hosts: Mapping[str, Host]) -> Iterator[None]:
    """A service on web1 that holds its certificate, written as every role writes one."""
    web = hosts["web1"]
    for path, text in {"/run/tls-server.py": SERVER, "/run/systemd/system/tls-server.service": SERVER_UNIT}.items():
        web.check_output("sh -c %s", f"cat > {path} <<'END'\n{text}END")
    web.check_output("systemctl daemon-reload")
    web.check_output("systemctl start tls-server")
    web.check_output("sh -c %s", "until ss -ltn | grep -q :8443; do sleep 0.1; done")
    yield
    web.check_output("systemctl stop tls-server")


def client(host: Host, *arguments: str) -> Any:
    """Connect from a host to the server: address, the name it must have, `once` or `forever`."""
    return host.run("python3 -c %s %s %s %s", CLIENT, *arguments)


def test_openssl_verifies_strictly_for_both_purposes(hosts: Mapping[str, Host]) -> None:
    for name in ALL:
        for purpose in ("sslserver", "sslclient"):
            hosts[name].check_output(
                f"openssl verify -x509_strict -purpose {purpose} -CAfile {DIRECTORY}/ca.crt {DIRECTORY}/host.crt"
            )


@pytest.mark.usefixtures("server")
def test_hosts_know_each_other_by_name_and_address(hosts: Mapping[str, Host], variables: Mapping[str, Any]) -> None:
    address = variables["ansible_host"]
    for name in ("web1", address):
        answer = client(hosts["lb1"], address, name, "once")
        assert answer.stdout == "lb1\n", answer.stderr  # the server has seen the client's certificate too
    answer = client(hosts["lb1"], address, "web2", "once")
    assert "certificate is not valid for 'web2'" in answer.stderr


def test_only_the_group_reads_the_key(hosts: Mapping[str, Host]) -> None:
    for name in ALL:
        key = hosts[name].file(f"{DIRECTORY}/host.key")
        assert (key.user, key.group, key.mode) == ("root", "ssl-cert", 0o640)
        assert hosts[name].run(f"setpriv --reuid=nobody --clear-groups cat {DIRECTORY}/host.key").rc != 0


def test_no_key_leaves_its_host(hosts: Mapping[str, Host], variables: Mapping[str, Any]) -> None:
    keys = {hosts[name].check_output(f"cat {DIRECTORY}/host.key") for name in ALL}
    assert len(keys) == len(ALL)
    # As a pattern that does not match itself, because the command is logged in the journal.
    first, *rest = variables["pki_ca_key"].strip().splitlines()[1]
    pattern = f"[{first}]\\Q{''.join(rest)}\\E"
    for name in ALL:
        assert hosts[name].run("grep -rqP %s /etc /var /root /tmp", pattern).rc == 1
        assert hosts[name].run("grep -rqP %s /etc/longhaul", "[B]\\QEGIN EC PRIVATE\\E|[B]EGIN PRIVATE").rc == 0


def test_users_see_a_certificate_for_the_public_name_and_address(hosts: Mapping[str, Host], inventory: Any) -> None:
    known = inventory.variables("lb1")
    shown = certificate(hosts["lb1"], "public.pem").extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert {str(name.value) for name in shown.value} == {known["public_name"], known["public_address"]}
    hosts["lb1"].check_output(f"openssl verify -x509_strict -CAfile {DIRECTORY}/ca.crt {DIRECTORY}/public.pem")
    combined = hosts["lb1"].file(f"{DIRECTORY}/public.pem")
    assert (combined.user, combined.group, combined.mode) == ("root", "haproxy", 0o640)
    public_key = hosts["lb1"].check_output(f"openssl pkey -pubout -in {DIRECTORY}/public.pem")
    assert public_key == hosts["lb1"].check_output(f"openssl x509 -noout -pubkey -in {DIRECTORY}/public.pem")
    assert not hosts["web1"].file(f"{DIRECTORY}/public.pem").exists


@pytest.mark.usefixtures("server")
def test_a_certificate_is_renewed_when_little_time_is_left_and_services_hear_of_it(
    host: Host, variables: Mapping[str, Any], ansible: Any
) -> None:
    before = certificate(host)
    assert not host.file("/run/tls-server-reloads").exists
    ansible.converge(limit="web1", policy_certificate_renew_days=variables["policy_certificate_days"] + 1)
    after = certificate(host)
    assert after.serial_number != before.serial_number
    assert after.public_key() == before.public_key()
    assert "again" in host.check_output("cat /run/tls-server-reloads")
    host.check_output(f"openssl verify -x509_strict -CAfile {DIRECTORY}/ca.crt {DIRECTORY}/host.crt")


def test_a_lost_key_is_replaced_with_its_certificate(host: Host, ansible: Any) -> None:
    before = certificate(host)
    host.check_output(f"rm {DIRECTORY}/host.key")
    ansible.converge(limit="web1")
    assert certificate(host).public_key() != before.public_key()
    public_key = host.check_output(f"openssl pkey -pubout -in {DIRECTORY}/host.key")
    assert public_key == host.check_output(f"openssl x509 -noout -pubkey -in {DIRECTORY}/host.crt")


def test_own_files_are_shown_to_users(hosts: Mapping[str, Host], ansible: Any, tmp_path: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
    command += ["-subj", "/CN=own.example", "-keyout", "own.key", "-out", "own.crt", "-days", "9"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    own = {"pki_public_certificate": "own.crt", "pki_public_key": "own.key"}
    ansible.converge(pki_public_source="files", **{name: (tmp_path / file).read_text() for name, file in own.items()})
    assert "own.example" in certificate(hosts["lb1"], "public.pem").subject.rfc4514_string()
    combined = hosts["lb1"].file(f"{DIRECTORY}/public.pem")
    assert (combined.user, combined.group, combined.mode) == ("root", "haproxy", 0o640)
    hosts["lb1"].check_output(f"rm {DIRECTORY}/public.pem")  # as on a new host, for the next test


def test_a_load_balancer_gets_and_renews_a_certificate_by_acme(
    hosts: Mapping[str, Host], inventory: Any, ansible: Any
) -> None:
    balancer, known = hosts["lb1"], inventory.variables("lb1")
    settings = json.dumps({"pebble": {**ACME_SERVER, "httpPort": known["pki_acme_port"]}})
    hosts["web1"].check_output("sh -c %s", f"echo '{settings}' > /run/pebble.json")
    hosts["web1"].check_output("systemd-run --unit=pebble --setenv=PEBBLE_VA_NOSLEEP=1 pebble -config /run/pebble.json")
    ansible.converge(
        limit="lb1",
        pki_public_source="acme",
        pki_public_names=["lb1"],
        pki_acme_directory=f"https://web1:{ACME_PORT}/dir",
        pki_acme_email="ops@lb1",
        pki_acme_authority=known["pki_ca_certificate"],
    )
    own_authority = x509.load_pem_x509_certificate(known["pki_ca_certificate"].encode()).subject
    assert certificate(balancer, "public.pem").issuer == own_authority  # stands in until the first one is there
    assert balancer.service("longhaul-acme.timer").is_running
    seen = []
    for _ in range(2):
        answer = balancer.run("systemctl start longhaul-acme.service")
        assert answer.rc == 0, balancer.check_output("journalctl --unit=longhaul-acme.service --output=cat")
        seen.append(certificate(balancer, "public.pem"))
        assert "Pebble" in seen[-1].issuer.rfc4514_string()
        names = seen[-1].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert [name.value for name in names] == ["lb1"]
        public_key = balancer.check_output(f"openssl pkey -pubout -in {DIRECTORY}/public.pem")
        assert public_key == balancer.check_output(f"openssl x509 -noout -pubkey -in {DIRECTORY}/public.pem")
        combined = balancer.file(f"{DIRECTORY}/public.pem")
        assert (combined.user, combined.group, combined.mode) == ("root", "haproxy", 0o640)
    assert seen[0].serial_number != seen[1].serial_number


@pytest.mark.usefixtures("server")
def test_a_new_authority_takes_over_without_a_gap(
    hosts: Mapping[str, Host], host: Host, variables: Mapping[str, Any], ansible: Any
) -> None:
    """Last, because it leaves the hosts with another authority than the inventory's."""
    old = host.check_output(f"cat {DIRECTORY}/host.crt")
    values = {name: variables[name] for name in secrets.AUTHORITY}
    watcher = hosts["lb1"]
    forever = "systemd-run --unit=tls-client python3 -c %s %s %s forever"
    watcher.check_output(forever, CLIENT, variables["ansible_host"], "web1")
    # Trusted first; the certificates are new, for services that read both only together, but not of the new one.
    values.update(authority.next_step(Environment.of_checkout("lab"), values).new)
    ansible.converge(**values)
    assert certificate(host).serial_number != x509.load_pem_x509_certificate(old.encode()).serial_number
    assert all(is_signed(hosts[name], variables["pki_ca_certificate"]) for name in ALL)

    # A reload that a run did not come to is made up for by the next.
    reloads = host.check_output("cat /run/tls-server-reloads")
    host.check_output(f"cp /dev/null {TOLD}/host.crt")
    ansible.converge(**values)
    assert host.check_output("cat /run/tls-server-reloads") == f"{reloads}\nagain"

    # Then it signs.
    values.update(authority.next_step(Environment.of_checkout("lab"), values).new)
    ansible.converge(**values)
    watcher.check_output("systemctl stop tls-client")

    handshakes = watcher.check_output("journalctl --unit=tls-client --output=cat --grep='^(good|bad)'").splitlines()
    assert len(handshakes) > 20
    assert set(handshakes) == {"good"}
    for name in ALL:
        assert is_signed(hosts[name], values["vault_pki_ca_certificate"])
        assert is_trusted(hosts[name], old)

    # Then the old one is trusted no more.
    values.update(authority.next_step(Environment.of_checkout("lab"), values).new)
    ansible.converge(**values)
    assert client(watcher, variables["ansible_host"], "web1", "once").stdout == "lb1\n"
    for name in ALL:
        assert not is_trusted(hosts[name], old)


def is_signed(host: Host, by: str) -> bool:
    """Whether an authority signed the certificate of a host."""
    return pki.is_signed_by(host.check_output(f"cat {DIRECTORY}/host.crt"), by)


def is_trusted(host: Host, pem: str) -> bool:
    """Whether a certificate passes on a host."""
    verify = f"openssl verify -x509_strict -CAfile {DIRECTORY}/ca.crt /dev/stdin"
    return bool(host.run("sh -c %s", f"{verify} <<'END'\n{pem}\nEND").rc == 0)
