"""What may never happen to a container: judged from what the engines did, against the assignments in the ledger.

The only causes that a container stops for are its own end and an agent's removal of a pod that the state does not want any more.
"""

from kago.core.model.pod import Pod
from tests.simulation.cluster.ledger import Ledger
from tests.simulation.world import World


class Harbour:
    """`agent.Auditor`."""

    def __init__(self, world: World, ledger: Ledger) -> None:
        self._world = world
        self._ledger = ledger
        self.held: dict[str, dict[str, str]] = {}
        """By pod id: the containers there are, running or not, and the node of each."""
        self._running: dict[str, str] = {}
        """Pod id of each container that runs."""
        self._removed: dict[str, str] = {}
        """Pods of which an agent removed a container, and where."""

    def will_start(self, node: str, pod: Pod, seen_index: int) -> None:
        fate = self._ledger.fates.get(pod.id)
        if fate is not None and fate.stopped_at is not None and fate.stopped_at < seen_index:
            self._world.violate("started-after-stop", f"{node} starts {pod.name}, stopped at {fate.stopped_at}, having seen {seen_index}")

    def notes_restored(self, node: str) -> None:
        """Cut off from all servers it may run again what it has removed since; `will_start` sees to it that only then."""
        self._removed = {pod_id: at for pod_id, at in self._removed.items() if at != node}

    def started(self, node: str, pod_id: str, ref: str) -> None:
        world, fate = self._world, self._ledger.fates.get(pod_id)
        name = fate.name if fate is not None else pod_id
        if fate is None or fate.node != node:
            world.violate("not-assigned", f"{node} runs {name}, which is bound to {fate.node if fate is not None else None}")
        others = {one: at for one, at in self.held.get(pod_id, {}).items() if one != ref}
        if any(at != node for at in others.values()):
            world.violate("on-two-nodes", f"{name} runs on {node} and {sorted(others.values())}")
        elif others:
            world.violate("two-containers", f"{name} has {ref} and {sorted(others)} on {node}")
        if pod_id in self._removed:
            world.violate("started-after-removal", f"{node} runs {name} again, whose container its agent had removed")
        self.held.setdefault(pod_id, {})[ref] = node
        self._running[ref] = pod_id

    def ended(self, node: str, pod_id: str, ref: str) -> None:
        self._running.pop(ref, None)

    def removed(self, node: str, pod_id: str, ref: str) -> None:
        fate = self._ledger.fates.get(pod_id)
        if fate is None or fate.stopped_at is None:
            name = fate.name if fate is not None else pod_id
            self._world.violate("removed-without-cause", f"{node} removed {ref} of pod {name}, which is wanted")
        containers = self.held.get(pod_id, {})
        containers.pop(ref, None)
        if not containers:
            self.held.pop(pod_id, None)
        self._running.pop(ref, None)
        self._removed[pod_id] = node

    def has_container(self, node: str, pod_id: str) -> bool:
        return node in self.held.get(pod_id, {}).values()
