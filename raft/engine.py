"""The one door to PySyncObj: a typed face over a private, pinned copy of it.

PySyncObj keeps the election and the bookkeeping of the log. What it gets wrong is put right around it, in `guard.py`, by means of
seven overridden methods and eight replaced module globals, all named here and checked at import: another version, or one whose inside
looks different, is refused instead of trusted. Each replica runs its own copy of the module, so that clock, dice, journal and
serializer are its own and replicas in one process (tests, simulation) cannot touch each other.
"""

import importlib.util
import inspect
import zlib
from collections.abc import Callable, Iterable
from functools import cache
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec
from random import Random
from types import CodeType, SimpleNamespace
from typing import Any, Protocol

import pysyncobj.syncobj as stock
from pysyncobj.version import VERSION

from raft.configuration import CONFIGURATION
from raft.contract import Clock, RaftConfig
from raft.errors import LogHalted
from raft.messages import MAX_APPEND_BYTES, LogEntry

_PINNED = "0.3.17"
_OVERRIDDEN = {
    "_SyncObj__connectedToAnyone": ["self"],
    "_SyncObj__sendAppendEntries": ["self"],
    "_SyncObj__applyLogEntries": ["self"],
    "_SyncObj__doApplyCommand": ["self", "command"],
    "_SyncObj__tryLogCompaction": ["self"],
    "_SyncObj__generateRaftTimeout": ["self"],
    "_checkCommandsToApply": ["self"],
}
_CALLED = {
    "_onTick": ["self", "timeToWait"],
    "_SyncObj__onMessageReceived": ["self", "node", "message"],
    "_SyncObj__setCurrentTerm": ["self", "term", "votedForNodeId"],
    "forceLogCompaction": ["self"],
    "transferLeadership": ["self", "node", "callback"],
}
_ATTRIBUTES = [
    "raftState", "raftCurrentTerm", "votedForNodeId", "raftLeader", "raftElectionDeadline", "transferInProgress", "raftLog",
    "raftCommitIndex", "raftLastApplied", "raftNextIndex", "raftMatchIndex", "noopIDx", "newAppendEntriesTime", "selfNode",
    "otherNodes", "readonlyNodes", "connectedNodes", "lastResponseTime", "serializer", "forceLogCompaction",
]
_GLOBALS = ["monotonicTime", "random", "os", "pickle", "createJournal", "createPoller", "Serializer", "PIPE_NOTIFIER_ENABLED"]
_FOREVER = 1 << 60
REGULAR, NO_OP = b"\x00", b"\x01"
"""First byte of a command; beside these only `configuration.CONFIGURATION` is ever written or accepted."""


def check_pysyncobj() -> None:
    """Raise ImportError unless PySyncObj is the version, and looks the way, this layer was written for."""
    if VERSION != _PINNED:
        raise ImportError(f"raft was written for PySyncObj {_PINNED} and touches its inside; {VERSION} is installed")
    for name, parameters in (_OVERRIDDEN | _CALLED).items():
        method = getattr(stock.SyncObj, name, None)
        if method is None or list(inspect.signature(method).parameters) != parameters:
            raise ImportError(f"PySyncObj {VERSION}: SyncObj.{name} is not what raft expects")
    known = stock.SyncObj.__init__.__code__.co_names
    missing = [name for name in _ATTRIBUTES if f"_SyncObj__{name}" not in known] + [name for name in _GLOBALS if not hasattr(stock, name)]
    if missing:
        raise ImportError(f"PySyncObj {VERSION} lacks {', '.join(missing)}")


check_pysyncobj()


class JournalLike(Protocol):
    """What the engine and the guard need of the journal."""

    @property
    def dirty(self) -> bool: ...
    def __len__(self) -> int: ...
    def __getitem__(self, item: Any) -> Any: ...
    def add(self, command: bytes, idx: int, term: int) -> None: ...


