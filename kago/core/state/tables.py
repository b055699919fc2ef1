"""All state of the cluster as tables of things, and `absorb`, the only function that changes it.

The indexes beside the tables (pods of a deployment, of a node, without a node) are derived by `absorb` alone, so they cannot
disagree with the tables and a snapshot need not hold them.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator

from kago.core.model.cluster import Cluster, Server
from kago.core.model.deployment import Deployment
from kago.core.model.history import ChangeRecord
from kago.core.model.node import Node
from kago.core.model.pod import Desired, Pod
from kago.core.model.token import Removal, Token
from kago.core.state.changes import Change, Put, Removed, Thing


class Tables:
    """The replicated state after `index` entries. Read freely; only the state machine calls `absorb`."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.index = 0
        self.deployments: dict[str, Deployment] = {}
        self.pods: dict[str, Pod] = {}
        self.nodes: dict[str, Node] = {}
        self.servers: dict[str, Server] = {}
        self.tokens: dict[str, Token] = {}
        self.removals: dict[str, Removal] = {}
        """By role/name."""
        self.history: OrderedDict[int, ChangeRecord] = OrderedDict()
        """By index: the last ones, of which the first is found at once however many before it are gone."""
        self.unplaced_ids: dict[str, None] = {}
        """Ids of live pods without a node. Its order is history's: sort by pod name before it reaches a change."""
        self._names_by_node_id: dict[str, str] = {}
        self._by_name: dict[str, Pod] = {}
        self._disordered = False
        """Whether a name was added behind those that were sorted."""
        self._ids_by_deployment: dict[str, dict[str, None]] = {}
        self._ids_by_node: dict[str, dict[str, None]] = {}

    def pod_id(self, name_or_id: str) -> str | None:
        """The id of the pod with this id or name."""
        if name_or_id in self.pods:
            return name_or_id
        named = self._by_name.get(name_or_id)
        return named.id if named is not None else None

    def holds(self, thing: Thing) -> bool:
        """Whether this very thing stands here."""
        match thing:
            case Pod(id=id):
                return self.pods.get(id) is thing
            case Deployment(name=name):
                return self.deployments.get(name) is thing
            case Node(name=name):
                return self.nodes.get(name) is thing
            case ChangeRecord(index=index):
                return self.history.get(index) is thing
        return False

    def node_name(self, node_id: str) -> str | None:
        """The name of the node with this id."""
        return self._names_by_node_id.get(node_id)

    def pods_by_name(self) -> list[Pod]:
        """All pods, sorted by name. Whoever asks again only has the names that came since put in their places."""
        if self._disordered:
            self._by_name, self._disordered = {name: self._by_name[name] for name in sorted(self._by_name)}, False
        return list(self._by_name.values())

    def pods_of_deployment(self, name: str) -> list[Pod]:
        """Its pods, the stopped ones too, sorted by name. Also of a deployment that is deleted, while they wind down."""
        return self._sorted(self._ids_by_deployment.get(name, {}))

    def live_pods(self, name: str) -> list[Pod]:
        """The pods of a deployment that count as its replicas, in the order of history: sort what of it reaches a command."""
        pods = self.pods
        return [pod for id in self._ids_by_deployment.get(name, {}) if (pod := pods[id]).desired is Desired.RUNNING]

    def pods_of_node(self, name: str) -> list[Pod]:
        """The pods bound to it, sorted by name."""
        return self._sorted(self._ids_by_node.get(name, {}))

    def spread(self) -> Iterator[tuple[str, dict[str, int]]]:
        """Each deployment that has bound pods, and how many of them each node holds."""
        pods = self.pods
        for name, ids in self._ids_by_deployment.items():
            if held := Counter([node for id in ids if (node := pods[id].node_name) is not None]):
                yield name, held

    def absorb(self, index: int, changes: Iterable[Change]) -> None:
        """Make `changes` true and `index` the last applied one."""
        for change in changes:
            if isinstance(change, Put):
                self._put(change)
            else:
                self._remove(change)
        self.index = index

    def copy(self) -> "Tables":
        """Another holder of the same (immutable) things; costs some pointers a thing."""
        other = Tables()
        other.cluster, other.index = self.cluster, self.index
        other.deployments, other.pods = self.deployments.copy(), self.pods.copy()
        other.nodes, other.servers = self.nodes.copy(), self.servers.copy()
        other.tokens, other.removals = self.tokens.copy(), self.removals.copy()
        other.history = self.history.copy()
        other._names_by_node_id = self._names_by_node_id.copy()
        other.unplaced_ids = self.unplaced_ids.copy()
        other._by_name, other._disordered = self._by_name.copy(), self._disordered
        other._ids_by_deployment = {name: ids.copy() for name, ids in self._ids_by_deployment.items()}
        other._ids_by_node = {name: ids.copy() for name, ids in self._ids_by_node.items()}
        return other

    def _sorted(self, ids: Iterable[str]) -> list[Pod]:
        return sorted([self.pods[id] for id in ids], key=lambda pod: pod.name)

    def _put(self, change: Put) -> None:
        match change.after:
            case Pod() as pod:
                self._index_pod(pod)
            case Deployment() as deployment:
                self.deployments[deployment.name] = deployment
            case Node() as node:
                self._index_node(node)
            case Server() as server:
                self.servers[server.id] = server
            case Token() as token:
                self.tokens[token.id] = token
            case Removal() as removal:
                self.removals[removal.key] = removal
            case ChangeRecord() as record:
                self.history[record.index] = record
            case Cluster() as cluster:
                self.cluster = cluster

    def _remove(self, change: Removed) -> None:
        match change.before:
            case Pod() as pod:
                self._unindex_pod(pod.id)
            case Deployment(name=name):
                del self.deployments[name]
            case Node(name=name):
                self._unindex_node(self.nodes.pop(name))
            case Server(id=id):
                del self.servers[id]
            case Token(id=id):
                del self.tokens[id]
            case Removal() as removal:
                del self.removals[removal.key]
            case ChangeRecord(index=index):
                del self.history[index]
            case Cluster():
                raise AssertionError("a cluster is never removed")

    def _index_node(self, node: Node) -> None:
        known = self.nodes.get(node.name)
        self.nodes[node.name] = node
        if known is None or known.id != node.id:
            if known is not None:
                self._unindex_node(known)
            self._names_by_node_id[node.id] = node.name

    def _unindex_node(self, node: Node) -> None:
        # One command may give its id to another name, in either order.
        if self._names_by_node_id.get(node.id) == node.name:
            del self._names_by_node_id[node.id]

    def _index_pod(self, pod: Pod) -> None:
        known = self.pods.get(pod.id)
        self.pods[pod.id] = self._by_name[pod.name] = pod
        if known is None:
            self._disordered = True
            self._ids_by_deployment.setdefault(pod.deployment_name, {})[pod.id] = None
        elif pod.node_name is not None and pod.node_name == known.node_name:
            # Most changes are of bound pods and move no index.
            return
        if pod.node_name is not None:
            self._ids_by_node.setdefault(pod.node_name, {})[pod.id] = None
        if pod.live and pod.node_name is None:
            self.unplaced_ids[pod.id] = None
        else:
            self.unplaced_ids.pop(pod.id, None)

    def _unindex_pod(self, id: str) -> None:
        pod = self.pods.pop(id)
        del self._by_name[pod.name]
        self.unplaced_ids.pop(id, None)
        _discard(self._ids_by_deployment, pod.deployment_name, id)
        if pod.node_name is not None:
            _discard(self._ids_by_node, pod.node_name, id)


def _discard(index: dict[str, dict[str, None]], key: str, id: str) -> None:
    """Take `id` out of `key`'s ids, and the key with its last one, so that forgotten names leave nothing behind."""
    ids = index[key]
    del ids[id]
    if not ids:
        del index[key]
