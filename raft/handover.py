"""Giving leadership away in good order: at a clean close, and whenever asked.

The leader takes nothing more into its log, waits until a peer holds all of it, and asks that peer to campaign at once; its
own deadline never has to pass, so writers wait for a round trip instead of an election timeout.
"""

from collections.abc import Callable

from raft.guard import Guard
from raft.pipeline import NEVER
from raft.proposals import Proposals

_AGAIN_S = 0.2


class HandOver:
    """At most one transfer under way."""

    def __init__(self, guard: Guard, proposals: Proposals) -> None:
        self._guard = guard
        self._proposals = proposals
        self._done: Callable[[bool], None] | None = None
        self._target = ""
        self._deadline = NEVER
        self._asked_at = NEVER

    @property
    def pending(self) -> bool:
        return self._done is not None

    def begin(self, deadline: float, done: Callable[[bool], None], *, target: str = "") -> None:
        """`done` is told whether somebody else (`target`, if it is named, is asked) took over before the deadline."""
        if not self._guard.engine.is_leader or self._done is not None:
            done(False)
            return
        self._done, self._deadline, self._asked_at, self._target = done, deadline, NEVER, target
        self._proposals.paused = True

    def step(self, now: float) -> None:
        if self._done is None:
            return
        engine, guard = self._guard.engine, self._guard
        if not engine.is_leader or now >= self._deadline:
            self.end(taken=not engine.is_leader)
            return
        wanted = {self._target} if self._target else guard.membership.other_voters
        ready = [
            peer
            for peer, state in guard.peers.items()
            if peer in wanted and state.connected and not state.learner and engine.match_index(peer) == engine.last_index
        ]
        if ready and now - self._asked_at >= _AGAIN_S:
            self._asked_at = now
            engine.hand_over(ready[0])

    def end(self, *, taken: bool) -> None:
        done, self._done = self._done, None
        self._proposals.paused = False
        if done is not None:
            done(taken)
