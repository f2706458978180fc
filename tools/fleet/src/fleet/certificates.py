"""A certificate authority of the fleet's own, and the servers' certificates that it signs."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence


AUTHORITY_VALIDITY = timedelta(days=3650)
SERVER_VALIDITY = timedelta(days=397)
"""No longer than public authorities may: a certificate that is renewed every year is one that can be renewed."""

_AUTHORITY_NAME = "Banking event fleet: authority of this installation"
_CLOCKS_DIFFER_BY = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its private key, both as PEM; the certificate may be followed by its issuers'."""

    certificate: bytes
    key: bytes

    @property
    def expires(self) -> datetime:
        """When the certificate ends, in UTC."""
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc

    def covers(self, names: Sequence[str]) -> bool:
        """Whether the certificate is for all of these host names and addresses."""
        try:
            extension = x509.load_pem_x509_certificate(self.certificate).extensions.get_extension_for_class(
                x509.SubjectAlternativeName
            )
        except x509.ExtensionNotFound:
            return False
        return {_general_name(name) for name in names} <= set(extension.value)

    def is_issued_by(self, authority: bytes) -> bool:
        """Whether the authority, or one of the issuers that follow the certificate, signed it."""
        chain = x509.load_pem_x509_certificates(self.certificate)
        issuers = [*chain[1:], *x509.load_pem_x509_certificates(authority)]
        return any(_signed(chain[0], issuer) for issuer in issuers)

    def as_pkcs12(self, password: str) -> bytes:
        """Both as a Java key store."""
        certificate, *issuers = x509.load_pem_x509_certificates(self.certificate)
        key = load_pem_private_key(self.key, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise TypeError("expected a private key of an elliptic curve or of RSA")
        encryption = BestAvailableEncryption(password.encode())
        return pkcs12.serialize_key_and_certificates(b"server", key, certificate, issuers or None, encryption)


def make_authority(now: datetime) -> Identity:
    """A new authority, which signs servers' certificates and no further authorities."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _AUTHORITY_NAME)])
    builder = _builder(name, name, key.public_key(), now, AUTHORITY_VALIDITY)
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Identity(certificate.public_bytes(Encoding.PEM), _pem(key))


def make_server(authority: Identity, names: Sequence[str], now: datetime) -> Identity:
    """A new certificate of a server, signed by the authority.

    Args:
        authority: Who signs.
        names: The host names and addresses that clients use; the first is the subject's.
        now: From when on it is valid.
    """
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    issuer_key = load_pem_private_key(authority.key, None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise TypeError("expected the authority's key to be one that make_authority made")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    certificate = (
        _builder(subject, issuer.subject, key.public_key(), now, SERVER_VALIDITY)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return Identity(certificate.public_bytes(Encoding.PEM), _pem(key))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, validity: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER_BY)
        .not_valid_after(now + validity)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # noqa: BLE001 - several kinds, one for each way of not being signed by it
        return False
    return True


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_der(private_pem: bytes) -> bytes:
    """A private key's public half as DER, which is how Pulsar reads it."""
    key = load_pem_private_key(private_pem, None)
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
