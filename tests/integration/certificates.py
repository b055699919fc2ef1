"""Certificates of every kind for tests, the wrong ones above all: each case is a client's context as an intruder would have it."""

import ssl
import time
from pathlib import Path

from kago.security.authority import CERTIFICATE_S, Authority, new_key, private_pem
from kago.security.subject import Role, Subject

DAY_S = 24 * 3600.0
CLUSTER = "c0ffee"


class Office:
    """One CA and a directory for what it gives out."""

    def __init__(self, directory: Path, cluster: str = CLUSTER) -> None:
        self.authority = Authority.make(cluster, now=time.time())
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._count = 0

    def pair(
        self, role: Role, name: str, *, cluster: str = "", ago_s: float = 0.0, valid_s: float = CERTIFICATE_S, admitted: int = 0
    ) -> Path:
        """A file with key and certificate, as made `ago_s` seconds ago."""
        key = new_key()
        subject = Subject(cluster=cluster or self.authority.cluster, role=role, name=name, admitted=admitted)
        certificate = self.authority.certify(key.public_key(), subject, now=time.time() - ago_s, valid_s=valid_s)
        self._count += 1
        path = self.directory / f"pair-{self._count}.pem"
        path.write_bytes(private_pem(key) + certificate)
        return path


def intruder(pair: Path | None, *, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A client that believes anybody and shows `pair`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = version
    if pair is not None:
        context.load_cert_chain(pair)
    return context


def wrong_for_raft(office: Office, other: Office, member: str) -> dict[str, Path | None]:
    """Everything that must be turned away at the Raft port, where `member` would be welcome."""
    return {
        "none": None,
        "other CA": other.pair(Role.SERVER, member, cluster=office.authority.cluster),
        "expired": office.pair(Role.SERVER, member, ago_s=31 * DAY_S),
        "not yet valid": office.pair(Role.SERVER, member, ago_s=-2 * DAY_S),
        "agent": office.pair(Role.AGENT, member),
        "user": office.pair(Role.USER, member),
        "wrong cluster": office.pair(Role.SERVER, member, cluster="another"),
    }
