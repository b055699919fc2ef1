"""The changes of one command while its handler decides them: reads see the writes before them, the tables stay as they are.

It does what no handler should have to remember: one change a thing however often it is touched, none where nothing differs, the
version on each, and the fields derived from pods (a deployment's counts, a node's `used`, `available` and `pods`), at a cost that
depends on the touched pods alone.
"""

from collections.abc import Mapping
from typing import TypeVar

from msgspec.structs import replace

from kago.core.model.cluster import Cluster, Server
from kago.core.model.deployment import Deployment
from kago.core.model.node import Node
from kago.core.model.pod import Desired, Pod, PodStatus
from kago.core.model.token import Removal, Token
from kago.core.model.validation import FieldError
from kago.core.state.changes import Change, Put, Removed
from kago.core.state.rejections import Refusal, Rejection
from kago.core.state.tables import Tables

T = TypeVar("T", Deployment, Pod, Node, Server, Token, Removal)
Amounts = tuple[int, int, int]

FINISHED = frozenset({PodStatus.SUCCEEDED, PodStatus.FAILED, PodStatus.TERMINATED})
"""A pod in one of these has no running container. Asked for membership only, never walked."""


class Draft:
    """One command's changes in the making. Handlers leave the derived fields alone."""

    def __init__(self, tables: Tables, *, at: float, index: int) -> None:
        self.tables = tables
        self.at = at
        self.index = index
        self._cluster = tables.cluster
        self._servers: dict[str, Server | None] = {}
        self._deployments: dict[str, Deployment | None] = {}
        self._nodes: dict[str, Node | None] = {}
        self._pods: dict[str, Pod | None] = {}
        self._tokens: dict[str, Token | None] = {}
        self._removals: dict[str, Removal | None] = {}

    def deployment(self, name: str) -> Deployment | None:
        return self._deployments[name] if name in self._deployments else self.tables.deployments.get(name)

    def node(self, name: str) -> Node | None:
        return self._nodes[name] if name in self._nodes else self.tables.nodes.get(name)

    def pod(self, id: str) -> Pod | None:
        return self._pods[id] if id in self._pods else self.tables.pods.get(id)

    def put_cluster(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def put_server(self, server: Server) -> None:
        self._servers[server.id] = server

    def remove_server(self, id: str) -> None:
        self._servers[id] = None

    def put_deployment(self, deployment: Deployment) -> None:
        self._deployments[deployment.name] = deployment

    def remove_deployment(self, name: str) -> None:
        self._deployments[name] = None

    def put_node(self, node: Node) -> None:
        self._nodes[node.name] = node

    def remove_node(self, name: str) -> None:
        self._nodes[name] = None

    def put_pod(self, pod: Pod) -> None:
        self._pods[pod.id] = pod

    def remove_pod(self, id: str) -> None:
        self._pods[id] = None

    def token(self, id: str) -> Token | None:
        return self._tokens[id] if id in self._tokens else self.tables.tokens.get(id)

    def put_token(self, token: Token) -> None:
        self._tokens[token.id] = token

    def remove_token(self, id: str) -> None:
        self._tokens[id] = None

    def put_removal(self, removal: Removal) -> None:
        self._removals[removal.key] = removal

    def forget_removal(self, removal: Removal) -> None:
        self._removals[removal.key] = None

    def stop_pod(self, pod: Pod, *, reason: str, message: str = "") -> bool:
        """Tell a pod to stop; whether that changed anything. Where no container can run any more it is removed at once."""
        if not pod.live:
            return False
        if pod.node_name is None or pod.status in FINISHED:
            self.remove_pod(pod.id)
        else:
            self.put_pod(replace(pod, desired=Desired.STOPPED, status=PodStatus.TERMINATING, reason=reason, message=message, ready=False))
        return True

    def changes(self) -> tuple[Change, ...]:
        """What this command does, kind by kind, each in the order it was first touched."""
        self._derive()
        tables = self.tables
        found: list[Change] = []
        if self._cluster != tables.cluster:
            found.append(Put(replace(self._cluster, version=self.index), tables.cluster))
        self._compare(self._servers, tables.servers, found)
        self._compare(self._deployments, tables.deployments, found)
        self._compare(self._nodes, tables.nodes, found)
        self._compare(self._pods, tables.pods, found)
        self._compare(self._tokens, tables.tokens, found)
        self._compare(self._removals, tables.removals, found)
        return tuple(found)

    def _compare(self, drafted: Mapping[str, T | None], known: Mapping[str, T], found: list[Change]) -> None:
        """Add to `found` where `drafted` is not as `known`."""
        for key, after in drafted.items():
            before = known.get(key)
            if after is None:
                if before is not None:
                    found.append(Removed(before))
            elif after != before:
                found.append(Put(replace(after, version=self.index), before))

    def _derive(self) -> None:
        """Give the deployments of touched pods their new counts, and their nodes and touched nodes their new use and what that leaves."""
        if not self._pods and not self._nodes:
            return
        counts, use = self._moved()
        for name, (ready, updated, total) in counts.items():
            if (ready or updated or total) and (deployment := self.deployment(name)) is not None:
                self.put_deployment(replace(
                    deployment,
                    ready_replicas=deployment.ready_replicas + ready,
                    updated_replicas=deployment.updated_replicas + updated,
                    total_replicas=deployment.total_replicas + total,
                ))
        moved = {name: sums for name, sums in use.items() if any(sums)}
        for name in [*moved, *(name for name in self._nodes if name not in moved)]:
            if (node := self.node(name)) is not None:
                cpu, memory, pods = moved.get(name, (0, 0, 0))
                used = replace(node.used, cpu_millis=node.used.cpu_millis + cpu, memory_mb=node.used.memory_mb + memory)
                self.put_node(replace(node, used=used, available=node.allocatable.minus(used), pods=node.pods + pods))

    def _moved(self) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
        """What touched pods now are minus what they were: by deployment the sums of `replicas_of`, by node CPU, memory and pods."""
        counts: dict[str, list[int]] = {}
        use: dict[str, list[int]] = {}
        revisions: dict[str, int] = {}
        known = self.tables.pods
        for id, after in self._pods.items():
            before = known.get(id)
            # What a pod is promised, and of which revision it is, never changes: most reports move nothing here.
            counted = after is None or before is None or after.ready is not before.ready or after.desired is not before.desired
            bound = after is None or before is None or after.node_name != before.node_name
            for pod, sign in ((before, -1), (after, 1)):
                if pod is None:
                    continue
                name = pod.deployment_name
                sums = counts.setdefault(name, [0, 0, 0])
                if counted:
                    if (revision := revisions.get(name)) is None:
                        deployment = self.deployment(name)
                        revision = revisions[name] = deployment.revision if deployment else 0
                    ready, updated, total = replicas_of(pod, revision)
                    sums[0] += sign * ready
                    sums[1] += sign * updated
                    sums[2] += sign * total
                if pod.node_name is not None:
                    sums = use.setdefault(pod.node_name, [0, 0, 0])
                    if bound:
                        sums[0] += sign * pod.resources.cpu_millis
                        sums[1] += sign * pod.resources.memory_mb
                        sums[2] += sign
        return counts, use


def invalid(errors: tuple[FieldError, ...]) -> Rejection:
    """The refusal of something that has these errors; the words name the first few."""
    detail = "; ".join(f"{error.pointer}: {error.detail}" for error in errors[:3]) + ("; …" if len(errors) > 3 else "")
    return Rejection(refusal=Refusal.VALIDATION, detail=detail, errors=errors)


def replicas_of(pod: Pod, revision: int) -> Amounts:
    """What `pod` adds to (ready, updated, total) replicas of its deployment, whose newest revision is given."""
    return (int(pod.ready), int(pod.revision == revision), 1) if pod.live else (0, 0, 0)
