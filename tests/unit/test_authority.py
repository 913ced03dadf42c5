"""A certificate authority is replaced in steps, and no step comes before all hosts have taken the last one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ops import authority_rotation as authority
from ops import pki, remote, secrets
from ops.environment import Environment, Host
from ops.errors import Exit, Failure
from ops.on_host import certificates_read
from ops.paths import ROLES
from ops.tasks.secrets import rotate_authority

SITE = Environment.of_checkout("staging")
SUBJECT = pki.Subject.of("data1", ["data1"])


class OneHost:
    """A host below a directory: it has what the last run of provision brought, and one service that runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.running = ["etcd.service"]
        self.request = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([]))
            .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
            .decode()
        )
        for directory in (certificates_read.PKI, certificates_read.TOLD):
            (root / directory).mkdir(parents=True)

    def provision(self, values: dict[str, Any]) -> None:
        """What the role `pki` does with these secrets."""
        present, following = values["vault_pki_ca_certificate"], values["vault_pki_next_ca_certificate"]
        trusted = [present, following, *values["vault_pki_old_ca_certificates"]]
        directory = self.root / certificates_read.PKI
        (directory / "ca.crt").write_text("\n".join(sorted(pem.strip() for pem in trusted if pem)) + "\n")
        signed = pki.sign(self.request, SUBJECT, present, values["vault_pki_ca_key"], 9)
        (directory / "host.crt").write_text(signed)
        for name in certificates_read.NAMES:
            (self.root / certificates_read.TOLD / name).write_text((directory / name).read_text())

    def restart(self) -> None:
        """What the role of the service does."""
        for unit in self.running:
            for name in certificates_read.READ_AT_START[unit]:
                copy = self.root / certificates_read.CREDENTIALS / unit / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_text((self.root / certificates_read.PKI / name).read_text())

    def said(self) -> dict[str, Any]:
        """What the program on it answers."""
        return certificates_read.state(self.root, self.running)

    def lacks(self, step: authority.RotationStep) -> list[str]:
        """What the host lacks of what a step asks for."""
        return authority.missing(self.said(), step.trusted, step.signed_by)


@pytest.fixture
def values() -> dict[str, Any]:
    """The secrets of a site."""
    return secrets.generate(SITE)


@pytest.fixture
def one_host(tmp_path: Path, values: dict[str, Any]) -> OneHost:
    """A host of the site."""
    found = OneHost(tmp_path)
    found.provision(values)
    found.restart()
    return found


def test_three_steps_replace_it(values: dict[str, Any], one_host: OneHost) -> None:
    before = values["vault_pki_ca_certificate"]
    bundles = []
    for number in (1, 2, 3):
        step = authority.next_step(SITE, values)
        assert f"step {number} of 3" in step.what
        assert not step.trusted or not one_host.lacks(step)
        values |= step.new
        one_host.provision(values)
        one_host.restart()
        bundles.append((one_host.root / certificates_read.PKI / "ca.crt").read_text())
    assert bundles[0] == bundles[1], "services would restart for nothing"
    assert before.strip() in bundles[1]
    assert bundles[2] == values["vault_pki_ca_certificate"].strip() + "\n"
    assert before != values["vault_pki_ca_certificate"]
    assert not values["vault_pki_next_ca_key"]
    assert "step 1 of 3" in authority.next_step(SITE, values).what


def test_a_new_authority_signs_nothing_before_it_is_trusted(values: dict[str, Any], one_host: OneHost) -> None:
    values |= authority.next_step(SITE, values).new
    second = authority.next_step(SITE, values)
    assert one_host.lacks(second) == ["it does not trust all authorities yet"]
    one_host.provision(values)
    assert one_host.lacks(second) == ["etcd did not read the certificates since they changed"]
    one_host.restart()
    assert not one_host.lacks(second)


def test_a_lost_reload_is_seen(values: dict[str, Any], one_host: OneHost) -> None:
    values |= authority.next_step(SITE, values).new
    one_host.provision(values)
    one_host.restart()
    (one_host.root / certificates_read.TOLD / "ca.crt").unlink()
    assert one_host.lacks(authority.next_step(SITE, values)) == [
        "longhaul-pki did not read the certificates since they changed"
    ]


def test_a_service_that_runs_without_a_copy_did_not_read(values: dict[str, Any], one_host: OneHost) -> None:
    """One that was started by an earlier unit, which made no copies, trusts only the authority of then."""
    values |= authority.next_step(SITE, values).new
    one_host.provision(values)
    one_host.restart()
    one_host.running += ["longhaul-web.service", "longhaul-worker.service"]
    step = authority.next_step(SITE, values)
    assert one_host.lacks(step) == ["longhaul-web, longhaul-worker did not read the certificates since they changed"]
    one_host.restart()
    assert not one_host.lacks(step)
    (one_host.root / certificates_read.CREDENTIALS / "longhaul-web.service/host.crt").unlink()
    assert one_host.lacks(step) == ["longhaul-web did not read the certificates since they changed"]


def test_the_probe_asks_systemd_which_of_them_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A unit that a host does not have is `inactive`, and systemctl's exit code says nothing of the others."""
    program = tmp_path / "systemctl"
    program.write_text(
        "#!/bin/sh\nshift\nfor unit; do [ $unit = etcd.service ] && echo active || echo inactive; done\nexit 3\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert certificates_read.running_units() == ["etcd.service"]


def test_the_probe_knows_the_units_that_are_given_certificates() -> None:
    given = {
        path.name.removesuffix(".j2"): tuple(
            name for name in certificates_read.NAMES if f"LoadCredential={name}:" in text
        )
        for path in ROLES.glob("*/templates/*.service.j2")
        if "LoadCredential=ca.crt:" in (text := path.read_text()) and "Type=oneshot" not in text
    }
    assert given == certificates_read.READ_AT_START


def test_the_earlier_one_is_trusted_while_a_host_shows_its_certificate(
    values: dict[str, Any], one_host: OneHost
) -> None:
    values |= authority.next_step(SITE, values).new
    one_host.provision(values)
    one_host.restart()
    values |= authority.next_step(SITE, values).new
    third = authority.next_step(SITE, values)
    assert one_host.lacks(third) == ["its certificate is not of the present authority"]
    one_host.provision(values)
    assert not one_host.lacks(third)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, one_host: OneHost) -> Any:
    """An environment of this host, whose program is run directly."""

    class Fake:
        name = SITE.name
        hosts = {"data1": Host("data1", frozenset(), {})}  # noqa: RUF012 - read only

    monkeypatch.setattr(remote, "answer", lambda *_arguments, **_options: one_host.said())
    return Fake()


def test_a_step_that_comes_too_early_says_what_to_do(values: dict[str, Any], environment: Environment) -> None:
    authority.require_ready(environment, authority.next_step(SITE, values))
    values |= authority.next_step(SITE, values).new
    with pytest.raises(Failure, match="data1: it does not trust") as caught:
        authority.require_ready(environment, authority.next_step(SITE, values))
    assert f"provision --env={SITE.name}" in caught.value.hint


def test_an_unknown_environment_is_said_and_not_its_lack_of_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        rotate_authority.body(None, env="nowhere")
    assert ended.value.code == Exit.USAGE
    assert "nowhere" in capsys.readouterr().err
