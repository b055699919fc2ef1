"""Rubbish for what decides who somebody is: tokens, signing requests, and certificates that a CA of ours has signed and ones it has not."""

import time
import warnings
from base64 import b64encode
from datetime import datetime
from random import Random

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from kago.security.authority import Authority, cluster_of, new_key, request_for
from kago.security.subject import NotOurs, Role, Subject, subject_of
from kago.security.tokens import BadToken, mint, parse_token
from tests.fuzz.mutations import WORDS, Case, mutated

CLUSTER = "c0ffee"
URIS = (
    "kago://c0ffee/agent/n1", "kago://c0ffee/server/s1:7080", "kago://other/agent/n1", "kago://c0ffee/root/n1", "kago://c0ffee/agent/",
    "kago://c0ffee/agent/n1/x", "kago://c0ffee/agent/n1?x=1", "kago://c0ffee/agent/n1#x", "kago:///agent/n1", "https://c0ffee/agent/n1",
    "kago://c0ffee/agent/%00", "kago://c0ffee/agent/%ff%fe", "kago://[::1/agent/n1", "kago://c0ffee/agent/" + "a" * 5000, "", "kago:",
    "kago://c0ffee/agent/../server/s1", "kago://c0ffee//n1", "kago://c0ffee@evil/agent/n1", "KAGO://c0ffee/agent/n1", "//c0ffee/agent/n1",
)


def tokens(chance: Random) -> Case:
    """What somebody shows as a token: taken as it is or refused, and no refusal repeats it."""
    good = [mint(chance.randbytes(32)) for _ in range(20)]

    def case(chance: Random) -> str:
        token = chance.choice(good)
        text = mutated(chance, token.text.encode()).decode(errors="surrogateescape")
        if chance.random() < 0.3:
            at = chance.randrange(len(text) + 1)
            text = text[:at] + chance.choice((*WORDS, "\n", "．", "K", "٣", "ａ", ".", "kago1.")) + text[at:]
        try:
            found = parse_token(text)
        except BadToken as error:
            assert token.secret not in str(error) and len(str(error)) < 200
            return "refused"
        assert found.text == text.strip() and found.secret not in repr(found)
        return "taken"

    return case


def signings(chance: Random) -> Case:
    """Signing requests: whatever they ask for, a certificate says what its maker meant and nothing else."""
    authority = Authority.make(CLUSTER, now=time.time())
    good = [request_for(new_key()), *(greedy_request(chance) for _ in range(12)), *_of_other_keys()]
    bodies = [x509.load_pem_x509_csr(pem).public_bytes(serialization.Encoding.DER) for pem in good]

    def case(chance: Random) -> str:
        kind = chance.random()
        if kind < 0.1:
            pem = chance.choice(good)
        elif kind < 0.4:
            pem = mutated(chance, chance.choice(good), good)
        else:
            pem = _armoured(mutated(chance, chance.choice(bodies), bodies))
        subject = Subject(cluster=CLUSTER, role=Role.AGENT, name=chance.choice(WORDS[1:9]) or "n1", admitted=chance.randrange(1 << 40))
        try:
            made = authority.sign(pem, subject, now=time.time())
        except NotOurs as error:
            assert str(error) and "Traceback" not in str(error)
            return "refused"
        certificate = x509.load_pem_x509_certificate(made)
        found = subject_of(certificate.public_bytes(serialization.Encoding.DER))
        assert (found.key, found.cluster, found.admitted) == (subject.key, CLUSTER, subject.admitted)
        assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert len(certificate.extensions) == 6 and certificate.subject.rfc4514_string() == "CN=agent"
        return "taken"

    return case


def certificates(chance: Random) -> Case:
    """Certificates, whole and damaged, as subjects and as CAs: they name one of ours or are refused in words."""
    authority = Authority.make(CLUSTER, now=time.time())
    ours = [
        authority.certify(new_key().public_key(), Subject(cluster=CLUSTER, role=role, name=name), now=time.time())
        for role in Role
        for name in ("n1", "s1:7080", "é" * 20, "a/b", "%2f", "..")
    ]
    good = [x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER) for pem in ours]
    odd = [_odd(chance) for _ in range(60)]
    warnings.filterwarnings("ignore", "Parsed a")  # serial numbers and lengths that a later cryptography will refuse

    def case(chance: Random) -> str:
        kind = chance.random()
        der = chance.choice(odd) if kind < 0.2 else mutated(chance, chance.choice(good + odd), good)
        try:
            found = subject_of(der)
        except NotOurs as error:
            assert str(error) and len(str(error)) < 20_000
            outcome = "refused"
        else:
            assert found.role in Role and found.name and found.admitted >= 0
            outcome = "taken"
        if kind > 0.7:
            try:
                cluster_of(mutated(chance, authority.pem, [authority.pem]))
            except ValueError:
                return outcome
        return outcome

    return case


def _armoured(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE REQUEST-----\n" + b64encode(der) + b"\n-----END CERTIFICATE REQUEST-----\n"


def greedy_request(chance: Random) -> bytes:
    """Asks to be a CA, a server, somebody else."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, chance.choice(("root", "server", "c0ffee")))])
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    names = [x509.UniformResourceIdentifier(chance.choice(URIS[:3])), x509.DNSName("localhost")]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=chance.random() < 0.5)
    return builder.sign(new_key(), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _of_other_keys() -> list[bytes]:
    empty = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    made = [
        empty.sign(rsa.generate_private_key(65537, 1024), hashes.SHA256()),
        empty.sign(ed25519.Ed25519PrivateKey.generate(), None),
        empty.sign(ec.generate_private_key(ec.SECP384R1()), hashes.SHA384()),
    ]
    return [request.public_bytes(serialization.Encoding.PEM) for request in made]


def _odd(chance: Random) -> bytes:
    """Signed by somebody who means no good, or made for another purpose."""
    key, name = new_key(), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, chance.choice(("server", "x", "é")))])
    begin = datetime(chance.choice((1951, 2024, 2049)), 1, 1)
    builder = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(chance.choice((1, 2**96, 2**158, 2**100 + 7)))
        .not_valid_before(begin).not_valid_after(begin.replace(year=chance.choice((2050, 9999))))
    )
    uris = [x509.UniformResourceIdentifier(uri) for uri in chance.choices(URIS, k=chance.choice((0, 1, 1, 1, 2))) if uri.isascii()]
    others: list[x509.GeneralName] = [x509.DNSName("x"), x509.RFC822Name("a@b")]
    if uris or chance.random() < 0.5:
        builder = builder.add_extension(x509.SubjectAlternativeName([*uris, *chance.sample(others, 1)]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
