"""The internal authority: what it signs passes strict verification, and certificates are renewed for every reason."""

from __future__ import annotations

import datetime
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ops import pki

DAYS = 365
RENEW_DAYS = 90
NOW = datetime.datetime.now(datetime.UTC)
SUBJECT = pki.Subject.of("web1", ["web1", "198.18.0.21"])


@pytest.fixture(scope="module")
def authority() -> tuple[str, str]:
    """Key and certificate of an authority."""
    return pki.create_authority("Test CA")


def request(claims: str = "web1") -> tuple[str, ec.EllipticCurvePrivateKey]:
    """A signing request whose own subject claims to be `claims`, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, claims)])
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode(), key


def test_openssl_verifies_it_strictly(authority: tuple[str, str], tmp_path: Path) -> None:
    key, certificate = authority
    asked, _ = request()
    (tmp_path / "ca.crt").write_text(certificate)
    (tmp_path / "host.crt").write_text(pki.sign(asked, SUBJECT, certificate, key, DAYS))
    for purpose in ("sslserver", "sslclient"):
        answer = subprocess.run(
            ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.crt", "host.crt"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr


def test_pythons_strict_handshake_accepts_it(authority: tuple[str, str], tmp_path: Path) -> None:
    key, certificate = authority
    asked, host_key = request()
    (tmp_path / "host.crt").write_text(pki.sign(asked, SUBJECT, certificate, key, DAYS))
    (tmp_path / "host.key").write_bytes(
        host_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(tmp_path / "host.crt", tmp_path / "host.key")
    client_side = ssl.create_default_context(cadata=certificate)
    client_side.verify_flags |= ssl.VERIFY_X509_STRICT
    for name in sorted(SUBJECT.names):
        assert shake_hands(client_side, server_side, name)
    with pytest.raises(ssl.SSLCertVerificationError, match="web2"):
        shake_hands(client_side, server_side, "web2")


def shake_hands(client_side: ssl.SSLContext, server_side: ssl.SSLContext, name: str) -> bool:
    """A TLS handshake in memory; raises what the client raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for end in (client, server):
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                continue
        if len(done) == 2:
            return True
    return False


def test_the_request_does_not_decide_the_name(authority: tuple[str, str]) -> None:
    key, certificate = authority
    asked, _ = request(claims="data1")
    signed = x509.load_pem_x509_certificate(pki.sign(asked, SUBJECT, certificate, key, DAYS).encode())
    assert "data1" not in signed.subject.rfc4514_string()


def test_a_request_that_does_not_hold_its_key_is_refused(authority: tuple[str, str]) -> None:
    key, certificate = authority
    asked, _ = request()
    raw = x509.load_pem_x509_csr(asked.encode()).public_bytes(serialization.Encoding.DER)
    broken = x509.load_der_x509_csr(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(ValueError, match="own key"):
        pki.sign(broken.public_bytes(serialization.Encoding.PEM).decode(), SUBJECT, certificate, key, DAYS)


def test_a_key_of_another_authority_is_refused(authority: tuple[str, str]) -> None:
    other_key, _ = pki.create_authority("Other CA")
    asked, _ = request()
    with pytest.raises(ValueError, match="does not belong"):
        pki.sign(asked, SUBJECT, authority[1], other_key, DAYS)


def test_nothing_outlives_its_authority(authority: tuple[str, str]) -> None:
    key, certificate = authority
    asked, _ = request()
    signed = pki.sign(asked, SUBJECT, certificate, key, pki.AUTHORITY_DAYS * 2)
    ends = [x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc for pem in (signed, certificate)]
    assert ends[0] == ends[1]
    # And such a certificate is not replaced on every run by one that ends on the same day.
    late = ends[1] - datetime.timedelta(days=1)
    assert not pki.reason_to_renew(signed, asked, SUBJECT, authority=certificate, renew_days=RENEW_DAYS, now=late)


def test_a_new_one_is_to_be_had_in_the_authoritys_last_days_too(authority: tuple[str, str]) -> None:
    """Hosts that trust others than before need one, however long it lasts."""
    key, certificate = authority
    asked, _ = request()
    signed = pki.sign(asked, SUBJECT, certificate, key, pki.AUTHORITY_DAYS)
    late = NOW + datetime.timedelta(days=pki.AUTHORITY_DAYS - 2)
    reason = pki.reason_to_renew(
        signed, asked, SUBJECT, authority=certificate, renew_days=RENEW_DAYS, now=late, renew=True
    )
    assert "asked for" in reason


@pytest.mark.parametrize(
    ("days_later", "renewed"), [(0, False), (DAYS - RENEW_DAYS - 1, False), (DAYS - RENEW_DAYS + 1, True)]
)
def test_it_is_renewed_when_little_time_is_left(authority: tuple[str, str], days_later: int, *, renewed: bool) -> None:
    key, certificate = authority
    asked, _ = request()
    signed = pki.sign(asked, SUBJECT, certificate, key, DAYS)
    later = NOW + datetime.timedelta(days=days_later)
    reason = pki.reason_to_renew(signed, asked, SUBJECT, authority=certificate, renew_days=RENEW_DAYS, now=later)
    assert bool(reason) is renewed, reason


def test_every_other_reason_to_renew(authority: tuple[str, str]) -> None:
    key, certificate = authority
    asked, _ = request()
    signed = pki.sign(asked, SUBJECT, certificate, key, DAYS)
    _, other_authority = pki.create_authority("Test CA")

    def reason(present: str = signed, csr: str = asked, subject: pki.Subject = SUBJECT, ca: str = certificate) -> str:
        return pki.reason_to_renew(present, csr, subject, authority=ca, renew_days=RENEW_DAYS, now=NOW)

    assert not reason()
    assert "no certificate" in reason(present="")
    assert "cannot be read" in reason(present="-----BEGIN CERTIFICATE-----")
    assert "another authority" in reason(ca=other_authority)
    assert "another key" in reason(csr=request()[0])
    assert "names" in reason(subject=pki.Subject.of("web1", ["web1", "198.18.0.22"]))
