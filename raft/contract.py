"""What a replicated log promises, and the four seams through which it touches the world.

Everything that is not decided by the log itself comes in from outside: the state machine it drives, the disk
below it, the wire beside it, the clock and the dice. Production and simulation differ only in what they put there.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from random import Random
from typing import Protocol

from msgspec import Struct

from raft.configuration import Seat

MAX_ENTRY_BYTES = 512 * 1024
"""Largest proposal taken. PySyncObj must never chunk an entry (RAFT hazard H11), so this stays far below its batch size."""


class Role(StrEnum):
    LEADER = "leader"
    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEARNER = "learner"
    """New, or back with an empty disk: catching up, and not counted."""


class Reply(Struct, gc=False, frozen=True):
    """The state machine's answer to one proposal."""

    index: int
    """Position of the proposal in the order of all applied proposals (1, 2, …); the same on every replica."""
    result: bytes


class MemberStatus(Struct, frozen=True, kw_only=True):
    id: str
    """For ever; the address it was first known by."""
    address: str = ""
    """`host:port` where it is reached now."""
    voter: bool = True
    """Whether the configuration counts it."""
    role: str
    """leader, follower, learner or down."""
    raft_index: int = 0
    """Last raft log index known to be on its disk (0: unknown)."""
    contact_age_s: float | None = None
    """Seconds since this replica last heard it; None where it never did."""
    answer_age_s: float | None = None
    """Seconds since it last answered what this replica sent it as its leader; None where it never did."""


class LogStatus(Struct, frozen=True, kw_only=True):
    me: str
    """Own id."""
    role: Role
    leader: str | None
    term: int
    applied: int
    """Index (see `Reply.index`) of the last applied proposal."""
    raft_commit_index: int
    raft_applied_index: int
    raft_last_index: int
    leader_contact_age_s: float | None
    """Seconds since the leader was last heard; 0 on the leader, None where there is none."""
    heard_by_leader: bool
    """Whether the leader gets what this replica sends, as far as it knows; True on the leader, False where there is none."""
    caught_up: bool
    """Applied everything it knew to be committed when it last heard the leader."""
    members: tuple[MemberStatus, ...]
    cluster: str = ""
    """The cluster's mark, which a server that joins is told."""


class StateMachine(Protocol):
    """Deterministic: the same entries in the same order give the same replies and the same snapshot bytes."""

    def apply(self, index: int, entry: bytes) -> bytes:
        """Apply one proposal. Must not raise: an exception is a bug and halts the replica."""

    def snapshot(self) -> Callable[[], Iterator[bytes]]:
        """Capture the state now, cheaply; the returned function encodes it, on another thread, as chunks."""

    def restore(self, index: int, chunks: Iterable[bytes]) -> None:
        """Replace the whole state by a snapshot taken after `index` was applied."""


class ChangeKind(StrEnum):
    """What may be asked of the members."""

    ADD = "add"
    REMOVE = "remove"
    LEAD = "lead"


class ReplicatedLog(Protocol):
    """A log of byte entries that a majority holds on disk before anybody is told."""

    async def propose(self, entry: bytes, *, request_id: bytes | None = None, timeout_s: float = 5.0) -> Reply:
        """Append, commit and apply `entry`; return once it is applied HERE.

        `request_id` (16 to 64 bytes; made up when None) makes a retry get the first reply, also on another replica and
        after a failover, as long as the bounded table of replies reaches back.
        Raises NotDone (certain), OutcomeUnknown, LogHalted; ends by the deadline in every case.
        """

    async def barrier(self, *, timeout_s: float = 5.0) -> int:
        """ReadIndex: return once everything acknowledged anywhere before the call is applied here; the applied index.

        Raises NoLeader when leadership cannot be confirmed in time, LogHalted.
        """

    async def wait_applied(self, index: int, *, timeout_s: float = 5.0) -> int:
        """Return once proposal `index` is applied here; the applied index. Raises NoLeader at the deadline, LogHalted."""

    def status(self) -> LogStatus:
        """What this replica knows now; never blocks, works without a quorum."""

    def tell_leader(self, payload: bytes) -> bool:
        """Best-effort message to the current leader's `on_message`, outside the log; False if it was not sent.

        On the leader it is delivered locally."""

    on_message: Callable[[str, bytes], None] | None
    """Called with (sender id, payload) for what other members told us."""
    on_role: Callable[[LogStatus], None] | None
    """Called whenever role, leader or term changed."""

    async def transfer_leadership(self, *, timeout_s: float = 2.0) -> bool:
        """Hand leadership to the most up-to-date follower; False if we were not leader or nobody took it."""

    def require_level(self, level: int) -> None:
        """From now on members of a lower `RaftConfig.level` are turned away, and stop with a text: the log would lead them astray."""

    async def change(self, kind: ChangeKind, subject: str = "", *, timeout_s: float = 10.0) -> str:
        """Change the members through whoever leads, one change at a time; the id it was about.

        ADD takes an address: its member is a learner until it has caught up, and votes then. REMOVE takes an id; LEAD an id, or
        nothing for whoever is best placed. Each may be asked again safely. Raises ChangeRefused with the reason, NoLeader, OutcomeUnknown
        where it may still come to pass, LogHalted.
        """

    async def close(self) -> None:
        """Hand over leadership if held, sync, close files and sockets. Idempotent."""


