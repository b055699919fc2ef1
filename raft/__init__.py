"""A replicated log of bytes: what goes in is on a majority's disks before anybody is told. See README.md."""

from raft.contract import (
    ChangeKind,
    Clock,
    Invitation,
    LogStatus,
    MemberStatus,
    RaftConfig,
    ReplicatedLog,
    Reply,
    Role,
    Seat,
    StateMachine,
)
from raft.driver import open_replica
from raft.errors import (
    ChangeRefused,
    Corrupt,
    Discarded,
    Expelled,
    LogError,
    LogHalted,
    NoLeader,
    NotDone,
    OutcomeUnknown,
    QueueFull,
    StartRefused,
    TooLarge,
)
from raft.memory import MemoryLog

__all__ = [
    "ChangeKind",
    "ChangeRefused",
    "Clock",
    "Corrupt",
    "Discarded",
    "Expelled",
    "Invitation",
    "LogError",
    "LogHalted",
    "LogStatus",
    "MemberStatus",
    "MemoryLog",
    "NoLeader",
    "NotDone",
    "OutcomeUnknown",
    "QueueFull",
    "RaftConfig",
    "ReplicatedLog",
    "Reply",
    "Role",
    "Seat",
    "StartRefused",
    "StateMachine",
    "TooLarge",
    "open_replica",
]
