"""From committed entries to the state machine, each proposal once; and the whole of that state as a snapshot.

The count of applied proposals and the table of replies belong to the replicated state: they are in each snapshot, before the
machine's own bytes.
"""

from collections.abc import Callable, Iterable, Iterator

from raft.contract import StateMachine
from raft.errors import LogError, NoLeader, OutcomeUnknown
from raft.messages import decode_batch
from raft.proposals import Proposals
from raft.reads import ReadDone
from raft.replies import Replies, encode


class Applier:
    """Drives the state machine of one replica."""

    def __init__(self, machine: StateMachine, replies: Replies, proposals: Proposals, *, dedupe: bool) -> None:
        self._machine = machine
        self._replies = replies
        self._proposals = proposals
        self._dedupe = dedupe
        self._waiters: list[tuple[int, float, ReadDone]] = []

    def apply(self, payload: bytes) -> None:
        """Apply the proposals of one committed entry."""
        replies, dedupe = self._replies, self._dedupe
        find, record, execute, answered = replies.find, replies.record, self._machine.apply, self._proposals.applied
        for request_id, entry, seen in decode_batch(payload).proposals:
            reply = find(request_id) if dedupe else None
            if reply is None:
                if dedupe and seen < replies.forgotten:
                    answered(request_id, OutcomeUnknown("it came so late that nobody can tell whether it was applied before"))
                    continue
                replies.applied = index = replies.applied + 1
                reply = record(request_id, execute(index, entry))
            answered(request_id, reply)

    # -- those who wait for an index -------------------------------------------------------------------------------

    def wait(self, index: int, deadline: float, done: ReadDone) -> None:
        """`done` is told by `flush` once proposal `index` is applied here, or that it was not by the deadline."""
        self._waiters.append((index, deadline, done))

    @property
    def pending(self) -> bool:
        return bool(self._waiters)

    def flush(self, now: float) -> None:
        if not self._waiters:
            return
        applied, left = self._replies.applied, []
        for index, deadline, done in self._waiters:
            if applied >= index:
                done(applied)
            elif deadline <= now:
                done(NoLeader(f"this server has applied {applied}, not {index}, in time"))
            else:
                left.append((index, deadline, done))
        self._waiters = left

    def fail_all(self, error: LogError) -> None:
        waiters, self._waiters = self._waiters, []
        for _, _, done in waiters:
            done(error)

    # -- snapshots -------------------------------------------------------------------------------------------------

    def capture(self) -> Callable[[], Iterator[bytes]]:
        """The state as it is now; the returned function encodes it, on another thread."""
        replies, state = self._replies.capture(), self._machine.snapshot()

        def chunks() -> Iterator[bytes]:
            yield from encode(replies)
            yield from state()

        return chunks

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the state by a snapshot's."""
        rest = iter(chunks)
        self._replies.restore(rest)
        self._machine.restore(self._replies.applied, rest)
        self._proposals.restored()
