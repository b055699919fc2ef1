"""Every refusal of the API as RFC 9457 `application/problem+json`: what is wrong, and what to do about it.

    Refused             a request is answered with a problem; raised by routes, turned into an answer in one place
"""

from collections.abc import Mapping
from http import HTTPStatus

import msgspec

from kago.core.model.validation import FieldError
from kago.core.state.rejections import Refusal, Rejection
from raft.errors import ChangeRefused, Discarded, LogError, LogHalted, NoLeader, OutcomeUnknown, QueueFull, TooLarge

CONTENT_TYPE = "application/problem+json"

_STATUS: Mapping[Refusal, int] = {
    Refusal.NOT_FOUND: 404,
    Refusal.ALREADY_EXISTS: 409,
    Refusal.VALIDATION: 422,
    Refusal.PRECONDITION_FAILED: 412,
    Refusal.CONFLICT: 409,
    Refusal.STALE_EPOCH: 409,
    Refusal.STALE_INCARNATION: 409,
    Refusal.STALE_VERSION: 409,
    Refusal.UNKNOWN_COMMAND: 503,
    Refusal.OLD_SCHEMA: 409,
}


class Refused(Exception):
    """Answer with this problem instead."""

    def __init__(
        self,
        status: int,
        name: str,
        detail: str,
        *,
        errors: tuple[FieldError, ...] = (),
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        # Bytes of a method or header that are no text came in as lone surrogates, which JSON cannot say.
        detail = detail.encode(errors="backslashreplace").decode()
        super().__init__(detail)
        self.status = status
        self.name = name
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})

    def status_line(self) -> bytes:
        return f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\n".encode()

    def header_lines(self) -> bytes:
        return "".join(f"{name}: {value}\r\n" for name, value in self.headers.items()).encode()

    def body(self, instance: str) -> bytes:
        """The problem document."""
        return msgspec.json.encode(self.document(instance))

    def document(self, instance: str) -> dict[str, object]:
        document: dict[str, object] = {
            "type": f"urn:kago:problem:{self.name}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
            "error": self.detail,
        }
        if self.errors:
            document["errors"] = [{"pointer": error.pointer, "detail": error.detail} for error in self.errors]
        return document | self.extra


def unavailable(name: str, detail: str, *, retry_after_s: int = 1) -> Refused:
    """503 with Retry-After."""
    return Refused(503, name, detail, headers={"retry-after": str(retry_after_s)}, extra={"retry_after": retry_after_s})


def not_found(kind: str, name: str) -> Refused:
    return Refused(404, "not-found", f"there is no {kind} {name!r}")


def of_rejection(rejection: Rejection) -> Refused:
    """The state machine's no, in HTTP."""
    if rejection.refusal is Refusal.UNKNOWN_COMMAND:
        return unavailable("unknown-command", rejection.detail)
    return Refused(_STATUS[rejection.refusal], rejection.refusal.value, rejection.detail, errors=rejection.errors)


def of_log_error(error: LogError) -> Refused:
    """What the log could not do, told apart by what is certain."""
    match error:
        case OutcomeUnknown():
            again = "Trying it again is safe (POST: with the same Idempotency-Key)"
            return unavailable("outcome-unknown", f"nobody can know whether this happened: {error}. {again}")
        case TooLarge():
            return Refused(413, "too-large", str(error))
        case QueueFull():
            return Refused(429, "rate-limited", str(error), headers={"retry-after": "1"}, extra={"retry_after": 1})
        case ChangeRefused():
            return Refused(404 if error.reason == "not-found" else 409, error.reason, str(error))
        case NoLeader() | Discarded():
            return unavailable("no-leader", f"{error}. The servers choose a leader as soon as a majority of them can reach each other")
        case LogHalted():
            return unavailable("halted", f"this server has stopped: {error}")
        case _:
            return unavailable("log", str(error))
