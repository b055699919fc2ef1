"""The replicated log's contract in one process, without disk, peers or loss: for tests of what is built on it."""

import asyncio

from raft.contract import Clock, LogStatus, MemberStatus, RaftConfig, Reply, Role, StateMachine
from raft.errors import LogHalted, NoLeader, TooLarge
from raft.replies import Replies

_ME = "memory:0"


class MemoryLog:
    """`contract.ReplicatedLog`: every proposal is applied at once, always leader."""

    def __init__(self, machine: StateMachine, clock: Clock, config: RaftConfig | None = None) -> None:
        self.on_message = None
        self.on_role = None
        self._machine = machine
        self._clock = clock
        self._config = config or RaftConfig(me=_ME, members=(_ME,))
        self._replies = Replies(self._config.max_replies)
        self._requests = 0
        self._closed = False
        self._changed = asyncio.Event()
