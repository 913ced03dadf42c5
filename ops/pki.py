"""The internal certificate authority, strict enough for Python's VERIFY_X509_STRICT (RFC 5280, section 4.2)."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 3650
CLOCK_DIFFERENCE = datetime.timedelta(hours=1)  # clocks of hosts may be behind


def create_authority(name: str) -> tuple[str, str]:
    """Make a certificate authority called `name`; returns its private key and its certificate, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_DIFFERENCE)
        .not_valid_after(now + datetime.timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return key_pem.decode(), certificate.public_bytes(serialization.Encoding.PEM).decode()


@dataclass(frozen=True)
class Subject:
    """The subject of a certificate: its common name, and the DNS names and IP addresses that TLS compares."""

    common_name: str
    names: frozenset[str]

    @classmethod
    def of(cls, common_name: str, names: Iterable[str]) -> Subject:
        """The subject with these names and addresses, whatever their order and however often each is given."""
        return cls(common_name, frozenset(str(_general_name(name).value) for name in names))

    def alternative_name(self) -> x509.SubjectAlternativeName:
        """The names as an extension, in one order so that the same names give the same bytes."""
        return x509.SubjectAlternativeName([_general_name(name) for name in sorted(self.names)])


def sign(request: str, subject: Subject, authority: str, authority_key: str, days: int) -> str:
    """A certificate for the key of a signing request (PEM); returns it as PEM.

    Only the key is taken from the request, and only if the request proves that its sender holds the private key. The
    names in a request are ignored: a host does not decide which names it gets a certificate for.

    Raises ValueError if the request is not signed by its own key.
    """
    asked = x509.load_pem_x509_csr(request.encode())
    if not asked.is_signature_valid:
        raise ValueError("the signing request is not signed by its own key")
    issuer, issuer_key = _authority(authority, authority_key)
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject.common_name)]))
        .issuer_name(issuer.subject)
        .public_key(asked.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - CLOCK_DIFFERENCE, issuer.not_valid_before_utc))
        .not_valid_after(min(now + datetime.timedelta(days=days), issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(subject.alternative_name(), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(asked.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def reason_to_renew(
    certificate: str,
    request: str,
    subject: Subject,
    *,
    authority: str,
    renew_days: int,
    now: datetime.datetime,
    renew: bool = False,
) -> str:
    """Why a host's certificate (PEM, or empty) must be replaced; empty if it is good.

    `request` is the signing request: the certificate must be for its key. With `renew`, a good certificate is replaced
    too.
    """
    try:
        present = x509.load_pem_x509_certificate(certificate.encode())
    except ValueError:
        return "there is no certificate" if not certificate else "the certificate cannot be read"
    issuer = x509.load_pem_x509_certificate(authority.encode())
    if not _is_signed_by(present, issuer):
        return "another authority signed it"
    if present.public_key() != x509.load_pem_x509_csr(request.encode()).public_key():
        return "it is for another key"
    if _subject(present) != subject:
        return "the names have changed"
    left = present.not_valid_after_utc - now
    # The last certificates of an authority end with it: renewing them would not make them live longer.
    if left < datetime.timedelta(days=renew_days) and present.not_valid_after_utc < issuer.not_valid_after_utc:
        return f"it ends in {left.days} days"
    return "a new one is asked for" if renew else ""


def is_signed_by(certificate: str, authority: str) -> bool:
    """Whether an authority signed a certificate; both PEM, the certificate as a host has it, which may be empty."""
    try:
        present = x509.load_pem_x509_certificate(certificate.encode())
    except ValueError:
        return False
    return _is_signed_by(present, x509.load_pem_x509_certificate(authority.encode()))


def _is_signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _subject(certificate: x509.Certificate) -> Subject:
    common_names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        extension = x509.SubjectAlternativeName([])
    common_name = str(common_names[0].value) if common_names else ""
    return Subject(common_name, frozenset(str(name.value) for name in extension))


def _authority(certificate: str, key: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    loaded = serialization.load_pem_private_key(key.encode(), password=None)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise TypeError("the authority's key must be an elliptic curve key")
    authority = x509.load_pem_x509_certificate(certificate.encode())
    if authority.public_key() != loaded.public_key():
        raise ValueError("the authority's key does not belong to its certificate")
    return authority, loaded


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, digital_signature: bool = False, sign_certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )
