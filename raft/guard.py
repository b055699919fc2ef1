"""PySyncObj's protocol, repaired on the wire: what goes out is annotated, what comes in is filtered before PySyncObj sees it.

Each repair names the hazard it meets (see README.md) and can be switched off by name in `RaftConfig.ablate`, so that the simulation
can prove that it would notice. A message that would overwrite a committed entry halts the replica: carrying on would hide
that the cluster's promise is already broken.
"""

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from raft.contract import Clock, RaftConfig
from raft.engine import NO_OP, REGULAR, Engine
from raft.errors import LogHalted
from raft.messages import (MAX_APPEND_BYTES, Ack, AppendEntries, Heartbeat, HigherTerm, LogEntry, Malformed, Message, RequestVote,
                           SnapshotChunk, TimeoutNow, Vote)

WINDOW_BYTES = 4 * 1024 * 1024
"""Bytes on their way to one peer before the next batch waits for an answer; a slow peer holds no memory beyond it."""
NEVER = float("-inf")


class Transmission(Protocol):
    """What the guard needs of the snapshot serializer."""

    def getTransmissionData(self, transmissionID: Any) -> Any: ...
    def cancelTransmisstion(self, transmissionID: Any) -> None: ...
    def transmission_index(self, transmissionID: Any) -> int: ...


class Peer:
    """What the leader remembers of one peer's conversation."""

    __slots__ = ("acked_seq", "blocked", "connected", "heard_at", "in_flight", "in_flight_bytes", "learner", "out_seq", "rewind_seq",
                 "snapshot_offset")

    def __init__(self) -> None:
        self.out_seq = 0
        self.rewind_seq = 0
        """Answers to messages up to this one know nothing of the last rewind (H6)."""
        self.acked_seq = 0
        self.heard_at = NEVER
        self.connected = False
        self.learner = False
        self.blocked = False
        """The window was full when there was more to send."""
        self.snapshot_offset = 0
        self.in_flight: deque[tuple[int, int]] = deque()
        self.in_flight_bytes = 0

    def sent(self, size: int) -> None:
        self.in_flight.append((self.out_seq, size))
        self.in_flight_bytes += size

    def answered(self, seq: int) -> None:
        while self.in_flight and self.in_flight[0][0] <= seq:
            self.in_flight_bytes -= self.in_flight.popleft()[1]

    def forget_flight(self) -> None:
        self.in_flight.clear()
        self.in_flight_bytes = 0