class _Node(stock.Node):  # type: ignore[misc]
    """A peer by its id; hashed alike in every process so that one seed gives one run."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self._hash = zlib.crc32(id.encode())

    def __hash__(self) -> int:
        return self._hash


class _Outlet(stock.Transport):  # type: ignore[misc]
    """PySyncObj's transport: hands each message to the guard, which repairs it and holds it until the journal is synced."""

    def __init__(self, send: Callable[[str, dict[str, Any]], None]) -> None:
        super().__init__(None, None, [])
        self._send = send

    def send(self, node: Any, message: dict[str, Any]) -> bool:
        self._send(node.id, message)
        return True

    def destroy(self) -> None:
        """Nothing to close: the wire belongs to the replica."""


class _NoPickle:
    """Stands where PySyncObj keeps pickle: nothing is ever pickled or, worse, unpickled."""

    def __getattr__(self, name: str) -> Any:
        raise LogHalted(f"PySyncObj asked for pickle.{name}, which is never needed here")


class _NoPoller:
    def poll(self, timeout: float) -> None:
        """Sockets are the wire's."""


class Hooks(Protocol):
    """What the engine asks of the layers around it."""

    def outgoing(self, peer: str, message: dict[str, Any]) -> None:
        """PySyncObj wants to send `message`."""

    def may_campaign(self) -> bool:
        """The election deadline passed: may this replica become a candidate?"""

    def patience_s(self) -> float:
        """How much longer than drawn the leader may be silent."""

    def send_log(self) -> None:
        """Send every peer what it lacks, or a heartbeat."""

    def apply(self, command: bytes) -> None:
        """Apply one committed command (without its type byte)."""

    def configured(self, index: int) -> None:
        """The configuration that stands at `index` is committed."""


