"""The leader's side of replication: what each peer has been sent, has confirmed, and may be sent next.

PySyncObj sends until it is through, whatever the peer can take, and lets any answer pull it back. Here a window bounds what is on its
way to a peer, answers are matched to questions by sequence number and term, and only the first complaint about a gap rewinds.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from raft.contract import RaftConfig
from raft.engine import Engine
from raft.membership import Membership
from raft.messages import MAX_APPEND_BYTES, Ack, AppendEntries, Heartbeat, LogEntry, Message, SnapshotChunk

WINDOW_BYTES = 4 * 1024 * 1024
"""Bytes on their way to one peer before the next batch waits for an answer; a slow peer holds no memory beyond it."""
NEVER = float("-inf")
NEWS_WAITS_S = 0.001
"""A commit index alone waits so long for entries that it can go with, unless the peer has somebody who waits for it."""


class Transmission(Protocol):
    """What the guard needs of the snapshot serializer."""

    def getTransmissionData(self, transmissionID: Any) -> Any: ...
    def cancelTransmisstion(self, transmissionID: Any) -> None: ...
    def transmission_last(self, transmissionID: Any) -> tuple[int, int]: ...


class Peer:
    """What the leader remembers of one peer's conversation."""

    __slots__ = (
        "acked_seq",
        "answered_at",
        "asks",
        "awaits",
        "blocked",
        "connected",
        "heard_at",
        "in_flight",
        "in_flight_bytes",
        "learner",
        "out_seq",
        "rewind_seq",
        "snapshot_offset",
    )

    def __init__(self) -> None:
        self.out_seq = 0
        self.rewind_seq = 0
        """Answers to messages up to this one know nothing of the last rewind (H6)."""
        self.acked_seq = 0
        self.heard_at = NEVER
        self.answered_at = NEVER
        """When it last confirmed, in its leader's term, that it had heard this member lead."""
        self.asks = True
        """The next message wants an answer even if it carries nothing; every other one does (`AppendEntries.seq`)."""
        self.connected = False
        self.learner = False
        self.awaits = 0
        """Up to this index it has proposed what it waits to apply; 0 for nothing."""
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


class Pipeline:
    """Conversations with all peers of one replica."""

    def __init__(self, config: RaftConfig, membership: Membership, emit: Callable[[str, Message], None]) -> None:
        self.config = config
        self.emit = emit
        self.peers: dict[str, Peer] = {}
        """By id, in order; members, and whoever else of this cluster talks with us."""
        self._membership = membership
        self._sent = (0, 0, 0)
        self.news_due = float("inf")
        """When a commit index that nobody was told yet is worth a message of its own."""
        self._unblocked: set[str] = set()
        self.engine: Engine
        self.transmission: Transmission

    def attach(self, engine: Engine, transmission: Transmission) -> None:
        self.engine = engine
        self.transmission = transmission

    def set_peers(self, ids: Iterable[str]) -> None:
        """Talk with these and no others."""
        kept = {id: self.peers.get(id) or Peer() for id in sorted(ids)}
        for id in self.peers.keys() - kept.keys():
            self.transmission.cancelTransmisstion(id)
        self.peers.clear()
        self.peers.update(kept)
        self._unblocked &= kept.keys()

    # -- the wire's news -------------------------------------------------------------------------------------------

    def connected(self, peer: str) -> None:
        state = self.peers[peer]
        state.connected = state.asks = True
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

    # -- outgoing: the log -----------------------------------------------------------------------------------------

    def has_news(self, now: float) -> bool:
        """The log grew, the leader is new, or a commit index found no entries to go with: worth a message before the next heartbeat."""
        last, commit, term = self._sent
        engine = self.engine
        if engine.last_index != last or engine.term != term:
            return True
        if engine.commit_index != commit:
            self.news_due = min(self.news_due, now + NEWS_WAITS_S)
        return now >= self.news_due

    def send_log(self) -> None:
        self._sent = (self.engine.last_index, self.engine.commit_index, self.engine.term)
        self.news_due = float("inf")
        for peer, state in self.peers.items():
            if state.connected and peer in self._membership.audience:
                self._send_to(peer, state)
            else:
                self.transmission.cancelTransmisstion(peer)

    def send_awaited(self) -> None:
        """Go on with the peers whose window opened, and tell those that wait for it what is committed."""
        unblocked, self._unblocked = self._unblocked, set()
        if self.engine.is_leader:
            commit = self.engine.commit_index
            for peer, state in self.peers.items():
                if (peer in unblocked or 0 < state.awaits <= commit) and state.connected and peer in self._membership.audience:
                    self._send_to(peer, state)

    def _send_to(self, peer: str, state: Peer) -> None:
        engine = self.engine
        if state.awaits <= engine.commit_index:
            state.awaits = 0
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
            # The answer to a heartbeat, or to news of the commit index, wakes a leader that mostly learns nothing from it.
            unasked = not entries and not state.asks and engine.match_index(peer) >= index - 1
            state.asks = unasked
            state.out_seq += not unasked
            self.emit(
                peer,
                AppendEntries(
                    term=engine.term,
                    seq=0 if unasked else state.out_seq,
                    commit=engine.commit_index,
                    prev_index=index - 1,
                    prev_term=engine.term_at(index - 1),
                    entries=entries,
                ),
            )
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
            index, term = self.transmission.transmission_last(peer)
            if first:
                state.snapshot_offset = 0
            self.emit(
                peer,
                SnapshotChunk(
                    term=self.engine.term,
                    seq=state.out_seq,
                    snapshot_index=index,
                    snapshot_term=term,
                    offset=state.snapshot_offset,
                    data=data,
                    first=first,
                    last=last,
                ),
            )
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

    def on_ack(self, peer: str, message: Ack) -> None:
        engine = self.engine
        if not engine.is_leader or peer not in self._membership.audience or (message.term != engine.term and self._on("term")):
            return
        state = self.peers[peer]
        state.answered(message.seq)
        state.answered_at = state.heard_at
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
        if reset and self._on("rewind"):
            if message.seq <= state.rewind_seq:
                reset = False
            else:
                state.rewind_seq = state.out_seq
                next_index = max(next_index, engine.match_index(peer) + 1)
                state.forget_flight()
                self._unblocked.add(peer)
        engine.deliver(
            peer, {"type": "next_node_idx", "reset": reset, "next_node_idx": next_index, "success": success and not message.learner}
        )
        if success and not reset and (self._on("rewind") or message.learner):
            # An answer must not pull the pipeline back: what follows is already on its way.
            engine.set_next_index(peer, max(before, next_index))

    def _on(self, repair: str) -> bool:
        return repair not in self.config.ablate
