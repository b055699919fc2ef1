"""One member of the replicated log: everything around PySyncObj, wired together, without a thread or a socket of its own.

It moves in steps: `work` hears what came in, ticks PySyncObj, appends and applies; `sync` makes the journal durable; `flush` lets the
consequences out: messages, answers, news. Nothing that depends on an entry, a term or a vote leaves before its sync, and one
sync covers everything of a step. A leader's entries claim nothing but its term: they leave before, and all disks write them
at the same time. Production drives the steps from the event loop (`driver.py`), the simulation by hand.
"""

import logging
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from msgspec import structs

from raft import messages
from raft.applier import Applier
from raft.changes import Changes
from raft.compaction import Compaction
from raft.contract import Clock, Disk, LogStatus, RaftConfig, StateMachine, Wire
from raft.engine import Engine
from raft.errors import Expelled, LogError, LogHalted, StartRefused
from raft.graduation import Graduation
from raft.guard import Guard
from raft.handover import HandOver
from raft.identity import IDENTITY_USED, REMOVED, Identity
from raft.journal import Journal
from raft.membership import Membership
from raft.messages import Malformed, Relayed, Told, decode
from raft.outbox import Outbox
from raft.pipeline import NEVER
from raft.prevote import PreVotes
from raft.proposals import Proposals
from raft.reads import Reads
from raft.replies import Replies
from raft.router import Router
from raft.snapshot import SnapshotSerializer, SnapshotStore
from raft.status import status_of

_logger = logging.getLogger(__name__)
_SOON_S = 0.05


