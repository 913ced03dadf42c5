"""A certificate authority is replaced in steps, and no step comes before all hosts have taken the last one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ops import authority, authority_probe, pki, remote, secrets
from ops.environment import Environment, Host
from ops.errors import Failure

SITE = "staging"
SUBJECT = pki.Subject.of("data1", ["data1"])


class OneHost:
    """A host below a directory: it has what the last run of provision brought, and one service that runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.request = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([]))
            .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
            .decode()
        )
        for directory in (authority_probe.PKI, authority_probe.TOLD, "run/credentials/etcd.service"):
            (root / directory).mkdir(parents=True)

    def provision(self, values: dict[str, Any]) -> None:
        """What the role `pki` does with these secrets."""
        present, following = values["vault_pki_ca_certificate"], values["vault_pki_next_ca_certificate"]
        trusted = [present, following, *values["vault_pki_old_ca_certificates"]]
        directory = self.root / authority_probe.PKI
        (directory / "ca.crt").write_text("\n".join(sorted(pem.strip() for pem in trusted if pem)) + "\n")
        signed = pki.sign(self.request, SUBJECT, present, values["vault_pki_ca_key"], 9)
        (directory / "host.crt").write_text(signed)
        for name in authority_probe.NAMES:
            (self.root / authority_probe.TOLD / name).write_text((directory / name).read_text())

    def restart(self) -> None:
        """What the role of the service does."""
        text = (self.root / authority_probe.PKI / "ca.crt").read_text()
        (self.root / "run/credentials/etcd.service/ca.crt").write_text(text)

    def lacks(self, step: authority.Step) -> list[str]:
        """What the host lacks of what a step asks for."""
        return authority.missing(authority_probe.state(self.root), step.trusted, step.signed_by)


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
        bundles.append((one_host.root / authority_probe.PKI / "ca.crt").read_text())
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
    (one_host.root / authority_probe.TOLD / "ca.crt").unlink()
    assert one_host.lacks(authority.next_step(SITE, values)) == [
        "longhaul-pki did not read the certificates since they changed"
    ]


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
    """An environment of this host, whose probe is asked directly."""

    class Fake:
        name = SITE
        hosts = {"data1": Host("data1", frozenset(), {})}  # noqa: RUF012 - read only

    monkeypatch.setattr(remote, "answer", lambda *_arguments, **_options: authority_probe.state(one_host.root))
    return Fake()


def test_a_step_that_comes_too_early_says_what_to_do(values: dict[str, Any], environment: Environment) -> None:
    authority.require_ready(environment, authority.next_step(SITE, values))
    values |= authority.next_step(SITE, values).new
    with pytest.raises(Failure, match="data1: it does not trust") as caught:
        authority.require_ready(environment, authority.next_step(SITE, values))
    assert f"provision --env={SITE}" in caught.value.hint
