"""Asking around before an election: only who would win it raises the term.

PySyncObj campaigns whenever its deadline passes, so a member that cannot hear the leader, or comes back from a pause, drives
the term up and unseats a leader everybody else is content with (H13). Here the deadline only starts a question: "would you vote for me?".
A member says yes if it hears no leader either (nothing for `election_min_s`, or the leader's own end closed the connection)
and the asker's log is good enough. Votes themselves stay strictly Raft's.
"""

from raft.guard import Guard
from raft.messages import FIRST_NUMBERS, AskPreVote, HigherTerm, PreVote
from raft.pipeline import NEVER

_GONE_DELAY_S = 0.06
"""After the leader's process died its followers ask at a random moment within this: rarely both at once."""
_ROUND_S = 0.06
"""How long an own question counts as open when another member asks."""
_YIELD_S = 0.12
"""After a yes, leave the other this long to win."""
_PUNCTUAL_S = 0.05
"""Late by no more than this is not late."""
_MAX_PATIENCE_S = 2.0
_FORGIVEN_S = 10.0
"""After so long a member's own lateness counts half."""
_MAX_LENIENCE_S = 0.5
_RELIED_ON_S = 60.0
"""The same of its leader's: a busy one is late now and then, for as long as it is busy."""


class _Patience:
    """How much longer than usual a leader may be silent: twice as long as somebody was late, forgotten by halves."""

    def __init__(self, *, most_s: float, half_s: float) -> None:
        self._most_s, self._half_s = most_s, half_s
        self._learnt_s, self._learnt_at = 0.0, NEVER

    def learn(self, late_s: float, now: float) -> None:
        patience_s = min(2 * (late_s - _PUNCTUAL_S), self._most_s)
        if patience_s > self.at(now):
            self._learnt_s, self._learnt_at = patience_s, now

    def at(self, now: float) -> float:
        return float(self._learnt_s * 0.5 ** ((now - self._learnt_at) / self._half_s)) if self._learnt_s else 0.0


class PreVotes:
    """One replica's questions and answers."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._round = guard.random.randrange(FIRST_NUMBERS)
        self._granted: set[str] = set()
        self._started_at = NEVER
        self._ask_at = NEVER
        self._won = False
        self._own = _Patience(most_s=_MAX_PATIENCE_S, half_s=_FORGIVEN_S)
        self._leaders = _Patience(most_s=_MAX_LENIENCE_S, half_s=_RELIED_ON_S)
        self._woke_at = NEVER
        """When it was late itself: what was not heard until then may have been said."""
        guard.on_leader_again = self.leader_spoke_again

    def was_late(self, late_s: float, now: float) -> bool:
        """This step came so much too late. Whether that was a stall: it says nothing about the leader, which has another chance."""
        guard = self._guard
        if late_s > _PUNCTUAL_S:
            self._woke_at = now
        self._own.learn(late_s, now)
        stalled = late_s > 0.5 * guard.config.election_min_s
        if stalled and not guard.engine.is_leader:
            guard.engine.postpone_election()
        return stalled

    def leader_spoke_again(self, silent_since: float, now: float) -> None:
        """A leader that had to wait for a processor will have to wait again, and to elect one would only be more to do."""
        self._leaders.learn(now - max(silent_since, self._woke_at) - self._guard.config.heartbeat_s, now)

    def patience_s(self, now: float) -> float:
        """How much longer than usual a leader may be silent. One that is late itself, as all are on a busy machine, hears late as well."""
        return max(self._own.at(now), self._leaders.at(now))

    @property
    def due(self) -> float:
        """When the next question may be asked, once the election deadline has passed."""
        return NEVER if self._won else self._ask_at

    def closed(self, peer: str) -> None:
        """Its end closed the connection. If the leader did, its process is gone: do not wait for the election timeout."""
        guard = self._guard
        if peer != guard.engine.leader:
            return
        guard.leader_gone = True
        now = guard.clock.monotonic()
        self._ask_at = NEVER
        guard.engine.election_deadline = min(guard.engine.election_deadline, now + guard.random.random() * _GONE_DELAY_S)

    def may_campaign(self) -> bool:
        """The gate in front of becoming a candidate."""
        guard = self._guard
        if guard.learner or not guard.membership.is_voter:
            guard.engine.postpone_election()
            return False
        if not guard.membership.other_voters or guard.engine.handing_over:
            return True
        if not guard.on("prevote"):
            return any(state.connected for state in guard.peers.values())
        now = guard.clock.monotonic()
        if self._won:
            self._won, self._granted, self._ask_at = False, set(), NEVER
            if guard.leader_seen < self._started_at:
                return True
        if now >= self._ask_at:
            self._ask(now)
        return False

    def _ask(self, now: float) -> None:
        guard = self._guard
        self._round += 1
        self._granted = {guard.config.me}
        self._started_at = now
        base = 0.05 if guard.leader_gone else 0.5 * guard.config.election_min_s
        self._ask_at = now + base * (1 + 2 * guard.random.random())
        engine = guard.engine
        for peer, state in guard.peers.items():
            if state.connected and peer in guard.membership.counted:
                guard.emit(
                    peer, AskPreVote(round=self._round, term=engine.term + 1, last_index=engine.last_index, last_term=engine.last_term)
                )

    def on_ask(self, peer: str, message: AskPreVote) -> None:
        guard, engine = self._guard, self._guard.engine
        if message.term <= engine.term:
            guard.emit(peer, HigherTerm(term=engine.term))
            return
        theirs, ours = (message.last_term, message.last_index), (engine.last_term, engine.last_index)
        now = guard.clock.monotonic()
        if guard.learner or guard.leader_is_fresh(patience_s=self._leaders.at(now)) or theirs < ours:
            return
        if theirs == ours and now - self._started_at < _ROUND_S and guard.config.me < peer:
            return  # Both ask at once: the lower id goes first, so that the votes are not split.
        self._granted, self._won = set(), False
        self._ask_at = now + _YIELD_S * (1 + guard.random.random())
        engine.election_deadline = max(engine.election_deadline, self._ask_at)
        guard.emit(peer, PreVote(round=message.round))

    def on_granted(self, peer: str, message: PreVote) -> None:
        if message.round == self._round and self._granted:
            self._granted.add(peer)
            self._won = self._guard.membership.is_majority(self._granted)