class Engine:
    """One PySyncObj object and the parts of its inside that the guard reads and writes."""

    def __init__(self, config: RaftConfig, hooks: Hooks, *, journal: JournalLike, serializer: Any, clock: Clock, random: Random) -> None:
        module = _private_copy()
        module.monotonicTime = clock.monotonic
        module.random = random
        module.pickle = _NoPickle()
        module.os = SimpleNamespace(path=SimpleNamespace(isfile=lambda path: serializer.exists()))
        module.createPoller = lambda kind: _NoPoller()
        module.createJournal = lambda path: journal
        module.Serializer = lambda *args: serializer
        module.PIPE_NOTIFIER_ENABLED = False
        self.journal = journal
        self._nodes: dict[str, Any] = {}

        def apply_command(so: Any, command: bytes) -> None:
            if command[:1] == REGULAR:
                hooks.apply(command[1:])
            elif command[:1] == CONFIGURATION:
                hooks.configured(self.applied_index + 1)
            elif command[:1] != NO_OP:
                raise LogHalted(f"log entry {self.applied_index + 1} is of unknown kind {command[:1]!r}")

        guarded = type(
            "GuardedSyncObj",
            (module.SyncObj,),
            {
                "_SyncObj__applyLogEntries": lambda so: self._apply(config.apply_s),
                "_SyncObj__doApplyCommand": apply_command,
                "_SyncObj__connectedToAnyone": lambda so: hooks.may_campaign(),
                "_SyncObj__generateRaftTimeout": lambda so: module.SyncObj._SyncObj__generateRaftTimeout(so) + hooks.patience_s(),
                "_SyncObj__sendAppendEntries": lambda so: self._send_log(hooks),
                # A tick looks for what never comes: commands go into the log by `append`, compaction begins by `compact`.
                "_checkCommandsToApply": lambda so: None,
                "_SyncObj__tryLogCompaction": lambda so: self._compact(module.SyncObj, serializer),
            },
        )
        conf = module.SyncObjConf(
            autoTick=False,
            raftMinTimeout=config.election_min_s, raftMaxTimeout=config.election_max_s,
            appendEntriesPeriod=config.heartbeat_s,
            leaderFallbackTimeout=config.leader_fallback_s,
            connectionTimeout=max(3.5, config.election_max_s),
            commandsWaitLeader=False,
            appendEntriesUseBatch=True,
            appendEntriesBatchSizeBytes=MAX_APPEND_BYTES,
            logCompactionMinEntries=_FOREVER, logCompactionMinTime=_FOREVER,
            dynamicMembershipChange=False,
            fullDumpFile="snapshot", journalFile="journal",
            serializer=_unused, deserializer=_unused,
        )
        self._so: Any = None
        self._put_off = False
        self._heartbeat_s = config.heartbeat_s
        self._clock = clock
        self._so = guarded(_Node(config.me), [], conf, nodeClass=_Node, transport=_Outlet(hooks.outgoing))

    def _send_log(self, hooks: Hooks) -> None:
        self._so._SyncObj__newAppendEntriesTime = self._clock.monotonic() + self._heartbeat_s
        hooks.send_log()

    def _apply(self, seconds: float) -> bool:
        """PySyncObj's own goes on until everything is applied, and neither hears nor sends anything meanwhile.

        Whoever has just been given entries first makes them durable and says so; not twice in a row, or it might never apply any."""
        so, ends = self._so, self._clock.monotonic() + seconds
        self._put_off = self.journal.dirty and not self._put_off and self.unapplied > 0
        while not self._put_off and self.unapplied > 0:
            so._SyncObj__doApplyCommand(self.journal[self.applied_index + 1 - self.first_index][0])
            so._SyncObj__raftLastApplied += 1
            if self._clock.monotonic() >= ends:
                break
        return False  # no reason for a message

    # -- driving it ------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        self._so._onTick(0.0)

    def deliver(self, peer: str, message: dict[str, Any]) -> None:
        self._so._SyncObj__onMessageReceived(self._node(peer), message)

    def send_log(self) -> None:
        """A round of AppendEntries now; as heartbeat where nothing is missing."""
        self._so._SyncObj__sendAppendEntries()

    def append(self, payload: bytes, *, kind: bytes = REGULAR) -> int:
        """Put an entry into the leader's log; its index."""
        index = self.last_index + 1
        self.journal.add(kind + payload, index, self.term)
        return index

    def set_connected(self, peer: str, connected: bool) -> None:
        (self._so._SyncObj__connectedNodes.add if connected else self._so._SyncObj__connectedNodes.discard)(self._node(peer))

    def set_members(self, other_voters: Iterable[str], learners: Iterable[str]) -> None:
        """Who besides this replica is counted, and who only receives; from now on."""
        so, now = self._so, self._clock.monotonic()
        end = self.last_index + 1 if len(self.journal) else 1  # It is empty for a moment while a snapshot is installed.
        so._SyncObj__otherNodes = {self._node(id) for id in sorted(other_voters)}
        so._SyncObj__readonlyNodes = {self._node(id) for id in sorted(learners)}
        for node in so._SyncObj__otherNodes | so._SyncObj__readonlyNodes:
            so._SyncObj__raftNextIndex.setdefault(node, end)
            so._SyncObj__raftMatchIndex.setdefault(node, 0)
            so._SyncObj__lastResponseTime.setdefault(node, now)

    def _node(self, id: str) -> Any:
        node = self._nodes.get(id)
        if node is None:
            node = self._nodes[id] = _Node(id)
        return node

    def compact(self) -> None:
        """Start a snapshot at the next tick and drop the log before it once it is durable."""
        self._so.forceLogCompaction()

    def _compact(self, stock_object: Any, serializer: Any) -> None:
        if self._so._SyncObj__forceLogCompaction or serializer.busy:
            stock_object._SyncObj__tryLogCompaction(self._so)

    def hand_over(self, peer: str) -> None:
        """Ask `peer`, which must hold the whole log, to campaign at once."""
        self._so.transferLeadership(self._node(peer))

    # -- what it knows ---------------------------------------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        return bool(self._so._SyncObj__raftState == 2)

    @property
    def is_candidate(self) -> bool:
        return bool(self._so._SyncObj__raftState == 1)

    @property
    def leader(self) -> str | None:
        node = self._so._SyncObj__raftLeader
        return None if node is None else str(node.id)

    @property
    def term(self) -> int:
        return int(self._so._SyncObj__raftCurrentTerm)

    @property
    def commit_index(self) -> int:
        return int(self._so._SyncObj__raftCommitIndex)

    @property
    def applied_index(self) -> int:
        return 1 if self._so is None else int(self._so._SyncObj__raftLastApplied)

    @property
    def unapplied(self) -> int:
        """Entries that are committed, and here, and not applied yet."""
        return min(self.commit_index, self.last_index) - self.applied_index

    @property
    def first_index(self) -> int:
        return int(self.journal[0][1])

    @property
    def last_index(self) -> int:
        return int(self.journal[-1][1])

    @property
    def last_term(self) -> int:
        return int(self.journal[-1][2])

    def term_at(self, index: int) -> int:
        """Term of an entry that is in the journal."""
        return int(self.journal[index - self.first_index][2])

    def entries_from(self, index: int, max_bytes: int) -> list[LogEntry]:
        """Entries from `index` on, at least one if there is one, then as many as fit."""
        start, size, end = index - self.first_index, 0, index - self.first_index
        length = len(self.journal)
        while end < length:
            size += len(self.journal[end][0]) + 24
            if size > max_bytes and end > start:
                break
            end += 1
        return list(self.journal[start:end])

    @property
    def leads_own_term(self) -> bool:
        """Leader whose own no-op is committed: only then is its commit index that of the cluster."""
        noop = self._so._SyncObj__noopIDx
        return self.is_leader and noop is not None and self.commit_index >= noop

    def match_index(self, peer: str) -> int:
        return int(self._so._SyncObj__raftMatchIndex.get(self._node(peer), 0))

    def forget_match(self, peer: str) -> None:
        """The peer lost its disk: what it acknowledged before counts no longer."""
        if self._node(peer) in self._so._SyncObj__raftMatchIndex:
            self._so._SyncObj__raftMatchIndex[self._node(peer)] = 0

    def next_index(self, peer: str) -> int:
        return int(self._so._SyncObj__raftNextIndex[self._node(peer)])

    def set_next_index(self, peer: str, index: int) -> None:
        self._so._SyncObj__raftNextIndex[self._node(peer)] = index

    @property
    def handing_over(self) -> bool:
        """The leader asked this replica to take over: campaign without asking around first."""
        return bool(self._so._SyncObj__transferInProgress)

    @property
    def election_deadline(self) -> float:
        return float(self._so._SyncObj__raftElectionDeadline)

    @election_deadline.setter
    def election_deadline(self, at: float) -> None:
        self._so._SyncObj__raftElectionDeadline = at

    def postpone_election(self) -> None:
        self._so._SyncObj__raftElectionDeadline = self._clock.monotonic() + self._so._SyncObj__generateRaftTimeout()

    @property
    def heartbeat_due(self) -> float:
        return float(self._so._SyncObj__newAppendEntriesTime)

    def record_vote(self, peer: str) -> None:
        """Count as having voted for `peer` in this term, whatever was forgotten with a lost disk."""
        self._so._SyncObj__setCurrentTerm(self.term, peer)


def _private_copy() -> Any:
    spec, code = _stock_module()
    module = importlib.util.module_from_spec(spec)
    exec(code, module.__dict__)
    return module


@cache
def _stock_module() -> tuple[ModuleSpec, CodeType]:
    spec = importlib.util.find_spec("pysyncobj.syncobj")
    code = spec.loader.get_code(spec.name) if spec is not None and isinstance(spec.loader, InspectLoader) else None
    if spec is None or code is None:
        raise ImportError("pysyncobj.syncobj cannot be loaded")
    return spec, code


def _unused(*args: Any) -> None:
    raise LogHalted("PySyncObj's own dump code was entered")
