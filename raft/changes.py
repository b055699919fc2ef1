"""Members come, go and move: one change at a time, by the leader, and only to what would live.

Whoever is asked passes the question to the leader and asks again until its deadline; each question may be asked twice, since what is done
already is answered as done. The leader answers once the new configuration is committed. It begins a change only when an entry of its own
term is committed (else two leaders could change the same configuration in two ways) and no earlier change is open.
"""

from collections import deque
from collections.abc import Callable

from msgspec import Struct

from raft.configuration import CONFIGURATION, MAX_MEMBERS, Configuration, encode_configuration, is_majority
from raft.contract import ChangeKind
from raft.errors import ChangeRefused, LogError, NoLeader, OutcomeUnknown
from raft.guard import Guard
from raft.handover import HandOver
from raft.messages import FIRST_NUMBERS, AskChange, Changed, Outcome
from raft.pipeline import NEVER

ChangeDone = Callable[[str | LogError], None]
"""Called once, with the id the change was about or with why it was not made."""
LIVE_S = 1.0
"""A member heard within this long counts as reachable; they hear each other several times as often."""
CAUGHT_UP_ENTRIES = 64
"""A learner this close behind the end of the log may vote: it is there a heartbeat later."""
_ASK_AGAIN_S = 0.3
_ASK_LOST_S = 2.0
_HAND_OVER_S = 2.0
_MAX_QUEUED = 64


class _Question(Struct):
    """One change somebody asked this member for."""

    kind: ChangeKind
    subject: str
    deadline: float
    done: ChangeDone
    asked_at: float = NEVER
    target: tuple[str, int] = ("", 0)
    sent: bool = False


class _Job(Struct):
    """One change on the leader, for a member or for itself."""

    kind: ChangeKind
    subject: str
    asker: str
    """"" for this member itself."""
    round: int
    index: int = 0
    """Log index of its configuration, once it is appended, and the term that was in."""
    term: int = 0
    id: str = ""
    handing_over: bool = False
    gave_way: bool = False


