"""What a replica can say about itself and the others without asking anybody."""

from raft.configuration import Seat
from raft.contract import LogStatus, MemberStatus, RaftConfig, Role
from raft.engine import Engine
from raft.guard import Guard
from raft.pipeline import NEVER
from raft.replies import Replies
from raft.router import Router

_DOWN_AFTER_S = 3.0


def status_of(
    config: RaftConfig, cluster: str, engine: Engine, guard: Guard, router: Router, replies: Replies, now: float
) -> LogStatus:
    members = guard.membership
    learner = guard.learner or not members.is_voter
    role = Role.LEARNER if learner else Role.LEADER if engine.is_leader else Role.CANDIDATE if engine.is_candidate else Role.FOLLOWER
    heard = guard.leader_seen != NEVER
    lost = guard.leader_gone or now - guard.leader_seen > config.leader_fallback_s
    leader = config.me if engine.is_leader else None if lost else engine.leader
    age = 0.0 if engine.is_leader else now - guard.leader_seen if heard and engine.leader is not None else None
    caught_up = engine.is_leader or (heard and engine.applied_index >= max(guard.leader_commit, engine.commit_index))
    return LogStatus(
        me=config.me,
        role=role,
        leader=leader,
        term=engine.term,
        applied=replies.applied,
        raft_commit_index=engine.commit_index,
        raft_applied_index=engine.applied_index,
        raft_last_index=engine.last_index,
        leader_contact_age_s=age,
        heard_by_leader=engine.is_leader or (leader is not None and router.is_heard(leader)),
        caught_up=caught_up,
        members=tuple(_member(seat, config, engine, guard, role, leader, now) for seat in members.latest.seats),
        cluster=cluster,
    )


def _member(seat: Seat, config: RaftConfig, engine: Engine, guard: Guard, role: Role, leader: str | None, now: float) -> MemberStatus:
    member, address = seat.id, guard.membership.address_of(seat.id)
    if member == config.me:
        return MemberStatus(
            id=member, address=address, voter=seat.voter, role=str(role), raft_index=engine.last_index, contact_age_s=0.0, answer_age_s=0.0
        )
    peer = guard.peers.get(member)
    age = None if peer is None or peer.heard_at == NEVER else now - peer.heard_at
    answer_age = None if peer is None or peer.answered_at == NEVER else now - peer.answered_at
    if peer is None or not peer.connected or age is None or age > _DOWN_AFTER_S:
        known = "down"
    elif member == leader:
        known = "leader"
    else:
        known = "learner" if not seat.voter or (peer.learner and engine.is_leader) else "follower"
    return MemberStatus(
        id=member,
        address=address,
        voter=seat.voter,
        role=known,
        raft_index=engine.match_index(member) if engine.is_leader else 0,
        contact_age_s=age,
        answer_age_s=answer_age,
    )