class Member:
    """The steps of one member; `contract.WireEvents` for the wire below it, `engine.Hooks` for PySyncObj."""

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
        _check(config)
        self.on_message: Callable[[str, bytes], None] | None = None
        self.on_role: Callable[[LogStatus], None] | None = None
        self.on_wake: Callable[[], None] = lambda: None
        """Called when there is something to do before `deadline`."""
        self._wire, self._clock, self._random, self._on_fatal = wire, clock, random, on_fatal
        self._halted: LogError | None = None
        self.outbox = Outbox()
        self._inbox: deque[tuple[str, bytes | None]] = deque()
        """Frames; None where the peer's end closed the connection."""
        self._told: deque[tuple[str, bytes]] = deque()
        self._promised = clock.monotonic()
        self._worked_at = NEVER
        self._refusals: set[tuple[str, str]] = set()
        self._role_seen: tuple[bool, bool, bool, bool, str | None, int] | None = None
        # A process killed between a rename and its sync left it in the cache only; everything below is built on what is read now.
        disk.sync_directory()
        self.identity = Identity(config, disk, random)
        self.membership = Membership(config, self.identity)
        asked, self.config = config, structs.replace(config, me=self.identity.id)
        config = self.config
        self.replies = Replies(config.max_replies)
        self.guard = Guard(config, self.membership, clock=clock, random=random, emit=self.outbox.emit)
        self.guard.learner = self.identity.learner and self.guard.on("learner")
        self.proposals = Proposals(config, self.guard, self.replies)
        self.hand_over = HandOver(self.guard, self.proposals)
        self.changes = Changes(self.guard, self.hand_over)
        self.applier = Applier(machine, self.replies, self.proposals, dedupe=self.guard.on("dedupe"))
        self.store = SnapshotStore(disk)
        self.serializer = SnapshotSerializer(
            self.store,
            capture=self.applier.capture,
            restore=self.applier.restore,
            executor=executor,
            configurations=self.membership,
            ablate=config.ablate,
        )
        self.journal = Journal(disk, snapshot=self.store.latest_entries(), must_exist=self.identity.has_journal, ablate=config.ablate)
        self.membership.open(self.store.latest.configuration if self.store.latest else None, self.journal[:])
        self.journal.watcher = self.membership
        self.membership.check_start(asked)
        self.identity.journal_made()
        self.compaction = Compaction(config, self.journal, self.store, self.serializer)
        self.prevotes = PreVotes(self.guard)
        self.reads = Reads(self.guard, lambda: self.replies.applied)
        self.graduation = Graduation(self.guard, self.reads, self.identity, sync=self._synced_or_halted, halt=self.halt)
        self.router = Router(config.me, wire, self._reachable)
        self.outbox.attach(self.guard, self.router)
        self.engine = Engine(config, self, journal=self.journal, serializer=self.serializer, clock=clock, random=random)
        self.guard.attach(self.engine, self.serializer)
        self.membership.on_change = self._members_changed
        self._members_changed()
        self._handlers = self._hearers()

    def _hearers(self) -> dict[type, Callable[[str, Any], None]]:
        return {
            messages.AppendEntries: self.guard.on_append,
            messages.SnapshotChunk: self.guard.on_snapshot,
            messages.Heartbeat: self.guard.on_heartbeat,
            messages.Ack: self.guard.pipeline.on_ack,
            messages.RequestVote: self.guard.on_request_vote,
            messages.Vote: self.guard.on_vote,
            messages.TimeoutNow: self.guard.on_timeout_now,
            messages.HigherTerm: self.guard.on_higher_term,
            messages.AskPreVote: self.prevotes.on_ask,
            messages.PreVote: self.prevotes.on_granted,
            messages.Submit: self.proposals.on_submit,
            messages.Refused: self.proposals.on_refused,
            messages.AskRead: self.reads.on_ask,
            messages.ReadAt: self.reads.on_read_at,
            messages.AskChange: self.changes.on_ask,
            messages.Changed: self.changes.on_changed,
            messages.Told: self._on_told,
            messages.Reach: self.router.on_reach,
            messages.Relayed: self._on_relayed,
        }

    # -- Hooks: what the engine asks -------------------------------------------------------------------------------

    def outgoing(self, peer: str, message: dict[str, Any]) -> None:
        self.guard.outgoing(peer, message)

    def may_campaign(self) -> bool:
        return self.prevotes.may_campaign()

    def patience_s(self) -> float:
        return self.prevotes.patience_s(self._clock.monotonic())

    def send_log(self) -> None:
        self.guard.pipeline.send_log()

    def apply(self, payload: bytes) -> None:
        self.applier.apply(payload)

    def configured(self, index: int) -> None:
        self.membership.applied(index)

    def _members_changed(self) -> None:
        """Who votes, who is sent to or who is dialled may be others now."""
        members = self.membership
        self.router.set_peers(members.peers)
        self.guard.pipeline.set_peers(members.peers)
        self.engine.set_members(members.other_voters, members.audience - members.voters)
        self._wire.set_peers(members.peers)
        self.router.settle()
        self.on_wake()

    # -- WireEvents ------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        return self.config.me

    def connected(self, peer: str) -> None:
        if peer not in self.guard.peers:
            self._wire.drop(peer)  # It was removed while it shook hands.
            return
        now = self._clock.monotonic()
        self.guard.peers[peer].heard_at = now
        self.router.connected(peer, now)
        self.on_wake()

    def disconnected(self, peer: str, *, by_peer: bool) -> None:
        if self._halted is None:
            self.router.disconnected(peer, self._clock.monotonic())
            if by_peer:
                self._inbox.append((peer, None))  # behind what it said before: heard afterwards, that would deny it
            self.on_wake()

    def received(self, peer: str, frame: bytes) -> None:
        self._inbox.append((peer, frame))
        self.on_wake()

    def handshake_refused(self, peer: str, reason: str) -> None:
        if (peer, reason) not in self._refusals:
            self._refusals.add((peer, reason))
            _logger.warning("server %s refuses to talk to this one (%s): %s", peer, self.config.me, reason)
        if reason.startswith(REMOVED):
            self.identity.expelled()
            self.changes.expelled()
            self.halt(Expelled(reason.removeprefix(REMOVED)))
        elif reason.startswith(IDENTITY_USED):
            self.halt(StartRefused(reason.removeprefix(IDENTITY_USED)))

    def introduce(self, peer: str) -> bytes:
        return self.identity.hello(peer)

    def welcome(self, hello: bytes, certified: str | None = None) -> str:
        try:
            peer, address, came_back_empty = self.identity.check(hello, certified)
            self.membership.met(peer, address)
        except OSError as error:
            self.halt(LogHalted(f"the identity file cannot be written: {error}"))
            raise ValueError("this server cannot write to its disk") from error
        if came_back_empty:
            self.guard.pipeline.forget(peer)
        return peer

    def _reachable(self, peer: str, reachable: bool) -> None:
        (self.guard.pipeline.connected if reachable else self.guard.pipeline.disconnected)(peer)

    # -- steps -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Load the snapshot, then let the wire connect; before any message, as PySyncObj expects it."""
        self.engine.tick()
        latest = self.store.latest_entries()
        if latest is not None and self.engine.applied_index < latest[1][1]:
            raise StartRefused("the newest snapshot could not be loaded; the log above names the cause")
        self.sync()
        self._wire.start(self)

    def work(self) -> None:
        """Hear, tick, append, apply; nothing leaves yet but a leader's entries."""
        if self._halted is not None:
            return
        now = self._clock.monotonic()
        try:
            if self.prevotes.was_late(now - self._promised, now):
                self.router.woke(now)
            self._promised = now
            self._worked_at = now
            while self._inbox:
                self._deliver(*self._inbox.popleft())
            self.compaction.step(self.engine, now)
            self.engine.tick()
            self.hand_over.step(now)
            self.graduation.step(now)
            self.changes.step(now)
            self.proposals.step(now)
            heartbeat = self.reads.step(now)
            if self.engine.is_leader:
                if heartbeat or self.guard.pipeline.has_news(now):
                    self.engine.send_log()
                self.guard.pipeline.send_awaited()
            self.router.step(now, self.engine.leader)
            if self.journal.dirty:
                self.outbox.send_log()
        except (LogError, OSError) as error:
            self.halt(error if isinstance(error, LogError) else LogHalted(f"the data directory cannot be written: {error}"))
        except Exception as error:
            _logger.exception("server %s: bug in the replicated log or its state machine; halting", self.config.me)
            self.halt(LogHalted(f"{type(error).__name__}: {error}"))

    @property
    def dirty(self) -> bool:
        return self.journal.dirty

    def sync(self) -> None:
        """Make the journal durable; may run on another thread while nothing else enters the replica."""
        self.journal.sync()
        self.outbox.synced()

    def flush(self) -> None:
        """Let out what the step led to."""
        if self._halted is not None:
            self.outbox.clear()
            return
        self.outbox.flush()
        self.proposals.flush()
        self.reads.flush()
        self.changes.flush()
        self.applier.flush(self._clock.monotonic())
        while self._told:
            sender, payload = self._told.popleft()
            if self.on_message is not None:
                self.on_message(sender, payload)
        self._tell_role()
        self._promised = max(self.deadline(), self._clock.monotonic())

    def step(self) -> None:
        """One whole step, synchronously."""
        self.work()
        if self.dirty and not self._late_sync():
            self.sync_or_halt()
        self.flush()

    def sync_or_halt(self) -> None:
        try:
            self.sync()
        except (OSError, LogError) as error:
            self.halt(LogHalted(f"the journal cannot be written: {error}"))

    def _synced_or_halted(self) -> bool:
        self.sync_or_halt()
        return self._halted is None

    def _late_sync(self) -> bool:
        """Ablation only: a leader that counts entries it has not made durable."""
        return not self.guard.on("selfack") and self.engine.is_leader and self._random.random() < 0.9

    def deadline(self) -> float:
        """When `step` must be called at the latest (`Clock.monotonic`); the past while there is work."""
        if self._halted is not None:
            return float("inf")
        now, engine = self._clock.monotonic(), self.engine
        if (
            self._inbox
            or self.outbox
            or self._told
            or engine.unapplied > 0
            or (engine.is_leader and not self.membership.other_voters and engine.commit_index < engine.last_index)
        ):
            return now
        due = self.router.due
        if engine.is_leader:
            due = min(due, engine.heartbeat_due, self.guard.pipeline.news_due)
        else:
            due = min(due, max(engine.election_deadline, self.prevotes.due))
        waits = self.proposals.pending or self.reads.pending or self.changes.pending or self.hand_over.pending
        if waits or self.applier.pending or self.serializer.busy:
            due = min(due, self._worked_at + _SOON_S)
        return due

    def _deliver(self, peer: str, frame: bytes | None, *, passed_on: bool = False) -> None:
        if peer not in self.guard.peers:
            return
        if frame is None:
            self.prevotes.closed(peer)
            return
        try:
            message = decode(frame)
            if passed_on and isinstance(message, Relayed):
                raise Malformed("a relayed frame inside a relayed frame")
            self.guard.peers[peer].heard_at = self._worked_at
            if not passed_on:
                self.router.heard(peer, self._worked_at)
            self._handlers[type(message)](peer, message)
        except Malformed as error:
            _logger.warning("server %s sent what no server sends (%s); its connection is closed", peer, error)
            if self.router.is_direct(peer):
                self._wire.drop(peer)

    def _on_relayed(self, peer: str, message: Relayed) -> None:
        if message.target == self.config.me != message.origin:
            self.membership.vouched(message.origin)
        mine = self.router.on_relayed(peer, message)
        if mine is not None:
            self._deliver(*mine, passed_on=True)

    def _on_told(self, peer: str, message: Told) -> None:
        self._told.append((peer, message.payload))

    def halt(self, error: LogError) -> None:
        """Stop for good: nothing more is sent, everybody who waits is told."""
        if self._halted is not None:
            return
        self._halted = error
        self.outbox.clear()
        if not (isinstance(error, LogHalted) and str(error) == "closed"):
            _logger.critical("server %s halts: %s", self.config.me, error)
        told = error if isinstance(error, LogHalted) else LogHalted(str(error))
        self._wire.close()
        self.proposals.fail_all(told)
        self.reads.fail_all(told)
        self.changes.fail_all(told)
        self.applier.fail_all(told)
        self.hand_over.end(taken=False)
        if self._on_fatal is not None and str(error) != "closed":
            self._on_fatal(error)

    # -- news and leave-taking -------------------------------------------------------------------------------------

    def status(self) -> LogStatus:
        return status_of(self.config, self.identity.cluster, self.engine, self.guard, self.router, self.replies, self._clock.monotonic())

    def _tell_role(self) -> None:
        engine = self.engine
        learner = self.guard.learner or not self.membership.is_voter
        seen = (engine.is_leader, engine.is_candidate, learner, self.guard.leader_gone, engine.leader, engine.term)
        if seen != self._role_seen:
            self._role_seen = seen
            if self.on_role is not None:
                self.on_role(self.status())


def _check(config: RaftConfig) -> None:
    if len(set(config.members)) != len(config.members):
        raise StartRefused(f"a peer is named twice in {', '.join(config.members)}")
    if not 3 * config.heartbeat_s < config.election_min_s < config.election_max_s:
        raise StartRefused("the election timeout must be longer than three heartbeats, and its maximum longer than its minimum")
