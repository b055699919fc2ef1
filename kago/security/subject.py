"""Whom a certificate speaks for: `kago://<cluster>/<role>/<name>`, the one URI among its alternative names.

Its serial number begins with the log index at which its holder was admitted. A name that is removed at a later index is refused with
every certificate given out before, whatever the clocks of those who signed say, and comes back only with a token.
"""

from enum import StrEnum
from urllib.parse import quote, unquote, urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from msgspec import Struct

SCHEME = "kago"
SERIAL_DICE_BITS = 96
MAX_NAME_BYTES = 300
UNREADABLE = (
    ValueError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension, x509.ExtensionNotFound, x509.UnsupportedGeneralNameType,
)
"""What a certificate or a request that is none raises."""
BACKDATED_S = 3600.0
"""Clocks that far behind the signer's take a certificate at once."""


class Role(StrEnum):
    SERVER = "server"
    AGENT = "agent"
    USER = "user"


class NotOurs(ValueError):
    """The certificate is none of this program's; the text says what is wrong with it."""


class Subject(Struct, frozen=True, kw_only=True):
    cluster: str
    """The id its CA was made with."""
    role: Role
    name: str
    """Of a server its Raft address, of an agent its node's name, of a user the id of the token it was given for."""
    admitted: int = 0
    """Log index at which the holder was let in; 0: before there was a log."""
    issued_at: float = 0.0
    expires_at: float = 0.0
    """Seconds since the epoch. It is in force from `BACKDATED_S` before it was issued."""

    @property
    def key(self) -> str:
        """`role/name`, unique in its cluster."""
        return f"{self.role}/{self.name}"

    @property
    def uri(self) -> str:
        return f"{SCHEME}://{quote(self.cluster, safe='')}/{self.role}/{quote(self.name, safe='')}"


def subject_of(der: bytes | None) -> Subject:
    """Of a certificate whose chain has been checked already. NotOurs."""
    if not der:
        raise NotOurs("no certificate was shown")
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        serial, begin, end = certificate.serial_number, certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except UNREADABLE as error:
        raise NotOurs(f"the certificate names nobody: {error}") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise NotOurs(f"the certificate holds {len(uris)} URIs instead of one")
    try:
        url = urlsplit(uris[0])
    except ValueError as error:
        raise NotOurs(f"the certificate is for {uris[0]!r}, which is no URI: {error}") from None
    parts = url.path.split("/")
    if url.scheme != SCHEME or len(parts) != 3 or url.query or url.fragment or parts[1] not in tuple(Role) or not parts[2]:
        raise NotOurs(f"the certificate is for {uris[0]!r}, which is no {SCHEME}://cluster/role/name")
    return Subject(
        cluster=unquote(url.netloc),
        role=Role(parts[1]),
        name=unquote(parts[2]),
        admitted=max(0, serial >> SERIAL_DICE_BITS),
        issued_at=begin.timestamp() + BACKDATED_S,
        expires_at=end.timestamp(),
    )
