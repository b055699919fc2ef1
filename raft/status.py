"""What a replica can say about itself and the others without asking anybody."""

from raft.contract import LogStatus, MemberStatus, RaftConfig, Role
from raft.engine import Engine
from raft.guard import Guard
from raft.pipeline import NEVER
from raft.replies import Replies

_DOWN_AFTER_S = 3.0


def status_of(config: RaftConfig, engine: Engine, guard: Guard, replies: Replies, now: float) -> LogStatus:
    role = Role.LEARNER if guard.learner else Role.LEADER if engine.is_leader else Role.CANDIDATE if engine.is_candidate else Role.FOLLOWER
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
        caught_up=caught_up,
        members=tuple(_member(member, config, engine, guard, role, leader, now) for member in sorted(config.members)),
    )


def _member(member: str, config: RaftConfig, engine: Engine, guard: Guard, role: Role, leader: str | None, now: float) -> MemberStatus:
    if member == config.me:
        return MemberStatus(id=member, role=str(role), raft_index=engine.last_index, contact_age_s=0.0)
    peer = guard.peers[member]
    age = None if peer.heard_at == NEVER else now - peer.heard_at
    if not peer.connected or age is None or age > _DOWN_AFTER_S:
        known = "down"
    elif member == leader:
        known = "leader"
    else:
        known = "learner" if peer.learner and engine.is_leader else "follower"
    return MemberStatus(id=member, role=known, raft_index=engine.match_index(member) if engine.is_leader else 0, contact_age_s=age)
