"""What can go wrong when a client asks the control plane, as seen by the one who asks.

ClientError
├── Unreachable    no server of the list answered at all; says which was tried and why each failed
├── TimedOut       the time for the whole call ran out; whether a change was made is unknown
└── Problem        a server answered, with an error (RFC 9457)
"""

import msgspec

from kago.core.model.validation import FieldError

PROBLEM_PREFIX = "urn:kago:problem:"


class ClientError(Exception):
    """Base of everything `Client` raises."""


class Unreachable(ClientError):
    """No server answered."""

    def __init__(self, tried: tuple[tuple[str, str], ...]) -> None:
        self.tried = tried
        """(server URL, reason) of each attempt, in order."""
        super().__init__("no server answered: " + "; ".join(f"{server}: {reason}" for server, reason in tried))


class TimedOut(ClientError):
    """The deadline of the call passed while a server had the request."""

    def __init__(self, server: str, seconds: float) -> None:
        self.server = server
        super().__init__(f"{server} gave no answer within {seconds:.1f} s; whether the request was carried out is unknown")


class ProblemBody(msgspec.Struct, frozen=True, kw_only=True):
    """The part of an `application/problem+json` body that we read; anything beside it is ignored."""

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    detail: str = ""
    error: str = ""
    errors: tuple[FieldError, ...] = ()
    incarnation: int = 0
    node_status: str = ""


class Problem(ClientError):
    """A server answered with an error."""

    def __init__(self, body: ProblemBody, *, status: int, retry_after_s: float | None = None) -> None:
        self.status = status
        self.type = body.type.removeprefix(PROBLEM_PREFIX)
        """Short name: not-found, no-leader, outcome-unknown…"""
        self.title = body.title
        self.detail = body.detail or body.error or body.title or f"HTTP {status}"
        self.errors = body.errors
        self.retry_after_s = retry_after_s
        self.incarnation, self.node_status = body.incarnation, body.node_status
        """Of the node whose agent is told that another one has its place."""
        super().__init__(self.detail + "".join(f"\n  {e.pointer}: {e.detail}" for e in body.errors))

    @classmethod
    def decode(cls, status: int, content: bytes, *, retry_after: str | None = None) -> "Problem":
        """From an answer of any server or of a proxy before it: whatever is not a problem document becomes one."""
        try:
            body = msgspec.json.decode(content, type=ProblemBody)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            body = ProblemBody(detail=content[:200].decode(errors="replace").strip())
        return cls(body, status=status, retry_after_s=_seconds(retry_after))


def _seconds(retry_after: str | None) -> float | None:
    """`Retry-After` in seconds; its other form, a date, counts as absent."""
    try:
        return max(0.0, float(retry_after)) if retry_after is not None else None
    except ValueError:
        return None
