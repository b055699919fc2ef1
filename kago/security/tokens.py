"""Tokens: `kago1.<hash of the CA>.<id>.<secret>`. Whoever holds one knows the cluster's CA before it says anything to anybody.

The secret has 160 random bits, so its plain SHA-256 is what the cluster keeps: there is nothing to guess. Nothing here puts a token or a
secret into an error.
"""

import hmac
import re
import secrets
from base64 import b32encode
from hashlib import sha256

from msgspec import Struct

_FORM = re.compile(r"kago1\.([a-z2-7]{52})\.([a-z2-7]{8})\.([a-z2-7]{32})")
_ID_BYTES = 5
_SECRET_BYTES = 20


class BadToken(ValueError):
    """Not a token, or not one for this; the text never holds it."""


class Token(Struct, frozen=True, kw_only=True):
    ca: str
    """SHA-256 of the CA's certificate, in base32."""
    id: str
    secret: str

    def __repr__(self) -> str:
        return f"<token {self.id}>"

    @property
    def text(self) -> str:
        return f"kago1.{self.ca}.{self.id}.{self.secret}"

    @property
    def digest(self) -> str:
        """Of the secret; what is kept of it."""
        return digest_of(self.secret)

    def pins(self, ca_digest: bytes) -> bool:
        return hmac.compare_digest(self.ca, _base32(ca_digest))


def mint(ca_digest: bytes) -> Token:
    """A new one for the cluster of that CA."""
    return Token(ca=_base32(ca_digest), id=_base32(secrets.token_bytes(_ID_BYTES)), secret=_base32(secrets.token_bytes(_SECRET_BYTES)))


def parse_token(text: str) -> Token:
    """BadToken."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise BadToken("this is not a whole token: one has the form kago1.<52 characters>.<8 characters>.<32 characters>")
    ca, id, secret = match.groups()
    return Token(ca=ca, id=id, secret=secret)


def digest_of(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def same_digest(one: str, other: str) -> bool:
    """In constant time."""
    return hmac.compare_digest(one, other)


def _base32(data: bytes) -> str:
    return b32encode(data).decode().rstrip("=").lower()