class Changes:
    """Questions of this member; on the leader, everybody's."""

    def __init__(self, guard: Guard, hand_over: HandOver) -> None:
        self._guard = guard
        self._members = guard.membership
        self._hand_over = hand_over
        self._questions: dict[int, _Question] = {}
        self._round = guard.random.randrange(FIRST_NUMBERS)
        self._jobs: deque[_Job] = deque()
        self._resolved: list[tuple[ChangeDone, str | LogError]] = []

    @property
    def pending(self) -> bool:
        return bool(self._questions or self._jobs)

    # -- questions -------------------------------------------------------------------------------------------------

    def ask(self, kind: ChangeKind, subject: str, deadline: float, done: ChangeDone) -> None:
        self._round += 1
        self._questions[self._round] = _Question(kind, subject, deadline, done)

    def on_ask(self, peer: str, message: AskChange) -> None:
        if len(self._jobs) < _MAX_QUEUED:
            self._jobs.append(_Job(ChangeKind(message.kind), message.subject, peer, message.round))

    def on_changed(self, peer: str, message: Changed) -> None:
        question = self._questions.get(message.round)
        if question is None or question.target[0] not in (peer, ""):
            return
        if message.outcome == "again":
            question.target, question.asked_at = ("", 0), max(question.asked_at, self._guard.clock.monotonic() - _ASK_AGAIN_S / 2)
            return
        del self._questions[message.round]
        outcome = message.text if message.outcome == "done" else ChangeRefused(message.reason, message.text)
        self._resolved.append((question.done, outcome))

    def _pass_on(self, now: float) -> None:
        engine, guard = self._guard.engine, self._guard
        leader = guard.membership.me if engine.is_leader else engine.leader
        for round, question in list(self._questions.items()):
            if now >= question.deadline:
                del self._questions[round]
                error = (
                    OutcomeUnknown("the change was asked for, but it is not known to be made; it may still be. Asking again is safe")
                    if question.sent
                    else NoLeader("no leader was known until the deadline; nothing was changed")
                )
                self._resolved.append((question.done, error))
                continue
            target = (leader or "", engine.term)
            again = question.target == target
            if leader is None or now - question.asked_at < (_ASK_LOST_S if again else _ASK_AGAIN_S):
                continue
            peer = guard.peers.get(leader)
            if again and (leader == guard.membership.me or question.kind is ChangeKind.LEAD):
                continue  # It is being seen to; and leadership is not to be given away twice.
            if leader == guard.membership.me:
                self._jobs.append(_Job(question.kind, question.subject, "", round))
            elif peer is not None and peer.connected:
                guard.emit(leader, AskChange(round=round, kind=question.kind.value, subject=question.subject))
            else:
                continue
            question.target, question.asked_at, question.sent = target, now, True

    def _answer(self, job: _Job, outcome: Outcome, reason: str, text: str) -> None:
        message = Changed(round=job.round, outcome=outcome, reason=reason, text=text)
        if job.asker:
            self._guard.emit(job.asker, message)
        else:
            self.on_changed(self._members.me, message)

    # -- the leader's work -----------------------------------------------------------------------------------------

    def step(self, now: float) -> None:
        engine = self._guard.engine
        if self._questions:
            self._pass_on(now)
        if not engine.is_leader:
            for job in list(self._jobs):
                if not job.gave_way:
                    self._finish(job, "again", "", "")
                elif engine.leader is not None:
                    self._finish(job, "done", "", engine.leader)
            return
        if not engine.leads_own_term and self._guard.on("ownterm"):
            return
        for job in list(self._jobs)[: 1 if self._guard.on("serial") else None]:
            self._work(job, now)
        if not self._jobs or not self._jobs[0].index:
            self._by_itself(now)

    def _settled(self) -> bool:
        """No configuration is on its way: only then may there be another."""
        return self._members.latest_index <= self._guard.engine.commit_index or not self._guard.on("serial")

    def _append(self, configuration: Configuration) -> int:
        return self._guard.engine.append(encode_configuration(configuration), kind=CONFIGURATION)

    def _work(self, job: _Job, now: float) -> None:
        if job.index:
            if self._guard.engine.term != job.term:
                self._finish(job, "again", "", "")
            elif self._guard.engine.commit_index >= job.index:
                self._finish(job, "done", "", job.id)
            return
        if not self._settled():
            return
        try:
            if job.kind is ChangeKind.ADD:
                self._add(job, now)
            elif job.kind is ChangeKind.REMOVE:
                self._remove(job, now)
            else:
                self._lead(job, now)
        except ChangeRefused as refused:
            self._finish(job, "refused", refused.reason, str(refused))

    def _finish(self, job: _Job, outcome: Outcome, reason: str, text: str) -> None:
        self._jobs.remove(job)
        self._answer(job, outcome, reason, text)

    def _add(self, job: _Job, now: float) -> None:
        latest = self._members.latest
        present = latest.at_address(job.subject)
        if present is not None:
            self._finish(job, "done", "", present.id)
            return
        if len(latest.seats) >= MAX_MEMBERS:
            raise ChangeRefused("conflict", f"there are {MAX_MEMBERS} servers already, and more make every write slower")
        wider = latest.adding(job.subject)
        job.id = latest.free_id(job.subject)
        # It will vote one day, and be alive then.
        self._check_alive(wider.promoting(job.id).voters, self._live(now) | {job.id}, f"adding {job.subject}")
        job.index, job.term = self._append(wider), self._guard.engine.term

    def _remove(self, job: _Job, now: float) -> None:
        latest, me = self._members.latest, self._members.me
        if job.subject in latest.removed and latest.seat(job.subject) is None:
            self._finish(job, "done", "", job.subject)
            return
        if latest.seat(job.subject) is None:
            raise ChangeRefused("not-found", f"there is no server {job.subject!r}; there are {', '.join(seat.id for seat in latest.seats)}")
        smaller = latest.removing(job.subject)
        if not smaller.voters:
            raise ChangeRefused("conflict", f"{job.subject} is the only server that votes: without it there is no cluster")
        self._check_alive(smaller.voters, self._live(now) - {job.subject}, f"removing {job.subject}")
        if job.subject == me:
            self._give_way(job, "", now)
            return
        job.id, job.index, job.term = job.subject, self._append(smaller), self._guard.engine.term

    def _lead(self, job: _Job, now: float) -> None:
        latest, me = self._members.latest, self._members.me
        if job.subject == me:
            self._finish(job, "done", "", me)
            return
        if job.subject and latest.seat(job.subject) is None:
            raise ChangeRefused("not-found", f"there is no server {job.subject!r}; there are {', '.join(seat.id for seat in latest.seats)}")
        if job.subject and job.subject not in latest.voters:
            raise ChangeRefused("conflict", f"{job.subject} is a learner: it leads once it has caught up")
        if job.subject and job.subject not in self._live(now):
            raise ChangeRefused("conflict", f"{job.subject} is not reachable from the leader, {me}")
        if not self._live(now) & latest.voters - {me}:
            raise ChangeRefused("conflict", "there is no other server that is reachable and votes")
        self._give_way(job, job.subject, now)

    def _give_way(self, job: _Job, target: str, now: float) -> None:
        """Let another lead; whoever does answers the question, which is asked again."""
        if job.gave_way:
            self._finish(job, "done", "", self._members.me)  # Nobody kept it.
        if job.handing_over:
            return

        def done(taken: bool) -> None:
            if job not in self._jobs:
                return
            if not taken:
                self._finish(job, "refused", "conflict", f"no other server took over leadership from {self._members.me}; try again")
            elif job.kind is ChangeKind.LEAD and not job.subject:
                job.gave_way = True  # Who leads now is told once it is known.
            else:
                self._finish(job, "again", "", "")

        job.handing_over = True
        self._hand_over.begin(now + _HAND_OVER_S, done, target=target)

    # -- what the leader does unasked ------------------------------------------------------------------------------

    def _by_itself(self, now: float) -> None:
        """A learner that has caught up votes; a member that moved is written down."""
        latest = self._members.latest
        moves = self._members.moves
        if not moves and len(latest.voters) == len(latest.seats):
            return
        if not self._settled() or self._hand_over.pending:
            return
        for id, address in moves:
            if latest.at_address(address) is None:
                self._append(latest.moving(id, address))
                return
        live = self._live(now)
        for seat in latest.seats:
            wider = None if seat.voter else latest.promoting(seat.id)
            if wider is not None and seat.id in live and self._has_caught_up(seat.id) and is_majority(live, wider.voters):
                self._append(wider)
                return

    def _has_caught_up(self, id: str) -> bool:
        engine, peer = self._guard.engine, self._guard.peers.get(id)
        return peer is not None and not peer.learner and engine.match_index(id) + CAUGHT_UP_ENTRIES >= engine.last_index

    # -- who is there ----------------------------------------------------------------------------------------------

    def _live(self, now: float) -> frozenset[str]:
        """Members this leader reaches, itself among them."""
        peers = self._guard.peers
        return frozenset({self._members.me} | {id for id, peer in peers.items() if peer.connected and now - peer.heard_at < LIVE_S})

    def _check_alive(self, voters: frozenset[str], live: frozenset[str], what: str) -> None:
        if is_majority(live, voters):
            return
        absent = sorted(voters - live)
        raise ChangeRefused(
            "no-majority",
            f"after {what} {len(voters) // 2 + 1} of {len(voters)} servers would have to be up, and {', '.join(absent)} "
            f"{'is' if len(absent) == 1 else 'are'} not reachable: start {'it' if len(absent) == 1 else 'one of them'} again first, or, "
            "if it is gone for good, remove it first",
        )

    # -- out -------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        resolved, self._resolved = self._resolved, []
        for done, outcome in resolved:
            done(outcome)

    def expelled(self) -> None:
        """This member was removed: who asked it for just that has his answer."""
        me = self._members.me
        for round, question in list(self._questions.items()):
            if question.kind is ChangeKind.REMOVE and question.subject == me:
                del self._questions[round]
                self._resolved.append((question.done, me))

    def fail_all(self, error: LogError) -> None:
        self._resolved += [(question.done, error) for question in self._questions.values()]
        self._questions.clear()
        self._jobs.clear()
        self.flush()
