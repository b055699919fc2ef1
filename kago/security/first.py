"""How a secured cluster begins: its CA, and the first tokens, made on one server before there is a log that could keep them."""

import msgspec

from kago.core.model.token import JOINING, Token, TokenRole
from kago.security import tokens
from kago.security.authority import Authority, ca_digest
from kago.security.keyring import Keyring, KeyringError

FIRST_TOKENS_FILE = "first-tokens.json"
FIRST_TTL_S = 24 * 3600.0
_ROLES = (TokenRole.SERVER, TokenRole.AGENT, TokenRole.READ, TokenRole.ADMIN)


def found_cluster(keyring: Keyring, cluster: str, *, now: float) -> dict[TokenRole, tokens.Token]:
    """Make the CA and a token each to join with as server and as agent, to read (for monitoring), and to administer.

    Those to join with count for a day, for any number of machines. KeyringError where there is a CA already.
    """
    if keyring.held:
        raise KeyringError(f"{keyring.directory} holds the CA of cluster {keyring.cluster} already; for more tokens: kago token create")
    authority = Authority.make(cluster, now=now)
    made = {role: tokens.mint(ca_digest(authority.pem)) for role in _ROLES}
    keep_first_tokens(
        keyring,
        [
            Token(
                id=token.id,
                role=role,
                digest=token.digest,
                expires_at=now + FIRST_TTL_S if role in JOINING else None,
                description="made with the cluster",
                created_at=now,
            )
            for role, token in made.items()
        ],
    )
    keyring.adopt(authority.pem, authority.key_pem)
    return made


def keep_first_tokens(keyring: Keyring, first: list[Token] | tuple[Token, ...]) -> None:
    """Their hashes, until the log holds them. KeyringError."""
    keyring.write(FIRST_TOKENS_FILE, msgspec.json.encode(first))


def read_first_tokens(keyring: Keyring) -> tuple[Token, ...]:
    """KeyringError where the file is damaged."""
    content = keyring.read(FIRST_TOKENS_FILE)
    try:
        return msgspec.json.decode(content, type=tuple[Token, ...]) if content else ()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise KeyringError(f"{keyring.directory / FIRST_TOKENS_FILE} is damaged: {error}; remove it") from error


def forget_first_tokens(keyring: Keyring) -> None:
    (keyring.directory / FIRST_TOKENS_FILE).unlink(missing_ok=True)
