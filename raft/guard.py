"""PySyncObj's protocol, repaired on the wire: what goes out is annotated, what comes in is filtered before PySyncObj sees it.

Each repair names the hazard it meets (see README.md) and can be switched off by name in `RaftConfig.ablate`, so that the simulation
can prove that it would notice. A message that would overwrite a committed entry halts the replica: carrying on would hide
that the cluster's promise is already broken.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from raft.configuration import CONFIGURATION, decode_configuration
from raft.contract import Clock, RaftConfig
from raft.engine import NO_OP, REGULAR, Engine
from raft.errors import LogHalted
from raft.membership import Membership
from raft.messages import (
    Ack,
    AppendEntries,
    Heartbeat,
    HigherTerm,
    LogEntry,
    Malformed,
    Message,
    RequestVote,
    SnapshotChunk,
    TimeoutNow,
    Vote,
)
from raft.pipeline import NEVER, Pipeline, Transmission


class Guard:
    """Stands between PySyncObj and the wire of one replica."""

    def __init__(
        self, config: RaftConfig, membership: Membership, *, clock: Clock, random: Random, emit: Callable[[str, Message], None]
    ) -> None:
        self.config = config
        self.clock = clock
        self.random = random
        self.emit = emit
        self.membership = membership
        self.pipeline = Pipeline(config, membership, emit)
        self.peers = self.pipeline.peers
        self.learner = False
        """This replica lost its disk and is catching up: it votes for nobody and is not counted. One that is a learner by the
        configuration knows what it voted for and does vote when asked: it may have been promoted without having heard of it."""
        self.leader_seen = NEVER
        self._seen_in = -1
        """The term in which it was."""
        self.leader_gone = False
        """The leader's end of the connection was closed, as a killed process does: a reason to ask around, never to vote."""
        self.on_leader_again: Callable[[float, float], None]
        """Called where a leader is heard again in the same term, with when it was last heard and with the time."""
        self.leader_commit = 0
        """The leader's commit index when it was last heard."""
        self._voters: set[str] = set()
        self._voters_term = 0
        self._answering = 0
        """The `seq` of the message being heard; 0: its sender wants no answer."""
        self._acknowledged = False
        self._incoming = ("", 0, 0)
        self.engine: Engine

    def attach(self, engine: Engine, transmission: Transmission) -> None:
        self.engine = engine
        self.pipeline.attach(engine, transmission)

    def on(self, repair: str) -> bool:
        return repair not in self.config.ablate

    def leader_is_fresh(self, *, patience_s: float = 0.0) -> bool:
        if self.engine.is_leader:
            return True
        leader = self.peers.get(self.engine.leader or "")
        if leader is not None and not leader.connected:
            return False  # Neither its own connection nor one hop over another member leads there.
        return not self.leader_gone and self.clock.monotonic() - self.leader_seen < self.config.election_min_s + patience_s

    def outgoing(self, peer: str, message: dict[str, Any]) -> None:
        """PySyncObj's own messages, as ours."""
        kind = message["type"]
        if kind == "next_node_idx":
            self._acknowledge(peer, message["next_node_idx"], reset=message["reset"], success=message["success"])
        elif kind == "request_vote":
            self._ask_for_vote(
                peer, RequestVote(term=message["term"], last_index=message["last_log_index"], last_term=message["last_log_term"])
            )
        elif kind == "response_vote":
            self.emit(peer, Vote(term=message["term"]))
        elif kind == "timeout_now":
            self.emit(peer, TimeoutNow(term=message["term"]))
        else:
            raise LogHalted(f"PySyncObj sends an unexpected {kind}")

    def _ask_for_vote(self, peer: str, request: RequestVote) -> None:
        self.emit(peer, request)
        if peer == min(self.membership.other_voters):
            for learner in sorted(self.membership.counted - self.membership.voters):
                self.emit(learner, request)

    def _acknowledge(self, peer: str, next_index: int, *, reset: bool, success: bool) -> None:
        self._acknowledged = True
        if self._answering:
            answer = Ack(
                term=self.engine.term, seq=self._answering, next_index=next_index, reset=reset, success=success, learner=self.learner
            )
            self.emit(peer, answer)

    # -- incoming: followers ---------------------------------------------------------------------------------------

    def _stale(self, peer: str, term: int) -> bool:
        """Whether a leader's message is of a term that is over; it is told so, for PySyncObj would leave it in the dark (H13)."""
        if term >= self.engine.term:
            return False
        if self.on("nudge"):
            self.emit(peer, HigherTerm(term=self.engine.term))
        return True

    def _leader_spoke(self, term: int) -> None:
        now = self.clock.monotonic()
        if term == self._seen_in and not self.leader_gone:
            self.on_leader_again(self.leader_seen, now)
        self.leader_seen, self._seen_in = now, term
        self.leader_gone = False

    def _heartbeat(self, peer: str, term: int, commit: int) -> None:
        """What is left of a message whose log part was dealt with here."""
        self.engine.deliver(peer, {"type": "append_entries", "term": term, "commit_index": commit, "serialized": None})

    def _pass_append(
        self, peer: str, message: AppendEntries, prev_index: int, prev_term: int, entries: list[LogEntry], commit: int
    ) -> None:
        self.engine.deliver(
            peer,
            {
                "type": "append_entries",
                "term": message.term,
                "commit_index": commit,
                "entries": entries,
                "prevLogIdx": prev_index,
                "prevLogTerm": prev_term,
            },
        )

    def on_heartbeat(self, peer: str, message: Heartbeat) -> None:
        if self._stale(peer, message.term):
            return
        self._leader_spoke(message.term)
        self._answering = message.seq
        self._heartbeat(peer, message.term, self.engine.commit_index)
        self._acknowledge(peer, self.engine.last_index + 1, reset=False, success=False)

    def on_append(self, peer: str, message: AppendEntries) -> None:
        _check_entries(message)
        if self._stale(peer, message.term):
            return
        self._leader_spoke(message.term)
        self._answering = message.seq
        engine = self.engine
        self.leader_commit = message.commit
        prev, prev_term, entries = message.prev_index, message.prev_term, message.entries
        if not self.on("trunc"):
            self._pass_append(peer, message, prev, prev_term, entries, message.commit)
            return
        journal = engine.journal
        first, last = engine.first_index, engine.last_index
        base = max(engine.commit_index, engine.applied_index, first)
        if prev > last:
            self._pass_append(peer, message, prev, prev_term, entries, self._capped(message.commit, engine.commit_index))
            return
        if prev < first:
            # Everything up to `first` is committed here, so the leader has it as well: begin the comparison there.
            entries = [entry for entry in entries if entry[1] > first]
            prev, prev_term = first, engine.last_term if first == last else engine.term_at(first)
        if engine.term_at(prev) != prev_term:
            if prev <= base:
                raise LogHalted(f"committed entry {prev} differs from the one of leader {peer}")
            self._heartbeat(peer, message.term, engine.commit_index)
            # One round trip to a point both sides surely share, instead of one step back per round trip for ever (H7).
            self._acknowledge(peer, base + 1, reset=True, success=False)
            return
        matched, skip = prev, 0
        while skip < len(entries) and entries[skip][1] <= last and journal[entries[skip][1] - first][2] == entries[skip][2]:
            matched = entries[skip][1]
            skip += 1
        if skip < len(entries):
            entries = entries[skip:] if skip else entries
            if entries[0][1] <= base:
                raise LogHalted(f"leader {peer} would overwrite committed entry {entries[0][1]}")
            self._pass_append(peer, message, matched, engine.term_at(matched), entries, self._capped(message.commit, entries[-1][1]))
        elif matched == last or engine.last_term == message.term:
            self._pass_append(peer, message, last, engine.last_term, [], self._capped(message.commit, last))
        else:
            # A tail of an older term that nothing contradicts yet: Raft keeps it, PySyncObj would cut it off.
            self._heartbeat(peer, message.term, self._capped(message.commit, matched))
            self._acknowledge(peer, matched + 1, reset=False, success=True)

    def _capped(self, commit: int, proven: int) -> int:
        """The commit index may only reach what this very message compared with the leader's log (H1)."""
        return min(commit, proven) if self.on("commit") else commit

    def on_snapshot(self, peer: str, message: SnapshotChunk) -> None:
        if self._stale(peer, message.term):
            return
        self._leader_spoke(message.term)
        self._answering = message.seq
        engine = self.engine
        have = max(engine.commit_index, engine.applied_index)
        commit = engine.commit_index if self.on("commit") else max(message.snapshot_index, engine.commit_index)
        if self.on("snapold") and message.snapshot_index <= have:
            self._heartbeat(peer, message.term, engine.commit_index)
            self._acknowledge(peer, max(have, engine.first_index) + 1, reset=False, success=message.first or message.last)
            return
        if self.on("snaptail") and have < message.snapshot_index <= engine.last_index:
            if engine.term_at(message.snapshot_index) == message.snapshot_term:
                # All that the snapshot covers is in this log already. PySyncObj would install it and throw away what comes
                # behind it, which was acknowledged and may be committed.
                self._heartbeat(peer, message.term, message.snapshot_index)
                self._acknowledge(peer, message.snapshot_index + 1, reset=False, success=message.first or message.last)
                return
        expected = (peer, message.snapshot_index, message.offset)
        if not message.first and self._incoming != expected:
            self._heartbeat(peer, message.term, engine.commit_index)
            self._acknowledge(peer, engine.last_index + 1, reset=message.last, success=False)
            return
        self._incoming = (peer, message.snapshot_index, message.offset + len(message.data))
        self._acknowledged = False
        engine.deliver(
            peer,
            {
                "type": "append_entries",
                "term": message.term,
                "commit_index": commit,
                "serialized": (message.data, message.first, message.last),
            },
        )
        if not message.last:
            self._acknowledge(peer, engine.last_index + 1, reset=False, success=False)
        elif not self._acknowledged:
            self._acknowledge(peer, engine.last_index + 1, reset=True, success=False)  # It came damaged: once more, please.
        elif engine.applied_index < message.snapshot_index:
            # PySyncObj swallows the exception of a failed installation and answers "success" (H8).
            raise LogHalted(f"the snapshot of {peer} at log index {message.snapshot_index} could not be installed")

    # -- incoming: leaders and candidates --------------------------------------------------------------------------

    def on_request_vote(self, peer: str, message: RequestVote) -> None:
        if not self.learner:
            self.engine.deliver(
                peer,
                {"type": "request_vote", "term": message.term, "last_log_index": message.last_index, "last_log_term": message.last_term},
            )

    def on_vote(self, peer: str, message: Vote) -> None:
        if peer not in self.membership.counted:
            return
        if message.term != self._voters_term:
            self._voters_term, self._voters = message.term, set()
        if peer not in self._voters:
            self._voters.add(peer)
            self.engine.deliver(peer, {"type": "response_vote", "term": message.term})

    def on_timeout_now(self, peer: str, message: TimeoutNow) -> None:
        if not self.learner:
            self.engine.deliver(peer, {"type": "timeout_now", "term": message.term})

    def on_higher_term(self, peer: str, message: HigherTerm) -> None:
        """Adopt a later term through PySyncObj's own path: a vote request that can never be granted."""
        if message.term > self.engine.term:
            self.engine.deliver(peer, {"type": "request_vote", "term": message.term, "last_log_index": -1, "last_log_term": -1})


def _check_entries(message: AppendEntries) -> None:
    """A log that counts wrongly or carries an unknown kind of entry is no log."""
    index, term = message.prev_index, message.prev_term
    for command, entry_index, entry_term in message.entries:
        if entry_index != index + 1 or not term <= entry_term <= message.term or command[:1] not in (REGULAR, NO_OP, CONFIGURATION):
            raise Malformed(f"log entry {entry_index} of term {entry_term} after {index} of term {term}")
        if command[:1] == CONFIGURATION:
            try:
                decode_configuration(command[1:])
            except ValueError as error:
                raise Malformed(f"log entry {entry_index}: {error}") from error
        index, term = entry_index, entry_term
