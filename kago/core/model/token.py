"""Who may come in and what for: tokens, of which the cluster keeps a hash, and names that may not come in any more."""

import re
from collections.abc import Iterator
from enum import StrEnum

from msgspec import Struct, field

from kago.core.model.validation import MAX_LABEL_VALUE, FieldError

MAX_USES = 100
MAX_TTL_S = 10 * 365 * 24 * 3600.0
_ID = re.compile(r"[a-z2-7]{8}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class TokenRole(StrEnum):
    SERVER = "server"
    """Lets a server join."""
    AGENT = "agent"
    """Lets an agent join."""
    READ = "read"
    WRITE = "write"
    """And deploy, scale, delete."""
    ADMIN = "admin"
    """And decide over nodes, servers and tokens."""


JOINING = (TokenRole.SERVER, TokenRole.AGENT)


class NewToken(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As its maker sends it: the secret stays with the maker."""

    id: str
    role: TokenRole
    digest: str
    """SHA-256 of the secret, in hex."""
    ttl_s: float | None = None
    """None: it does not run out."""
    uses: int | None = None
    """How many may join with it; None: any number."""
    description: str = ""


class Token(Struct, frozen=True, kw_only=True):
    id: str
    role: TokenRole
    digest: str
    expires_at: float | None = None
    uses_left: int | None = None
    spent_by: tuple[str, ...] = ()
    """Who joined with it, where uses are counted: who asks again because an answer was lost spends nothing more."""
    description: str = ""
    created_at: float = 0.0
    version: int = 0
    kind: str = field(default="Token")


class Removal(Struct, frozen=True, kw_only=True):
    """Certificates of this name that were given out at an earlier log index than `version` are refused."""

    role: str
    """agent or server, as in certificates."""
    name: str
    removed_at: float
    version: int = 0
    kind: str = field(default="Removal")

    @property
    def key(self) -> str:
        return f"{self.role}/{self.name}"


class TokenView(Struct, frozen=True, kw_only=True):
    """A token as it is shown: without its hash."""

    id: str
    role: TokenRole
    expires_at: float | None
    uses_left: int | None
    spent_by: tuple[str, ...]
    description: str
    created_at: float
    kind: str = field(default="Token")


class JoinRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /join."""

    token: str
    role: TokenRole
    name: str
    """Of an agent its node's name, of a server its Raft address."""
    request: str = ""
    """An agent's certificate signing request (PEM). A server gets the CA's key and signs for itself."""

    def __repr__(self) -> str:
        return f"<join of {self.role} {self.name}>"


class JoinReply(Struct, frozen=True, kw_only=True):
    certificate: str = ""
    ca_key: str = ""
    """For servers only."""
    admitted: int = 0
    """The log index at which the joiner was let in."""
    first_tokens: tuple[Token, ...] = ()
    """For servers, while there is no log yet that keeps them."""

    def __repr__(self) -> str:
        return "<answer to a join>"


class RenewRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /renew, over a connection with the certificate that is to be renewed."""

    request: str


class RenewReply(Struct, frozen=True, kw_only=True):
    certificate: str


def check_token(token: NewToken) -> Iterator[FieldError]:
    """Everything wrong with a token whose types are right."""
    if not _ID.fullmatch(token.id):
        yield FieldError(pointer="/id", detail="must be 8 characters of a-z2-7")
    if not _DIGEST.fullmatch(token.digest):
        yield FieldError(pointer="/digest", detail="must be a SHA-256 in hex")
    if token.ttl_s is not None and not 1 <= token.ttl_s <= MAX_TTL_S:
        yield FieldError(pointer="/ttl_s", detail=f"must be between 1 and {MAX_TTL_S:.0f} seconds")
    if token.uses is not None and not 1 <= token.uses <= MAX_USES:
        yield FieldError(pointer="/uses", detail=f"must be between 1 and {MAX_USES}")
    if token.role in JOINING and token.ttl_s is None and token.uses is None:
        yield FieldError(pointer="/ttl_s", detail="a token to join with runs out, by time or by uses")
    if token.role not in JOINING and token.uses is not None:
        yield FieldError(pointer="/uses", detail="only tokens to join with have their uses counted")
    if len(token.description) > MAX_LABEL_VALUE or _UNPRINTABLE.search(token.description):
        yield FieldError(pointer="/description", detail=f"must be at most {MAX_LABEL_VALUE} printable characters")
