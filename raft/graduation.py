"""How a member that came back with an empty disk begins to count again."""

import logging
from collections.abc import Callable

from raft.errors import LogError, LogHalted
from raft.guard import Guard
from raft.identity import Identity
from raft.reads import Reads

_logger = logging.getLogger(__name__)
_ASK_S = 1.0


class Graduation:
    """It asks for a confirmed read; once it has applied that far it holds everything it may ever have acknowledged."""

    def __init__(
        self, guard: Guard, reads: Reads, identity: Identity, *, sync: Callable[[], bool], halt: Callable[[LogError], None]
    ) -> None:
        self._guard = guard
        self._reads = reads
        self._identity = identity
        self._sync = sync
        """Makes the journal durable; False where that failed."""
        self._halt = halt
        self._asking = False

    def step(self, now: float) -> None:
        guard = self._guard
        if not guard.learner or self._asking or guard.engine.leader is None or not guard.leader_is_fresh():
            return
        self._asking = True
        self._reads.add(now + _ASK_S, self._graduate)

    def _graduate(self, outcome: int | LogError) -> None:
        self._asking = False
        guard = self._guard
        leader = guard.engine.leader
        if not isinstance(outcome, int) or leader is None or self._reads.confirmed_term != guard.engine.term:
            return
        # Its lost disk may have voted in this term; the only leader it can have voted for and that leads is this one.
        guard.engine.record_vote(leader)
        if not self._sync():
            return
        try:
            self._identity.graduate()
        except OSError as error:
            self._halt(LogHalted(f"the identity file cannot be written: {error}"))
            return
        guard.learner = False
        _logger.info("server %s has caught up and counts again", guard.membership.me)
