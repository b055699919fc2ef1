"""Bugs planted from outside, each for the length of a run: what the simulation must find, or it would not find their like.

Each is a mistake somebody could make, or had made before the simulation found it. Production code has no switch for any of them.
"""

from contextlib import AbstractContextManager, nullcontext

from kago.agent import report as agent_report
from kago.agent.masters import Masters
from kago.agent.worker import Worker
from kago.client.client import Client
from kago.client.walk import Walker
from kago.core.state import commands as c
from kago.core.state import machine as state_machine
from kago.core.state.handlers import pods as pod_handlers
from kago.core.state.handlers import reports as report_handlers
from kago.core.state.snapshot import Snapshot
from kago.server.app import Server
from kago.server.feed import Feed
from kago.server.leader import Leader
from kago.server.leases import Leases
from kago.server.routes import nodes as node_routes
from kago.server.routes import writes
from kago.server.store import Store
from raft import journal
from raft.applier import Applier
from raft.journal import Journal
from raft.member import Member
from tests.simulation import mistakes
from tests.simulation.cluster.engine import Engine
from tests.simulation.cluster.notes import System
from tests.simulation.planting import Plant, count, patch, together


def planted(name: str) -> AbstractContextManager[None]:
    """The bug of that name; none for the empty one."""
    count.calls = 0
    return PLANTS[name].plant() if name else nullcontext()


PLANTS: dict[str, Plant] = {
    "early-ack": Plant(
        what="messages and answers leave before the sync they rest on",
        profile="power",
        plant=patch(Member, step=mistakes.flush_before_sync),
        seed=2,
    ),
    "vote-not-kept": Plant(
        what="term and vote are not written to the journal",
        profile="power",
        plant=patch(Journal, setCurrentTerm=mistakes.remember_vote_only),
        rare=True,
    ),
    "torn-accepted": Plant(
        what="records of the journal are not checked against their checksum",
        profile="disk",
        plant=patch(journal, _checksum=lambda payload, offset: 0),
    ),
    "replies-lost": Plant(
        what="the table of replies does not survive a snapshot",
        profile="kill",
        plant=patch(Applier, restore=mistakes.restore_without_replies),
    ),
    "snapshot-tail": Plant(
        what="a snapshot lacks its last pod",
        profile="cluster-servers",
        plant=patch(Snapshot, __init__=mistakes.snapshot_without_last),
    ),
    "local-clock": Plant(
        what="a handler asks its own clock",
        profile="cluster-calm",
        plant=patch(state_machine, decide=mistakes.by_local_clock),
    ),
    "old-epoch": Plant(
        what="commands of a deposed leader are obeyed",
        profile="cluster-leaders",
        plant=patch(state_machine, _FENCED=()),
        seed=11,
    ),
    "bound-twice": Plant(
        what="the pods of a lost node are bound again instead of replaced",
        profile="cluster-nodes",
        plant=patch(state_machine, _HANDLERS=state_machine._HANDLERS | {c.MarkNodes: mistakes.bind_again}),
    ),
    "past-life": Plant(
        what="a late report of an agent's past life is believed",
        profile="cluster-nodes",
        plant=together(patch(report_handlers, _sender=mistakes.any_life), patch(node_routes, _take=mistakes.take_any_life)),
        rare=True,
    ),
    "stale-stop": Plant(
        what="a decision to stop a surplus pod is not checked again",
        profile="cluster-net",
        plant=patch(pod_handlers, _stale_stop=lambda draft, command: None),
    ),
    "stale-read": Plant(
        what="a read is answered without asking whether the leader still leads",
        profile="cluster-net",
        plant=patch(Store, catch_up=mistakes.read_at_once),
    ),
    "no-grace": Plant(
        what="a new leader counts the silence before its time",
        profile="cluster-servers",
        plant=patch(Leases, gained=mistakes.no_grace),
    ),
    "key-forgotten": Plant(
        what="an Idempotency-Key is forgotten",
        profile="cluster",
        plant=patch(writes, request_id=mistakes.own_key),
    ),
    "missed-event": Plant(
        what="a watch that resumes begins with what happens from now on",
        profile="cluster-net",
        plant=patch(Feed, subscribe=mistakes.from_now_on),
    ),
    "deaf-follower": Plant(
        what="a server that does not hear the leader goes on taking heartbeats",
        profile="cluster-net",
        plant=patch(node_routes, _take=mistakes.take_deaf),
    ),
    "stale-view": Plant(
        what="an agent believes whatever view a master has",
        profile="cluster-views",
        plant=together(patch(Masters, _take_over=mistakes.believe), patch(Client, watch=mistakes.watch_stale)),
    ),
    "end-is-gone": Plant(
        what="a container that ended counts as a pod that is gone",
        profile="cluster-nodes",
        plant=patch(agent_report, _report=mistakes.end_is_gone),
    ),
    "told-is-gone": Plant(
        what="a pod told to stop is called gone before its container is",
        profile="cluster-calm",
        plant=patch(agent_report, _report=mistakes.told_is_gone),
    ),
    "silent-engine": Plant(
        what="an engine that gives no answer is taken for an empty one",
        profile="cluster-nodes",
        plant=patch(Worker, _look_at=mistakes.silence_is_empty),
    ),
    "started-twice": Plant(
        what="an agent that was restarted starts its pods again beside what runs",
        profile="cluster-nodes",
        plant=together(patch(Worker, _look_at=mistakes.blind_at_first), patch(Engine, run=mistakes.always_new)),
    ),
    "notes-unsynced": Plant(
        what="an agent's notes take the old ones' place without being synced",
        profile="cluster-power",
        plant=patch(System, sync_file=lambda self, platter, inode: None),
    ),
    "rename-unsynced": Plant(
        what="the directory is not synced after the notes were renamed",
        profile="cluster-power",
        plant=patch(System, sync_directory=lambda self, platter: None),
    ),
    "noted-later": Plant(
        what="an agent acts on what it has not noted yet",
        profile="cluster-power",
        plant=patch(Worker, save=mistakes.note_later),
        seed=6,
    ),
    "removed-stays": Plant(
        what="a server that was removed goes on as if it were not",
        profile="cluster-members",
        plant=patch(Member, handshake_refused=mistakes.mind_no_removal),
    ),
    "gone-kept": Plant(
        what="servers that were removed stay in the list that clients and agents are told",
        profile="cluster-members",
        plant=patch(Leader, _gone_servers=lambda self, status: []),
    ),
    "moved-unsaid": Plant(
        what="a server that moved does not say where its API is now",
        profile="cluster-members",
        plant=patch(Server, _announce=mistakes.announce_once),
    ),
    "masters-unlearnt": Plant(
        what="an agent does not learn of new servers",
        profile="cluster-members",
        plant=patch(Masters, _learn=mistakes.learn_nobody),
    ),
    "servers-unlearnt": Plant(
        what="a client does not learn of new servers",
        profile="cluster-members",
        plant=patch(Walker, _note_servers=lambda self, answer: None),
    ),
    "no-key": Plant(
        what="the client repeats writes without a key",
        profile="cluster-net",
        plant=patch(Walker, call=mistakes.call_without_key),
    ),
}