# -- seams -------------------------------------------------------------------------------------------------------


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds, never going back."""


class File(Protocol):
    """An append-only file."""

    def append(self, data: bytes) -> None: ...
    def sync(self) -> None:
        """fdatasync. An error is final: the pages may be gone, the replica must halt."""

    def size(self) -> int: ...
    def close(self) -> None: ...


class Disk(Protocol):
    """One data directory. Paths are plain file names in it. Every operation may raise OSError (full, failing)."""

    def list(self) -> list[str]:
        """File names, sorted."""

    def read(self, name: str) -> bytes:
        """Whole contents, and of a file that was appended to after a sync perhaps zeros behind them; FileNotFoundError."""

    def open_append(self, name: str, *, truncate_to: int | None = None) -> File:
        """Open for appending, made if missing; cut to `truncate_to` bytes (and synced) first if given, the only way to lose such zeros."""

    def replace(self, source: str, target: str) -> None:
        """Rename over `target`, then sync the directory. `source` must have been synced."""

    def remove(self, name: str) -> None:
        """Delete if it exists."""

    def sync_directory(self) -> None: ...


class WireEvents(Protocol):
    """What the wire tells the replica. Always called from the replica's own thread."""

    @property
    def id(self) -> str:
        """Own id."""

    def connected(self, peer: str) -> None: ...
    def disconnected(self, peer: str, *, by_peer: bool) -> None:
        """`by_peer`: the peer's end closed or reset it, as a killed process does; False for a timeout or our own close."""

    def received(self, peer: str, frame: bytes) -> None: ...
    def handshake_refused(self, peer: str, reason: str) -> None:
        """The peer will not talk to us; `reason` is for the operator."""

    def introduce(self, peer: str) -> bytes:
        """Our hello to `peer`: an opaque frame carrying cluster, identity, incarnation and protocol version."""

    def welcome(self, hello: bytes, certified: str | None = None) -> str:
        """Check a peer's hello; returns its id or raises ValueError with the reason to send back.

        `certified`: the id in the certificate that came with it, where the wire is encrypted."""


class Wire(Protocol):
    """Authenticated, ordered, length-framed byte frames between members; lossy only by disconnecting."""

    def start(self, events: WireEvents) -> None: ...
    def set_peers(self, addresses: Mapping[str, str]) -> None:
        """Keep connections to these members (id -> `host:port`) and to no others; may be called before `start`, and at any time."""

    def send(self, peer: str, frame: bytes) -> bool:
        """Queue a frame; False if not connected or the peer's queue is full (bounded)."""

    def is_connected(self, peer: str) -> bool: ...
    def drop(self, peer: str) -> None:
        """Close the connection to `peer` (it sent rubbish); it is dialled again later."""

    def close(self) -> None: ...


class Invitation(Struct, frozen=True, kw_only=True):
    """What a server that joins was told by one of the cluster."""

    cluster: str
    id: str
    seats: tuple[Seat, ...]


class RaftConfig(Struct, frozen=True, kw_only=True):
    """Settings of one replica; times in seconds."""

    me: str
    """Own Raft address `host:port`; in a used data directory the member's new one."""
    members: tuple[str, ...]
    """The addresses a new cluster begins with, own included; the same set on each. What a used data directory says goes before."""
    guessed: bool = False
    """Nobody said `me` and `members`: where the data directory remembers others, those hold."""
    invitation: Invitation | None = None
    """For a new member of a running cluster, instead of `members`."""
    level: int = 1
    """What this program understands of what is proposed: a number that grows with its releases, told to peers, see `require_level`."""
    rejoin: bool = False
    """This member's data directory was lost on purpose or by accident: come back as a learner until caught up."""
    election_min_s: float = 0.3
    election_max_s: float = 0.42
    heartbeat_s: float = 0.08
    leader_fallback_s: float = 1.2
    """A leader that heard no majority for this long steps down."""
    max_entry_bytes: int = MAX_ENTRY_BYTES
    max_waiting: int = 20_000
    """Proposals waiting on this replica before QueueFull."""
    max_replies: int = 20_000
    """Replies kept for retries, in replicated state."""
    snapshot_every_bytes: int = 64 * 1024 * 1024
    """Journal growth that starts a snapshot."""
    snapshot_every_entries: int = 50_000
    apply_s: float = 0.02
    """Committed entries are applied for so long at a time; then others have their turn, and the leader its next sign of life."""
    ablate: frozenset[str] = frozenset()
    """Repairs switched off, for the simulation's own test only."""


__all__ = [
    "MAX_ENTRY_BYTES",
    "ChangeKind",
    "Clock",
    "Disk",
    "File",
    "Invitation",
    "LogStatus",
    "MemberStatus",
    "RaftConfig",
    "Random",
    "ReplicatedLog",
    "Reply",
    "Role",
    "Seat",
    "StateMachine",
    "Wire",
    "WireEvents",
]
