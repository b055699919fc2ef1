"""Certificates: what the CA vouches for, and what it does not let itself be told."""

import time
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from kago.security.authority import CERTIFICATE_S, Authority, ca_digest, cluster_of, new_key, private_pem, request_for
from kago.security.subject import BACKDATED_S, NotOurs, Role, Subject, subject_of

NOW = 1_800_000_000.0
CA = Authority.make("c1", now=NOW)


def signed(subject: Subject, request: bytes | None = None) -> x509.Certificate:
    return x509.load_pem_x509_certificate(CA.sign(request or request_for(new_key()), subject, now=NOW))


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("name", ["worker-1", "10.0.0.1:7080", "[fe80::1]:7080", "a b/c?d#e%"])
@pytest.mark.parametrize("role", list(Role))
def test_a_subject_comes_back_as_it_was(role: Role, name: str) -> None:
    wanted = Subject(cluster="c1", role=role, name=name, admitted=4711)
    found = subject_of(der(signed(wanted)))
    assert (found.cluster, found.role, found.name, found.admitted) == ("c1", role, name, 4711)
    assert (found.issued_at, found.expires_at) == (NOW, NOW + CERTIFICATE_S)


def test_what_a_certificate_may_be_used_for() -> None:
    for role, uses in ((Role.USER, 1), (Role.AGENT, 2), (Role.SERVER, 2)):
        certificate = signed(Subject(cluster="c1", role=role, name="x"))
        extensions = certificate.extensions
        assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
        found = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        assert ExtendedKeyUsageOID.CLIENT_AUTH in found and len(found) == uses
        assert certificate.not_valid_before_utc.timestamp() == NOW - BACKDATED_S
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(CA.pem))


def test_a_request_says_nothing_but_its_key() -> None:
    """CA:TRUE, other names and other uses are ignored."""
    key = new_key()
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "kago://c1/server/me")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier("kago://c1/server/me")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    made = signed(Subject(cluster="c1", role=Role.AGENT, name="n1"), request.public_bytes(serialization.Encoding.PEM))
    assert subject_of(der(made)).key == "agent/n1"
    assert made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert made.public_key() == key.public_key()


def rsa_request() -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    return x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256()).public_bytes(
        serialization.Encoding.PEM
    )


def other_curve() -> bytes:
    key = ec.generate_private_key(ec.SECP224R1())
    return x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256()).public_bytes(
        serialization.Encoding.PEM
    )


def forged() -> bytes:
    """A request whose signature is another one's."""
    request = x509.load_pem_x509_csr(request_for(new_key())).public_bytes(serialization.Encoding.DER)
    flipped = bytearray(request)
    flipped[-1] ^= 1
    try:
        return x509.load_der_x509_csr(bytes(flipped)).public_bytes(serialization.Encoding.PEM)
    except ValueError:
        return b"-----BEGIN CERTIFICATE REQUEST-----\n"


@pytest.mark.parametrize("made", [lambda: b"", lambda: b"rubbish", rsa_request, other_curve, forged])
def test_requests_that_are_refused(made: Callable[[], bytes]) -> None:
    with pytest.raises(NotOurs):
        CA.sign(made(), Subject(cluster="c1", role=Role.AGENT, name="n1"), now=NOW)


@pytest.mark.parametrize("name", ["", "x" * 301])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(NotOurs):
        CA.sign(request_for(new_key()), Subject(cluster="c1", role=Role.AGENT, name=name), now=NOW)


def test_a_key_of_another_ca_is_noticed() -> None:
    assert cluster_of(CA.pem) == "c1"
    assert Authority(CA.pem, CA.key_pem).cluster == "c1"
    with pytest.raises(ValueError, match="do not belong together"):
        Authority(CA.pem, private_pem(new_key()))
    assert ca_digest(CA.pem) != ca_digest(Authority.make("c1", now=NOW).pem)


@pytest.mark.parametrize("uris", [[], ["kago://c1/agent/a", "kago://c1/server/b"], ["https://c1/agent/a"], ["kago://c1/root/a"],
                                  ["kago://c1/agent/"], ["kago://c1/agent/a/b"], ["kago://c1/agent/a?x=1"]])
def test_certificates_that_name_nobody(uris: list[str]) -> None:
    key = new_key()
    moment = x509.load_pem_x509_certificate(CA.pem).not_valid_before_utc
    builder = (
        x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(x509.Name([])).public_key(key.public_key()).serial_number(1)
        .not_valid_before(moment).not_valid_after(moment)
    )
    if uris:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(map(x509.UniformResourceIdentifier, uris))), critical=False)
    with pytest.raises(NotOurs):
        subject_of(der(builder.sign(key, hashes.SHA256())))
    with pytest.raises(NotOurs):
        subject_of(None)


def test_the_ca_itself_lasts_ten_years() -> None:
    fresh = x509.load_pem_x509_certificate(Authority.make("c2", now=time.time()).pem)
    constraints = fresh.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    assert (fresh.not_valid_after_utc - fresh.not_valid_before_utc).days == 3650
