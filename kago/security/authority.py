"""The cluster's certificate authority: one ECDSA P-256 key that vouches for servers, agents and users, and for nothing else.

It takes no more from a signing request than the public key: names, uses and times are its own. Whoever holds its key can make any
certificate of the cluster; servers do, from their data directories.
"""

import secrets
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kago.security.subject import BACKDATED_S, MAX_NAME_BYTES, SERIAL_DICE_BITS, UNREADABLE, NotOurs, Role, Subject

CA_DAYS = 3650
CERTIFICATE_S = 30 * 24 * 3600.0
_MAX_ADMITTED = 2**60


class Authority:
    """`make` a new one or read one from its two PEM texts (ValueError where they do not belong together)."""

    def __init__(self, certificate_pem: bytes, key_pem: bytes) -> None:
        self.pem = certificate_pem
        self.key_pem = key_pem
        self._certificate = _ca(certificate_pem)
        key = serialization.load_pem_private_key(key_pem, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != self._certificate.public_key():
            raise ValueError("the CA's key and its certificate do not belong together")
        self._key = key
        self.cluster = cluster_of(certificate_pem)
        self.expires_at = self._certificate.not_valid_after_utc.timestamp()
        """Seconds since the epoch; nothing it vouches for counts longer."""

    @classmethod
    def make(cls, cluster: str, *, now: float, days: float = CA_DAYS) -> "Authority":
        """A new CA of its own, for the cluster of that id; `now` in seconds since the epoch."""
        key = new_key()
        name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Kago"), x509.NameAttribute(NameOID.COMMON_NAME, cluster)])
        begin = _moment(now - BACKDATED_S)
        ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(ski, critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ski), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate.public_bytes(serialization.Encoding.PEM), private_pem(key))

    def sign(self, request_pem: bytes, subject: Subject, *, now: float, valid_s: float = CERTIFICATE_S) -> bytes:
        """A certificate (PEM) for the key of a signing request. NotOurs where the request is not what `request_for` makes."""
        return self.certify(requested_key(request_pem), subject, now=now, valid_s=valid_s)

    def certify(
        self, key: ec.EllipticCurvePublicKey, subject: Subject, *, now: float, valid_s: float = CERTIFICATE_S, hosts: Iterable[str] = ()
    ) -> bytes:
        """A certificate (PEM) that says that `key` is the subject's, valid from an hour ago until `valid_s` from now.

        `hosts` are for clients that are not ours and look for the name they dialled.
        """
        if not subject.name or len(subject.name.encode()) > MAX_NAME_BYTES:
            raise NotOurs(f"a name has 1 to {MAX_NAME_BYTES} bytes")
        if now >= self.expires_at:
            raise NotOurs(f"the cluster's CA ran out on {_moment(self.expires_at):%Y-%m-%d}: nobody can have a certificate of it any more")
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if subject.role is not Role.USER:
            uses.append(ExtendedKeyUsageOID.SERVER_AUTH)  # agents have a port of their own; who dials looks at the role
        names = [x509.UniformResourceIdentifier(subject.uri), *(_host_name(host) for host in dict.fromkeys(hosts) if host.isascii())]
        dice = secrets.randbits(SERIAL_DICE_BITS - 1) | 1 << (SERIAL_DICE_BITS - 1)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject.role.value)]))
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(min(subject.admitted, _MAX_ADMITTED) << SERIAL_DICE_BITS | dice)
            .not_valid_before(_moment(now - BACKDATED_S))
            .not_valid_after(_moment(min(now + valid_s, self.expires_at)))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def request_for(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A signing request (PEM) that says nothing but that we hold this key."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def cluster_of(ca_pem: bytes) -> str:
    """The cluster id a CA was made for. ValueError where it is no CA of this program."""
    names = _ca(ca_pem).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1 or not names[0].value:
        raise ValueError("the CA's certificate names no cluster")
    return str(names[0].value)


def ca_digest(ca_pem: bytes) -> bytes:
    """SHA-256 of the CA's certificate: what a token pins. ValueError."""
    return _ca(ca_pem).fingerprint(hashes.SHA256())


def _ca(pem: bytes) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        certificate.public_key()
    except UNREADABLE as error:
        raise ValueError(f"this is no certificate of a CA: {error}") from None
    return certificate


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def requested_key(request_pem: bytes) -> ec.EllipticCurvePublicKey:
    """The one thing that is taken from a signing request. NotOurs."""
    try:
        request = x509.load_pem_x509_csr(request_pem)
        key = request.public_key()
        signed = request.is_signature_valid
    except (*UNREADABLE, InvalidSignature):
        raise NotOurs("this is no certificate signing request") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise NotOurs("the key of a signing request must be an ECDSA one on P-256")
    if not signed:
        raise NotOurs("the signing request is not signed by its own key")
    return key


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
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


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
