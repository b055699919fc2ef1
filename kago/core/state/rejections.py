"""Why a command was refused: values, the same on every replica, with words for the user."""

from enum import StrEnum

from msgspec import Struct

from kago.core.model.validation import FieldError


class Refusal(StrEnum):
    NOT_FOUND = "not-found"
    ALREADY_EXISTS = "already-exists"
    VALIDATION = "validation"
    PRECONDITION_FAILED = "precondition-failed"
    CONFLICT = "conflict"
    STALE_EPOCH = "stale-epoch"
    STALE_INCARNATION = "stale-incarnation"
    STALE_VERSION = "stale-version"
    """Decided on a state that has moved since; the leader simply decides anew."""
    UNKNOWN_COMMAND = "unknown-command"
    OLD_SCHEMA = "old-schema"
    """Some server is of a version that does not understand this yet."""


class Rejection(Struct, frozen=True, kw_only=True, tag="rejected"):
    refusal: Refusal
    detail: str
    errors: tuple[FieldError, ...] = ()
    fingerprint: str = ""
    """The entry's."""


class Accepted(Struct, frozen=True, kw_only=True, tag="accepted"):
    """The command was applied; `changed` is False where everything already was as asked."""

    name: str = ""
    """Of the one thing a user's command is about."""
    version: int = 0
    changed: bool = True
    count: int = 0
    """Pods that a leader's or agent's command made, bound, stopped, removed or changed; the others were passed over."""
    fingerprint: str = ""
    """The entry's."""
    at: float = 0.0
    """The entry's time stamp, where it has a fingerprint: with it a repeated request is answered as the first one was."""


Reply = Accepted | Rejection
