"""A replicated log of bytes: what goes in is on a majority's disks before anybody is told. See README.md."""

from raft.contract import (
    Clock,
    LogStatus,
    MemberStatus,
    RaftConfig,
    ReplicatedLog,
    Reply,
    Role,
    StateMachine,
)
from raft.driver import open_replica
from raft.errors import (
    Corrupt,
    Discarded,
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
    "Clock",
    "Corrupt",
    "Discarded",
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
    "StartRefused",
    "StateMachine",
    "TooLarge",
    "open_replica",
]
