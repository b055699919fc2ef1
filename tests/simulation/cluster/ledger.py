"""What the state may never do: judged from the entries and the changes they made, by books of our own.

The first server to apply an entry has it judged; every other one must have done the same to the same index. The books know who leads, which
life of each agent counts, where each pod was bound and why each one was told to stop, from the entries alone.
"""

from collections.abc import Callable

import msgspec
from msgspec import Struct

from kago.core.model.deployment import Deployment
from kago.core.model.node import Node, NodeStatus
from kago.core.model.pod import PHASE_ORDER, Pod
from kago.core.state import commands as c
from kago.core.state import invariants
from kago.core.state.changes import Change, Put, Removed
from kago.core.state.machine import Machine
from tests.simulation.checkers import Books
from tests.simulation.cluster.history import History
from tests.simulation.world import World

_ENTRIES = msgspec.msgpack.Decoder(c.Entry)
_FENCED = (c.CreatePods, c.StopPods, c.AssignPods, c.ExplainPods, c.MarkNodes, c.RemovePods)


class Fate(Struct):
    """What the ledger knows of a pod, for ever."""

    name: str
    node: str | None = None
    stopped_at: int | None = None
    """Index of the entry that told it to stop or removed it."""
    gone: bool = False


class Ledger(Books):
    def __init__(self, world: World, names: list[str], holds: Callable[[str, bytes], bool], history: History) -> None:
        super().__init__(world, names, holds)
        self.digests = {0: bytes.fromhex(Machine().digest)}
        self.history = history
        self.fates: dict[str, Fate] = {}
        self.epoch = 0
        self.leader = ""
        self.nodes: dict[str, tuple[str, int]] = {}
        """(agent id, incarnation) that counts, by node."""
        self.trouble_s: Callable[[str], float] = lambda node: 0.0
        """Seconds of the last lease in which a node itself could not have been heard; the nemesis knows."""
        self.trouble_needed_s = 2.0
        self._trouble_then: dict[bytes, dict[str, float]] = {}
        """When a verdict was proposed, whose entry may be committed much later and by the next leader."""
        self.has_container: Callable[[str, str], bool] = lambda node, pod_id: False
        self._entry = b""
        self._known = 0
        self._seen: dict[bytes, int] = {}

    # -- what servers report ---------------------------------------------------------------------------------------

    def proposed(self, entry: bytes, operation: str) -> None:
        self.history.proposed(entry, operation)
        if b"MarkNodes" in entry:
            self._trouble_then[entry] = {name: self.trouble_s(name) for name in self.nodes}

    def entering(self, entry: bytes) -> None:
        self._entry = entry

    def entered(self, name: str, machine: Machine, index: int, changes: tuple[Change, ...]) -> None:
        entry, first = self._entry, index not in self.entries
        self.applied(name, index, entry, bytes.fromhex(machine.digest))
        if first:
            self._judge(index, _ENTRIES.decode(entry), changes, machine)

    def _first(self, name: str, index: int, entry: bytes) -> None:
        self.entries[index] = entry
        twice = self._seen.setdefault(entry, index)
        if twice != index:
            self._world.violate("applied-twice", f"one entry at {twice} and at {index}: {entry!r:.80}")
        holders = [n for n in self._names if self._holds(n, entry)]
        if not self.is_majority(frozenset(holders)):
            self._world.violate("commit-without-majority", f"{name} applied {index}, which is on the platters of {holders} only")
        self._world.log("first", name, index, entry[:60].hex())

    def restored_tables(self, name: str, machine: Machine, index: int) -> None:
        world = self._world
        if index < self.applied_at.get(name, 0):
            world.violate("time-travel", f"{name} went from {self.applied_at[name]} back to {index}")
        self.applied_at[name] = index
        if self.digests.get(index) != bytes.fromhex(machine.digest):
            world.violate("digest", f"{name} restored a state at {index} that nobody ever had")
        for wrong in invariants.check(machine.tables):
            world.violate("invariant", f"{name} after the snapshot of {index}: {wrong}")
        world.counts["restores"] += 1
        world.log("restored", name, index)

    # -- judgement -------------------------------------------------------------------------------------------------

    def _judge(self, index: int, entry: c.Entry, changes: tuple[Change, ...], machine: Machine) -> None:
        command = entry.command
        self._world.log("entry", index, type(command).__name__, len(changes))
        self._world.counts["entries"] += 1
        for wrong in invariants.check(machine.tables):
            self._world.violate("invariant", f"after {index} ({type(command).__name__}): {wrong}")
        self._judge_authority(index, command, changes)
        for change in changes:
            thing = change.after if isinstance(change, Put) else change.before
            if isinstance(thing, Pod):
                self._judge_pod(index, command, change, machine)
            elif isinstance(thing, Node) and isinstance(change, Put):
                self._judge_node(index, command, thing, change)
        self.history.entered(index, self.entries[index], command, bool(changes))

    def _judge_node(self, index: int, command: c.AnyCommand, node: Node, change: Put) -> None:
        if isinstance(command, c.RegisterNode):
            self.nodes[node.name] = (node.id, node.incarnation)
        before = change.before
        lost = node.status is NodeStatus.UNKNOWN and not (isinstance(before, Node) and before.status is NodeStatus.UNKNOWN)
        trouble_s = self._trouble_then.get(self.entries[index], {}).get(node.name, 0.0)
        if lost and trouble_s < self.trouble_needed_s:
            self._world.violate("lost-without-cause", f"{index}: {node.name} is given up after {trouble_s:.1f} s of trouble in a lease")

    def _judge_authority(self, index: int, command: c.AnyCommand, changes: tuple[Change, ...]) -> None:
        violate = self._world.violate
        if isinstance(command, c.ClaimLeadership) and changes:
            if command.term <= self.epoch:
                violate("epoch-back", f"{index}: a claim of term {command.term} in epoch {self.epoch}")
            if self.leaders.get(command.term) != command.server:
                violate("false-claim", f"{index}: {command.server} claims term {command.term} of {self.leaders.get(command.term)}")
            self.epoch, self.leader = command.term, command.server
        if isinstance(command, _FENCED):
            if command.epoch != self.epoch:
                self._world.counts["deposed-commands"] += 1
                if changes:
                    violate("deposed-leader", f"{index}: {type(command).__name__} of epoch {command.epoch} had an effect in {self.epoch}")
        if isinstance(command, c.ReportPods):
            valid = {r.node_name for r in command.reports if self.nodes.get(r.node_name) == (r.node_id, r.incarnation)}
            for report in command.reports:
                self._world.counts["stale-reports"] += report.node_name not in valid
            for change in changes:
                pod = change.after if isinstance(change, Put) else change.before
                if isinstance(pod, Pod) and pod.node_name not in valid:
                    violate("past-incarnation", f"{index}: a report of a past life of {pod.node_name} moved pod {pod.name}")

    def _judge_pod(self, index: int, command: c.AnyCommand, change: Change, machine: Machine) -> None:
        violate = self._world.violate
        if isinstance(change, Removed):
            before = change.before
            assert isinstance(before, Pod)
            fate = self.fates[before.id]
            fate.gone = True
            if fate.stopped_at is None:
                fate.stopped_at = index
                self._judge_stop(index, command, before, machine)
            self._judge_removal(index, command, before)
            return
        after, before_put = change.after, change.before
        assert isinstance(after, Pod)
        if before_put is None:
            if after.id in self.fates:
                violate("pod-again", f"{index}: pod {after.name} was there before")
            self.fates[after.id] = Fate(name=after.name, node=after.node_name)
            return
        assert isinstance(before_put, Pod)
        fate = self.fates[after.id]
        if fate.node is None:
            fate.node = after.node_name
        elif fate.node != after.node_name:
            violate("bound-twice", f"{index}: pod {after.name} was bound to {fate.node}, now to {after.node_name}")
        if PHASE_ORDER[after.status] < PHASE_ORDER[before_put.status]:
            violate("phase-back", f"{index}: pod {after.name} from {before_put.status} to {after.status}")
        if before_put.live and not after.live:
            fate.stopped_at = index
            self._judge_stop(index, command, before_put, machine)
        if after.live and not before_put.live:
            violate("stop-undone", f"{index}: pod {after.name} is wanted again")

    def _judge_stop(self, index: int, command: c.AnyCommand, pod: Pod, machine: Machine) -> None:
        """A pod that was wanted is not any more: somebody must have wanted that, or its node be really lost."""
        deployment: Deployment | None = machine.tables.deployments.get(pod.deployment_name)
        why = ""
        match command:
            case c.DeleteDeployment(name=name) if name == pod.deployment_name:
                return
            case c.DeletePod(id=id) if id in (pod.id, pod.name):
                return
            case c.DeleteNode(name=name) if name == pod.node_name:
                return
            case c.StopPods(reason="Replaced") if deployment is not None:
                why = "" if pod.revision < deployment.revision else "it is of the newest revision"
            case c.StopPods(reason="ScaledDown") if deployment is not None:
                left = sum(one.live for one in machine.tables.pods_of_deployment(deployment.name))
                why = "" if left >= deployment.replicas else f"{deployment.replicas} are wanted and {left} left"
            case c.MarkNodes(verdicts=verdicts) if any(v.name == pod.node_name and v.status is NodeStatus.UNKNOWN for v in verdicts):
                return  # whether the node was lost with cause is judged with the node
            case _:
                why = "nobody asked for that"
        if why:
            self._world.violate("stopped-without-cause", f"{index}: {type(command).__name__} stopped pod {pod.name}: {why}")

    def _judge_removal(self, index: int, command: c.AnyCommand, pod: Pod) -> None:
        """Its agent said that nothing of it is left; that must be so."""
        if isinstance(command, c.ReportPods) and pod.node_name is not None and self.has_container(pod.node_name, pod.id):
            self._world.violate("forgotten-container", f"{index}: pod {pod.name} is called gone, but has a container on {pod.node_name}")
