"""What a process keeps to prove who it is: the CA's certificate, its own key and certificate, and on servers the CA's key.

All of it is in one directory nobody else may read. Key and certificate are one file, replaced as a whole, so a crash leaves the old pair or
the new one. The contexts it hands out are given the new pair where they stand: a renewal breaks no connection.
"""

import os
import ssl
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from kago.security.authority import Authority, cluster_of, new_key, private_pem, request_for
from kago.security.handshake import CheckedContext, Judge, client_context, server_context
from kago.security.subject import BACKDATED_S, UNREADABLE, Role, Subject, subject_of

DIRECTORY = "tls"
"""Below the data directory."""
CA_FILE, CA_KEY_FILE, OWN_FILE = "ca.pem", "ca.key", "own.pem"


LOOK_S = 3600.0
"""The longest sleep until the next look at the clock: machines sleep, and clocks are set."""


class KeyringError(Exception):
    """The directory cannot be used; the text says what to do."""


class Keyring:
    """The directory of one process. `held` says whether it has been given a cluster's CA at all."""

    def __init__(self, data_dir: Path) -> None:
        self.directory = data_dir / DIRECTORY
        self.ca_pem = self.read(CA_FILE)
        self.held = bool(self.ca_pem)
        self.cluster = ""
        self.authority: Authority | None = None
        self.subject: Subject | None = None
        """Of our own certificate; None until there is one."""
        self._contexts: list[CheckedContext] = []
        if self.held:
            self._load()

    def _load(self) -> None:
        try:
            self.cluster = cluster_of(self.ca_pem)
            key = self.read(CA_KEY_FILE)
            self.authority = Authority(self.ca_pem, key) if key else None
            own = self.read(OWN_FILE)
            self.subject = _subject_in(own) if own else None
        except ValueError as error:
            raise KeyringError(f"{self.directory} is damaged ({error}); remove it and join the cluster again with a token") from error

    # -- given ---------------------------------------------------------------------------------------------------------

    def adopt(self, ca_pem: bytes, ca_key_pem: bytes = b"") -> None:
        """Take a cluster's CA, with its key on a server, in place of whatever was here."""
        if ca_key_pem:
            Authority(ca_pem, ca_key_pem)
            self.write(CA_KEY_FILE, ca_key_pem)
        if self.ca_pem != ca_pem:
            (self.directory / OWN_FILE).unlink(missing_ok=True)
        self.write(CA_FILE, ca_pem)
        self.ca_pem, self.held = ca_pem, True
        self._load()

    def install(self, key_pem: bytes, certificate_pem: bytes) -> None:
        """From now on we are this; open connections stay as they are."""
        self.write(OWN_FILE, key_pem + certificate_pem)
        self.subject = _subject_in(certificate_pem)
        for context in self._contexts:
            self._equip(context)

    def forget_certificate(self) -> None:
        """It counts no more: the next start needs a token."""
        (self.directory / OWN_FILE).unlink(missing_ok=True)
        self.subject = None

    def issue(self, role: Role, name: str, *, now: float, admitted: int, hosts: Iterable[str] = ()) -> None:
        """A new key and certificate for ourselves, signed with the CA's own key: servers hold it."""
        assert self.authority is not None
        key = new_key()
        subject = Subject(cluster=self.cluster, role=role, name=name, admitted=admitted)
        self.install(private_pem(key), self.authority.certify(key.public_key(), subject, now=now, hosts=hosts))

    def request(self) -> tuple[bytes, bytes]:
        """A fresh private key (PEM), to be kept until the answer comes, and the signing request for it."""
        key = new_key()
        return private_pem(key), request_for(key)

    # -- asked ---------------------------------------------------------------------------------------------------------

    def usable(self, *, now: float) -> bool:
        """Whether our certificate is in force by this clock."""
        return self.subject is not None and self.subject.issued_at - BACKDATED_S <= now < self.subject.expires_at

    def renew_in_s(self, *, now: float, jitter: float) -> float:
        """Seconds until half of our certificate's life is over, less up to a tenth of it (`jitter` of 0 to 1)."""
        if self.subject is None:
            return 0.0
        life_s = self.subject.expires_at - self.subject.issued_at
        return max(0.0, self.subject.issued_at + life_s * (0.5 - jitter / 10) - now)

    def server_context(self, judge: Judge, *, certificate_optional: bool = False) -> CheckedContext:
        """For a port of ours."""
        return self._kept(server_context(self.ca_pem, judge, certificate_optional=certificate_optional))

    def client_context(self, judge: Judge) -> CheckedContext:
        """For dialling under our own name."""
        return self._kept(client_context(self.ca_pem, judge))

    def only(self, *roles: Role) -> Judge:
        """The judge that lets these roles of our cluster speak."""
        cluster = self.cluster

        def judge(subject: Subject) -> str:
            if subject.cluster != cluster:
                return f"the certificate is of cluster {subject.cluster}, this is {cluster}"
            if subject.role not in roles:
                return f"the certificate is {subject.role}'s, but only {' or '.join(roles)} may speak here"
            return ""

        return judge

    # -- files ---------------------------------------------------------------------------------------------------------

    def _kept(self, context: CheckedContext) -> CheckedContext:
        self._equip(context)
        self._contexts.append(context)
        return context

    def _equip(self, context: CheckedContext) -> None:
        try:
            context.load_cert_chain(self.directory / OWN_FILE)
        except (OSError, ssl.SSLError) as error:
            raise KeyringError(f"{self.directory / OWN_FILE} cannot be used: {error}") from error

    def read(self, name: str) -> bytes:
        """Empty where there is no such file. KeyringError."""
        path = self.directory / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise KeyringError(f"cannot read {path}: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as file:
            if name != CA_FILE and os.fstat(descriptor).st_mode & 0o077:
                raise KeyringError(f"{path} holds a private key, but others may read it; chmod 600 it, and think about who has read it")
            return file.read()

    def write(self, name: str, content: bytes) -> None:
        """Durably, for our own eyes only. KeyringError."""
        try:
            self.directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.directory.mkdir(mode=0o700, exist_ok=True)
            write_private(self.directory / name, content)
        except OSError as error:
            raise KeyringError(f"cannot write {self.directory / name}: {error.strerror}") from error


def write_private(path: Path, content: bytes) -> None:
    """Replace a file, readable by its owner alone, as a whole and durably. OSError."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    os.replace(fresh, path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _subject_in(pem: bytes) -> Subject:
    """Of the certificate in a PEM text that may hold its key as well. ValueError."""
    try:
        return subject_of(x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER))
    except UNREADABLE as error:
        raise ValueError(str(error)) from None
