"""The replicated log's contract in one process, without disk, peers or loss: for tests of what is built on it."""

import asyncio
from collections.abc import Callable

from raft.contract import ChangeKind, LogStatus, MemberStatus, RaftConfig, Reply, Role, StateMachine
from raft.errors import ChangeRefused, LogHalted, NoLeader, TooLarge
from raft.replies import Replies

_ME = "memory:0"


class MemoryLog:
    """`contract.ReplicatedLog` that applies each proposal at once and always leads."""

    def __init__(self, machine: StateMachine, config: RaftConfig | None = None) -> None:
        self.on_message: Callable[[str, bytes], None] | None = None
        self.on_role: Callable[[LogStatus], None] | None = None
        self._machine = machine
        self._config = config or RaftConfig(me=_ME, members=(_ME,))
        self._replies = Replies(self._config.max_replies)
        self._requests = 0
        self._closed = False
        self._applied = asyncio.Event()

    async def propose(self, entry: bytes, *, request_id: bytes | None = None, timeout_s: float = 5.0) -> Reply:
        self._check_open()
        if len(entry) > self._config.max_entry_bytes:
            raise TooLarge(f"entry of {len(entry)} bytes; the limit is {self._config.max_entry_bytes}")
        await asyncio.sleep(0)
        self._requests += 1
        request_id = request_id or self._requests.to_bytes(16, "big")
        reply = self._replies.find(request_id)
        if reply is None:
            self._replies.applied += 1
            reply = self._replies.record(request_id, self._machine.apply(self._replies.applied, entry))
            self._applied.set()
            self._applied = asyncio.Event()
        return reply

    async def barrier(self, *, timeout_s: float = 5.0) -> int:
        self._check_open()
        await asyncio.sleep(0)
        return self._replies.applied

    async def wait_applied(self, index: int, *, timeout_s: float = 5.0) -> int:
        self._check_open()
        try:
            async with asyncio.timeout(timeout_s):
                while self._replies.applied < index:
                    await self._applied.wait()
                    self._check_open()
        except TimeoutError:
            raise NoLeader(f"applied {self._replies.applied}, not {index}, in time") from None
        return self._replies.applied

    def status(self) -> LogStatus:
        applied, me = self._replies.applied, self._config.me
        return LogStatus(
            me=me,
            role=Role.LEADER,
            leader=me,
            term=1,
            applied=applied,
            raft_commit_index=applied,
            raft_applied_index=applied,
            raft_last_index=applied,
            leader_contact_age_s=0.0,
            heard_by_leader=True,
            caught_up=True,
            members=(MemberStatus(id=me, address=me, role="leader", raft_index=applied, contact_age_s=0.0, answer_age_s=0.0),),
        )

    def tell_leader(self, payload: bytes) -> bool:
        if self._closed:
            return False
        if self.on_message is not None:
            self.on_message(self._config.me, payload)
        return True

    async def transfer_leadership(self, *, timeout_s: float = 2.0) -> bool:
        return False

    def require_level(self, level: int) -> None:
        """There are no others."""

    async def change(self, kind: ChangeKind, subject: str = "", *, timeout_s: float = 10.0) -> str:
        self._check_open()
        raise ChangeRefused("conflict", "this log is in the memory of one process: it has no other members")

    async def close(self) -> None:
        self._closed = True
        self._applied.set()

    def _check_open(self) -> None:
        if self._closed:
            raise LogHalted("closed")