class Guard:
    """Stands between PySyncObj and the wire of one replica."""

    def __init__(self, config: RaftConfig, *, clock: Clock, random: Random, emit: Callable[[str, Message], None]) -> None:
        self.config = config
        self.clock = clock
        self.random = random
        self.emit = emit
        self.peers = {member: Peer() for member in sorted(config.members) if member != config.me}
        self.learner = False
        """This replica lost its disk and is catching up: it votes for nobody and is not counted."""
        self.leader_seen = NEVER
        self.leader_gone = False
        """The leader's end of the connection was closed, as a killed process does: a reason to ask around, never to vote."""
        self.leader_commit = 0
        """The leader's commit index when it was last heard."""
        self._voters: set[str] = set()
        self._voters_term = 0
        self._answering = 0
        self._incoming = ("", 0, 0)
        self._sent = (0, 0, 0)
        self._unblocked: set[str] = set()
        self.engine: Engine
        self.transmission: Transmission

    def attach(self, engine: Engine, transmission: Transmission) -> None:
        self.engine = engine
        self.transmission = transmission

    def on(self, repair: str) -> bool:
        return repair not in self.config.ablate

    # -- the wire's news -------------------------------------------------------------------------------------------

    def connected(self, peer: str) -> None:
        state = self.peers[peer]
        state.connected = True
        state.forget_flight()
        self.transmission.cancelTransmisstion(peer)
        self.engine.set_connected(peer, True)

    def disconnected(self, peer: str) -> None:
        state = self.peers[peer]
        state.connected = False
        state.forget_flight()
        self.transmission.cancelTransmisstion(peer)
        self.engine.set_connected(peer, False)

    def forget(self, peer: str) -> None:
        """The peer came back without its disk."""
        self.peers[peer].acked_seq = 0
        self.engine.forget_match(peer)

    def leader_is_fresh(self) -> bool:
        if self.engine.is_leader:
            return True
        return not self.leader_gone and self.clock.monotonic() - self.leader_seen < self.config.election_min_s

    # -- outgoing: the log -----------------------------------------------------------------------------------------

    def has_news(self) -> bool:
        """The log grew, the commit index moved, or the leader is new: worth a message at once instead of at the next heartbeat."""
        return (self.engine.last_index, self.engine.commit_index, self.engine.term) != self._sent

    def send_log(self) -> None:
        self._sent = (self.engine.last_index, self.engine.commit_index, self.engine.term)
        for peer, state in self.peers.items():
            if state.connected:
                self._send_to(peer, state)
            else:
                self.transmission.cancelTransmisstion(peer)

    def send_unblocked(self) -> None:
        """Go on with the peers whose window opened."""
        unblocked, self._unblocked = self._unblocked, set()
        if self.engine.is_leader:
            for peer in sorted(unblocked):
                if self.peers[peer].connected:
                    self._send_to(peer, self.peers[peer])

    def _send_to(self, peer: str, state: Peer) -> None:
        engine = self.engine
        first, last = engine.first_index, engine.last_index
        index = min(engine.next_index(peer), last + 1)
        if index <= first:
            self._send_snapshot(peer, state)
            return
        if state.snapshot_offset:
            state.snapshot_offset = 0
            self.transmission.cancelTransmisstion(peer)
        silent = True
        while silent or index <= last:
            entries: list[LogEntry] = []
            if index <= last:
                if state.in_flight_bytes < WINDOW_BYTES:
                    entries = engine.entries_from(index, MAX_APPEND_BYTES)
                else:
                    state.blocked = True
                    if not silent:
                        break
            state.out_seq += 1
            self.emit(peer, AppendEntries(term=engine.term, seq=state.out_seq, commit=engine.commit_index, prev_index=index - 1,
                                          prev_term=engine.term_at(index - 1), entries=entries))
            silent = False
            if not entries:
                break
            state.sent(sum(len(entry[0]) for entry in entries))
            index = entries[-1][1] + 1
        engine.set_next_index(peer, index)

    def _send_snapshot(self, peer: str, state: Peer) -> None:
        silent = True
        while True:
            if state.in_flight_bytes >= WINDOW_BYTES:
                state.blocked = True
                break
            chunk = self.transmission.getTransmissionData(peer)
            if not chunk:
                break
            data, first, last = chunk
            state.out_seq += 1
            index = self.transmission.transmission_index(peer)
            if first:
                state.snapshot_offset = 0
            self.emit(peer, SnapshotChunk(term=self.engine.term, seq=state.out_seq, snapshot_index=index, offset=state.snapshot_offset,
                                          data=data, first=first, last=last))
            state.sent(len(data) + 64)
            state.snapshot_offset += len(data)
            silent = False
            if last:
                state.snapshot_offset = 0
                self.engine.set_next_index(peer, index + 1)
                break
        if silent:
            state.out_seq += 1
            self.emit(peer, Heartbeat(term=self.engine.term, seq=state.out_seq))

    def outgoing(self, peer: str, message: dict[str, Any]) -> None:
        """PySyncObj's own messages, as ours."""
        kind = message["type"]
        if kind == "next_node_idx":
            self._acknowledge(peer, message["next_node_idx"], reset=message["reset"], success=message["success"])
        elif kind == "request_vote":
            self.emit(peer, RequestVote(term=message["term"], last_index=message["last_log_index"], last_term=message["last_log_term"]))
        elif kind == "response_vote":
            self.emit(peer, Vote(term=message["term"]))
        elif kind == "timeout_now":
            self.emit(peer, TimeoutNow(term=message["term"]))
        else:
            raise LogHalted(f"PySyncObj sends an unexpected {kind}")

    def _acknowledge(self, peer: str, next_index: int, *, reset: bool, success: bool) -> None:
        self.emit(peer, Ack(term=self.engine.term, seq=self._answering, next_index=next_index, reset=reset, success=success,
                            learner=self.learner))

    # -- incoming: followers ---------------------------------------------------------------------------------------

    def _stale(self, peer: str, term: int) -> bool:
        """Whether a leader's message is of a term that is over; it is told so, for PySyncObj would leave it in the dark (H13)."""
        if term >= self.engine.term:
            return False
        if self.on("nudge"):
            self.emit(peer, HigherTerm(term=self.engine.term))
        return True

    def _leader_spoke(self) -> None:
        self.leader_seen = self.clock.monotonic()
        self.leader_gone = False

    def _heartbeat(self, peer: str, term: int, commit: int) -> None:
        """What is left of a message whose log part was dealt with here."""
        self.engine.deliver(peer, {"type": "append_entries", "term": term, "commit_index": commit, "serialized": None})

    def _pass_append(self, peer: str, message: AppendEntries, prev_index: int, prev_term: int, entries: list[LogEntry], commit: int) -> None:
        self.engine.deliver(peer, {"type": "append_entries", "term": message.term, "commit_index": commit, "entries": entries,
                                   "prevLogIdx": prev_index, "prevLogTerm": prev_term})

    def on_heartbeat(self, peer: str, message: Heartbeat) -> None:
        if self._stale(peer, message.term):
            return
        self._leader_spoke()
        self._answering = message.seq
        self._heartbeat(peer, message.term, self.engine.commit_index)
        self._acknowledge(peer, self.engine.last_index + 1, reset=False, success=False)

    def on_append(self, peer: str, message: AppendEntries) -> None:
        _check_entries(message)
        if self._stale(peer, message.term):
            return
        self._leader_spoke()
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
        self._leader_spoke()
        self._answering = message.seq
        engine = self.engine
        have = max(engine.commit_index, engine.applied_index)
        commit = engine.commit_index if self.on("commit") else max(message.snapshot_index, engine.commit_index)
        if self.on("snapold") and message.snapshot_index <= have:
            self._heartbeat(peer, message.term, engine.commit_index)
            self._acknowledge(peer, max(have, engine.first_index) + 1, reset=False, success=message.first or message.last)
            return
        expected = (peer, message.snapshot_index, message.offset)
        if not message.first and self._incoming != expected:
            self._heartbeat(peer, message.term, engine.commit_index)
            self._acknowledge(peer, engine.last_index + 1, reset=message.last, success=False)
            return
        self._incoming = (peer, message.snapshot_index, message.offset + len(message.data))
        engine.deliver(peer, {"type": "append_entries", "term": message.term, "commit_index": commit,
                              "serialized": (message.data, message.first, message.last)})
        if not message.last:
            self._acknowledge(peer, engine.last_index + 1, reset=False, success=False)
        elif engine.applied_index < message.snapshot_index:
            # PySyncObj swallows the exception of a failed installation and answers "success" (H8).
            raise LogHalted(f"the snapshot of {peer} at log index {message.snapshot_index} could not be installed")

    # -- incoming: leaders and candidates --------------------------------------------------------------------------

    def on_ack(self, peer: str, message: Ack) -> None:
        engine = self.engine
        if not engine.is_leader or (message.term != engine.term and self.on("term")):
            return
        state = self.peers[peer]
        state.answered(message.seq)
        if state.blocked and state.in_flight_bytes < WINDOW_BYTES:
            state.blocked = False
            self._unblocked.add(peer)
        next_index = min(message.next_index, engine.last_index + 1)
        reset, success, before = message.reset, message.success, engine.next_index(peer)
        state.learner = message.learner
        if message.learner:
            engine.forget_match(peer)
        elif message.seq > state.acked_seq:
            state.acked_seq = message.seq
        if reset and self.on("rewind"):
            if message.seq <= state.rewind_seq:
                reset = False
            else:
                state.rewind_seq = state.out_seq
                next_index = max(next_index, engine.match_index(peer) + 1)
                state.forget_flight()
                self._unblocked.add(peer)
        engine.deliver(peer, {"type": "next_node_idx", "reset": reset, "next_node_idx": next_index, "success": success and not message.learner})
        if success and not reset and (self.on("rewind") or message.learner):
            # An answer must not pull the pipeline back: what follows is already on its way.
            engine.set_next_index(peer, max(before, next_index))

    def on_request_vote(self, peer: str, message: RequestVote) -> None:
        if not self.learner:
            self.engine.deliver(peer, {"type": "request_vote", "term": message.term, "last_log_index": message.last_index,
                                       "last_log_term": message.last_term})

    def on_vote(self, peer: str, message: Vote) -> None:
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
        if entry_index != index + 1 or not term <= entry_term <= message.term or command[:1] not in (REGULAR, NO_OP):
            raise Malformed(f"log entry {entry_index} of term {entry_term} after {index} of term {term}")
        index, term = entry_index, entry_term
