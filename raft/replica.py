"""The replicated log as its callers see it: futures around `member.Member`'s steps.

A call queues something and is answered from a step's `flush`; it costs no thread and no poll. Everything here runs on the event loop that
drives the steps.
"""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, TypeVar

from raft.changes import ChangeDone
from raft.contract import ChangeKind, Clock, Disk, RaftConfig, Reply, StateMachine, Wire
from raft.errors import LogError, LogHalted
from raft.member import Member
from raft.messages import Told
from raft.proposals import Done
from raft.reads import ReadDone

_Outcome = TypeVar("_Outcome")


class Replica(Member):
    """`contract.ReplicatedLog`."""

    def __init__(
        self,
        config: RaftConfig,
        machine: StateMachine,
        *,
        disk: Disk,
        wire: Wire,
        clock: Clock,
        random: Random,
        executor: Any = None,
        on_fatal: Callable[[LogError], None] | None = None,
    ) -> None:
        super().__init__(config, machine, disk=disk, wire=wire, clock=clock, random=random, executor=executor, on_fatal=on_fatal)
        self._ids = random.randbytes(8)
        self._requests = 0
        self._closed = False
        self.quiesce: Callable[[], Awaitable[None]] | None = None
        """Stops whoever drives the steps, before the files are closed."""
        self.on_closed: Callable[[], object] = lambda: None

    # -- callers ---------------------------------------------------------------------------------------------------

    def submit(self, entry: bytes, request_id: bytes | None, deadline: float, done: Done) -> None:
        """The core of `propose`: `done` is called exactly once, with the reply or with what is known at `deadline`."""
        if self._halted is not None:
            done(self._why_halted())
            return
        if request_id is None:
            self._requests += 1
            request_id = self._ids + self._requests.to_bytes(8, "big")
        elif not 16 <= len(request_id) <= 64:
            raise ValueError(f"a request id has 16 to 64 bytes, not {len(request_id)}")
        self.proposals.submit(entry, request_id, deadline, done)
        self.on_wake()

    def read(self, deadline: float, done: ReadDone) -> None:
        """The core of `barrier`."""
        if self._halted is not None:
            done(self._why_halted())
            return
        self.reads.add(deadline, done)
        self.on_wake()

    async def propose(self, entry: bytes, *, request_id: bytes | None = None, timeout_s: float = 5.0) -> Reply:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.submit(entry, request_id, self._clock.monotonic() + timeout_s, _settle(future))
        return await future

    async def barrier(self, *, timeout_s: float = 5.0) -> int:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.read(self._clock.monotonic() + timeout_s, _settle(future))
        return await future

    async def wait_applied(self, index: int, *, timeout_s: float = 5.0) -> int:
        if self._halted is not None:
            raise self._why_halted()
        if self.replies.applied >= index:
            return self.replies.applied
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.applier.wait(index, self._clock.monotonic() + timeout_s, _settle(future))
        self.on_wake()
        return await future

    def _why_halted(self) -> LogHalted:
        return LogHalted(str(self._halted))

    def tell_leader(self, payload: bytes) -> bool:
        leader = self.engine.leader
        if self._halted is not None or leader is None:
            return False
        if leader == self.config.me:
            self._told.append((leader, payload))
        elif self.router.is_heard(leader):
            self.outbox.emit(leader, Told(payload=payload))
        else:
            return False
        self.on_wake()
        return True

    async def transfer_leadership(self, *, timeout_s: float = 2.0) -> bool:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def done(taken: bool) -> None:
            if not future.done():
                future.set_result(taken)

        if self._halted is not None:
            return False
        self.hand_over.begin(self._clock.monotonic() + timeout_s, done)
        self.on_wake()
        return await future

    def ask_change(self, kind: ChangeKind, subject: str, deadline: float, done: ChangeDone) -> None:
        """The core of `change`."""
        if self._halted is not None:
            done(self._why_halted())
            return
        self.changes.ask(kind, subject, deadline, done)
        self.on_wake()

    def require_level(self, level: int) -> None:
        self.identity.required_level = level

    async def change(self, kind: ChangeKind, subject: str = "", *, timeout_s: float = 10.0) -> str:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.ask_change(kind, subject, self._clock.monotonic() + timeout_s, _settle(future))
        return await future

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._halted is None and self.engine.is_leader and any(state.connected for state in self.guard.peers.values()):
            await self.transfer_leadership(timeout_s=1.0)
        if self.quiesce is not None:
            await self.quiesce()
        self.shut()
        self.on_closed()

    def shut(self) -> None:
        """Close without handing over."""
        self.halt(LogHalted("closed"))
        self.journal.close()


def _settle(future: "asyncio.Future[_Outcome]") -> Callable[[_Outcome | LogError], None]:
    """What is told to the log's callback, told to `future`, unless its caller has gone."""

    def done(outcome: "_Outcome | LogError") -> None:  # a string: it is evaluated at each call otherwise
        if future.done():
            return
        if isinstance(outcome, LogError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    return done
