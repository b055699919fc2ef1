"""Tokens: made, spent and revoked; and names removed for good, whose certificates count no more."""

from msgspec.structs import replace

from kago.core.model.token import JOINING, NewToken, Removal, Token, check_token
from kago.core.state.commands import AdoptTokens, CreateToken, RevokeToken, SpendToken
from kago.core.state.handlers.draft import Draft, invalid
from kago.core.state.rejections import Accepted, Refusal, Rejection, Reply

MAX_TOKENS = 1000
REMOVALS_KEPT_S = 40 * 24 * 3600.0
"""Longer than any certificate lives; who was removed cannot renew."""


def create(draft: Draft, command: CreateToken) -> Reply:
    token = command.token
    if errors := tuple(check_token(token)):
        return invalid(errors)
    _forget_expired(draft)
    known = draft.token(token.id)
    if known is not None:
        if (known.role, known.digest) != (token.role, token.digest):
            return Rejection(refusal=Refusal.ALREADY_EXISTS, detail=f"there is another token {token.id}; make a new one")
        return Accepted(name=token.id, version=known.version)
    if len(draft.tables.tokens) >= MAX_TOKENS:
        return Rejection(refusal=Refusal.CONFLICT, detail=f"there are {MAX_TOKENS} tokens; revoke some")
    draft.put_token(_made(draft, token))
    return Accepted(name=token.id, version=draft.index)


def adopt(draft: Draft, command: AdoptTokens) -> Reply:
    """Take over the tokens the cluster was set up with; once, so that none comes back after it was revoked.

    A cluster that lost its CA and was given another one begins anew: nobody could use the tokens of the old one.
    """
    if draft.tables.cluster.tokens_of != command.authority:
        draft.put_cluster(replace(draft.tables.cluster, tokens_of=command.authority))
        for old in draft.tables.tokens:
            draft.remove_token(old)
        for token in command.tokens:
            if token.expires_at is None or token.expires_at > draft.at:
                draft.put_token(token)
    return Accepted(version=draft.index)


def spend(draft: Draft, command: SpendToken) -> Reply:
    """Let somebody join. The server that was shown the secret has compared it; whether the token still counts is judged here."""
    token = draft.token(command.id)
    if token is None:
        return Rejection(refusal=Refusal.NOT_FOUND, detail="this token is not known: it was revoked, or has run out long ago")
    if token.role is not command.role or token.role not in JOINING:
        return Rejection(refusal=Refusal.CONFLICT, detail=f"token {token.id} is for role {token.role}: not for joining as {command.role}")
    if token.expires_at is not None and token.expires_at <= draft.at:
        return Rejection(refusal=Refusal.CONFLICT, detail=f"token {token.id} has run out; make a new one: kago token create")
    if token.uses_left is not None and command.spender not in token.spent_by:
        if token.uses_left <= 0:
            return Rejection(refusal=Refusal.CONFLICT, detail=f"token {token.id} was used already; make a new one: kago token create")
        draft.put_token(replace(token, uses_left=token.uses_left - 1, spent_by=(*token.spent_by, command.spender)))
    return Accepted(name=token.id, version=draft.index)


def revoke(draft: Draft, command: RevokeToken) -> Reply:
    if draft.token(command.id) is None:
        return Rejection(refusal=Refusal.NOT_FOUND, detail=f"there is no token {command.id}")
    draft.remove_token(command.id)
    return Accepted(name=command.id, version=draft.index)


def remove_name(draft: Draft, role: str, name: str) -> None:
    """From now on the certificates given out for this name count no more; a token lets it in again."""
    for removal in draft.tables.removals.values():
        if removal.removed_at < draft.at - REMOVALS_KEPT_S:
            draft.forget_removal(removal)
    draft.put_removal(Removal(role=role, name=name, removed_at=draft.at))


def _made(draft: Draft, token: NewToken) -> Token:
    return Token(
        id=token.id,
        role=token.role,
        digest=token.digest,
        expires_at=None if token.ttl_s is None else draft.at + token.ttl_s,
        uses_left=token.uses,
        description=token.description,
        created_at=draft.at,
    )


def _forget_expired(draft: Draft) -> None:
    for token in draft.tables.tokens.values():
        if token.expires_at is not None and token.expires_at <= draft.at:
            draft.remove_token(token.id)
