"""What members say to each other: typed, strictly decoded, and nothing else gets in.

PySyncObj sends pickled dictionaries, which hands whoever reaches the port the process. Here a frame is a msgpack array
whose first item names one of the structures below; an unknown tag, a surplus field, a negative or absurd number raises
`Malformed`, and the connection is closed.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from raft.contract import MAX_ENTRY_BYTES

MAX_FRAME_BYTES = 8 * 1024 * 1024
"""Largest frame accepted; checked before it is read."""
MAX_BATCH_BYTES = 512 * 1024
"""Proposals put into one log entry, as bytes; a single larger proposal (up to MAX_ENTRY_BYTES) rides alone."""
MAX_APPEND_BYTES = 2 * 1024 * 1024
"""Log entries put into one frame, as bytes; more than any single entry, so that none is ever cut into pieces (H11)."""
MAX_COMMAND_BYTES = MAX_BATCH_BYTES + MAX_ENTRY_BYTES + 64 * 1024
PROTOCOL_VERSION = 1
FIRST_NUMBERS = 1 << 48
"""Questions are numbered from a random number below this on: an answer to what this process asked in an earlier life, which may still
come, must not pass for the answer to a question of this one."""

Count = Annotated[int, Meta(ge=0, le=1 << 53)]
"""Terms, indexes, sequence numbers: nothing real comes near 2^53."""
Command = Annotated[bytes, Meta(min_length=1, max_length=MAX_COMMAND_BYTES)]
RequestId = Annotated[bytes, Meta(min_length=16, max_length=64)]
Payload = Annotated[bytes, Meta(max_length=MAX_ENTRY_BYTES)]
Member = Annotated[str, Meta(min_length=1, max_length=300)]
Proposed = tuple[RequestId, Payload, Count]
"""(request id, entry, index of the last proposal applied where it came from when it was first sent)."""
LogEntry = tuple[Command, Count, Count]
"""(command, index, term), as PySyncObj keeps it."""


class Malformed(ValueError):
    """A frame that no correct member sends."""


class AppendEntries(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag=1):
    term: Count
    seq: Count
    """Counts the leader's messages to this peer; the answer echoes it. 0: no answer is wanted, for it would say nothing new."""
    commit: Count
    prev_index: Count
    prev_term: Count
    entries: list[LogEntry]


class SnapshotChunk(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag=2):
    term: Count
    seq: Count
    snapshot_index: Count
    """Last log index the snapshot covers, so that an older one than what is here can be refused (H6)."""
    snapshot_term: Count
    """Term of that entry: who has the very entry has all before it, and must not trade its log for the snapshot."""
    offset: Count
    """Bytes of the snapshot sent before this chunk; a gap starts it over."""
    data: Annotated[bytes, Meta(max_length=MAX_APPEND_BYTES)]
    first: bool
    last: bool


class Ack(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag=3):
    """Answer to AppendEntries or SnapshotChunk, with the term it was given in (H5)."""

    term: Count
    seq: Count
    next_index: Count
    reset: bool
    success: bool
    learner: bool
    """From a replica that lost its disk: move the pipeline on, but count nothing."""


class RequestVote(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag=4):
    term: Count
    last_index: Count
    last_term: Count


class Vote(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag=5):
    term: Count


class AskPreVote(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag=6):
    round: Count
    term: Count
    """The term the asker would campaign in."""
    last_index: Count
    last_term: Count


class PreVote(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag=7):
    round: Count


class HigherTerm(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag=8):
    """You are behind: this term exists (H13)."""

    term: Count


class TimeoutNow(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag=9):
    """The leader hands over: campaign at once."""

    term: Count


class Submit(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag=10):
    """Proposals for the leader."""

    round: Count
    proposals: Annotated[list[Proposed], Meta(min_length=1)]


class Refused(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag=11):
    """None of the proposals of that round entered a log here."""

    round: Count


class AskRead(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag=12):
    round: Count


class ReadAt(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag=13):
    """Leadership was confirmed after the question came: reads are good from this log index on."""

    round: Count
    index: Count
    term: Count


class Told(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag=14):
    payload: Annotated[bytes, Meta(max_length=MAX_FRAME_BYTES // 2)]


class Reach(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag=15):
    """Members the sender has a direct connection to, so that others know what it can pass on."""

    peers: Annotated[list[Member], Meta(max_length=32)]


class Relayed(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag=16):
    """A frame between two members without a connection, carried by a third; one hop."""

    origin: Member
    target: Member
    frame: Annotated[bytes, Meta(max_length=MAX_FRAME_BYTES)]


class Heartbeat(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag=17):
    """The leader lives; says nothing about logs (while a snapshot is on its way)."""

    term: Count
    seq: Count


Outcome = Literal["done", "refused", "again"]


class AskChange(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag=18):
    """To the leader: change the members."""

    round: Count
    kind: Literal["add", "remove", "lead"]
    subject: Annotated[str, Meta(max_length=300)]


class Changed(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True, tag=19):
    round: Count
    outcome: Outcome
    """again: this one does not lead; ask who does."""
    reason: Annotated[str, Meta(max_length=100)]
    text: Annotated[str, Meta(max_length=4000)]
    """The id it was about, or why it was refused."""


Message = (
    AppendEntries
    | SnapshotChunk
    | Ack
    | RequestVote
    | Vote
    | AskPreVote
    | PreVote
    | HigherTerm
    | TimeoutNow
    | Submit
    | Refused
    | AskRead
    | ReadAt
    | Told
    | Reach
    | Relayed
    | Heartbeat
    | AskChange
    | Changed
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


def decode(frame: bytes) -> Message:
    """The message in `frame`; raises Malformed."""
    try:
        return _decoder.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error)) from error


class Batch(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One log entry: several proposals, so that one write to disk and one round trip carry them all."""

    version: Annotated[int, Meta(ge=1, le=1)]
    proposals: list[Proposed]


_batch_decoder = msgspec.msgpack.Decoder(Batch)


def encode_batch(proposals: list[Proposed]) -> bytes:
    return _encoder.encode(Batch(1, proposals))


def decode_batch(payload: bytes) -> Batch:
    """The proposals of one log entry; raises msgspec.MsgspecError, which the caller takes for a damaged log."""
    return _batch_decoder.decode(payload)


__all__ = [
    "FIRST_NUMBERS",
    "MAX_APPEND_BYTES",
    "MAX_BATCH_BYTES",
    "MAX_FRAME_BYTES",
    "PROTOCOL_VERSION",
    "Ack",
    "AppendEntries",
    "AskChange",
    "AskPreVote",
    "AskRead",
    "Batch",
    "Changed",
    "Heartbeat",
    "HigherTerm",
    "LogEntry",
    "Malformed",
    "Message",
    "Outcome",
    "PreVote",
    "Proposed",
    "Reach",
    "ReadAt",
    "Refused",
    "Relayed",
    "RequestVote",
    "SnapshotChunk",
    "Submit",
    "TimeoutNow",
    "Told",
    "Vote",
    "decode",
    "decode_batch",
    "encode",
    "encode_batch",
]
