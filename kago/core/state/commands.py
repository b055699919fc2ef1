"""Everything that can be asked of the replicated state, as one tagged union, and the entry that carries it.

New fields always have defaults and new commands new tags, so that an old entry can be read for ever. The other way round an old server
must never meet what it would misread: each command says which schema it needs, it is refused until the cluster's schema (raised by the
leader when every server announces it) is that high, and a server that meets a higher schema than its own halts.

When you add a command, or give one a field that a server of an earlier release would miss: raise SCHEMA_VERSION if a release with the
present one went out, and say so in `since` or `needs`. What is kept in the state follows the same rule: a new field of a thing is UNSET
(and so not encoded) until then, and a handler that decides otherwise than before asks `Cluster.schema_version` first.
"""

from typing import ClassVar

from msgspec import Struct

from kago.core.model.deployment import DeploymentPatch, DeploymentSpec
from kago.core.model.node import NodeStatus
from kago.core.model.report import PodReport, Registration
from kago.core.model.token import NewToken, Token, TokenRole

SCHEMA_VERSION = 2
"""The highest schema this program understands; 1 is that of the first release."""

MAX_PODS_PER_COMMAND = 500
"""Pods that one command creates, stops, binds or removes; keeps an entry far below the log's limit."""


class Command(Struct, frozen=True, kw_only=True, tag=True):
    """Base of the union; never logged itself."""

    since: ClassVar[int] = 1
    """The schema that brought it."""

    def needs(self) -> int:
        """The lowest schema a server must know to do with this command what is meant."""
        return type(self).since


# -- users ---------------------------------------------------------------------------------------------------------


class CreateDeployment(Command, frozen=True, kw_only=True):
    spec: DeploymentSpec


class UpdateDeployment(Command, frozen=True, kw_only=True):
    """Change what `patch` names; a changed template is a new revision."""

    name: str
    patch: DeploymentPatch
    if_match: int | None = None
    """Refuse unless the deployment's `spec_version` is this."""


class DeleteDeployment(Command, frozen=True, kw_only=True):
    """Remove it at once; its pods are told to stop by the same entry."""

    name: str
    if_match: int | None = None


class DeletePod(Command, frozen=True, kw_only=True):
    """Stop this pod; its deployment makes another one."""

    id: str


class DeleteNode(Command, frozen=True, kw_only=True):
    """Forget a node and its pods. Refused while it is ready unless `force`."""

    name: str
    force: bool = False
    ban: bool = False
    """It was a decision: the certificates of this name count no more."""

    def needs(self) -> int:
        return 2 if self.ban else 1


class CreateToken(Command, frozen=True, kw_only=True):
    since = 2
    token: NewToken


class RevokeToken(Command, frozen=True, kw_only=True):
    since = 2
    id: str


class NoteChange(Command, frozen=True, kw_only=True):
    """Something a user did that the state does not show: the members of the log change in the log's own way."""

    since = 2
    verb: str
    name: str
    """TYPE/NAME."""
    summary: str = ""


# -- servers and agents --------------------------------------------------------------------------------------------


class RegisterServer(Command, frozen=True, kw_only=True):
    id: str
    api: str
    software_version: str = ""


class RegisterNode(Command, frozen=True, kw_only=True):
    """A new node, a known one with a new incarnation, or (new id, same name, old one not ready) its replacement."""

    registration: Registration


class NodeReport(Struct, frozen=True, kw_only=True):
    node_name: str
    node_id: str
    incarnation: int
    pods: tuple[PodReport, ...]


class ReportPods(Command, frozen=True, kw_only=True):
    """Reports of any number of nodes; each pod's forward only, those that do not apply are passed over and named in nothing."""

    reports: tuple[NodeReport, ...]


class AdoptTokens(Command, frozen=True, kw_only=True):
    """The tokens made before there was a log; does nothing but the first time for each CA, and ends those of another."""

    since = 2
    authority: str
    """Id of the CA they were made beside."""
    tokens: tuple[Token, ...]


class SpendToken(Command, frozen=True, kw_only=True):
    """Somebody showed the token's secret and joins."""

    since = 2
    id: str
    role: TokenRole
    spender: str
    """role/name and key of who joins: asking again with the same key spends nothing more."""


# -- the leader: refused unless `epoch` is the cluster's present one -----------------------------------------------


class ClaimLeadership(Command, frozen=True, kw_only=True):
    """The new leader's first entry: epoch becomes `term` (refused if not greater), its server the leader."""

    server: str
    term: int
    cluster_id: str
    """Taken as the cluster's id by the very first claim only."""
    schema: int = 1
    """Of a cluster that is just being born; later ones are raised by `RaiseSchema`."""

    def needs(self) -> int:
        return self.schema


class RaiseSchema(Command, frozen=True, kw_only=True):
    """From now on every server understands `schema`. Refused while one has announced less."""

    since: ClassVar[int] = 2
    epoch: int
    schema: int

    def needs(self) -> int:
        return self.schema


class RemoveServer(Command, frozen=True, kw_only=True):
    """Forget a server that is no member of the log any more, so that agents and clients do too."""

    since = 2
    epoch: int
    id: str


class CreatePods(Command, frozen=True, kw_only=True):
    epoch: int
    deployment_name: str
    revision: int
    """Refused when the deployment has another one by now."""
    total_replicas: int
    """The live pods the decision counted; refused when there are more or fewer by now."""
    count: int


class StopPods(Command, frozen=True, kw_only=True):
    """Set desired to stopped. One without a node is removed at once."""

    epoch: int
    ids: tuple[str, ...]
    reason: str
    message: str = ""
    deployment_name: str = ""
    """Whose pods they are, from schema 2 on. Refused unless all of the following is still as the decision saw it."""
    spec_version: int = 0
    total_replicas: int = 0
    ready_replicas: int = 0
    """More may be ready by now, but not fewer."""

    def needs(self) -> int:
        return 2 if self.deployment_name else 1


class Assignment(Struct, frozen=True, kw_only=True):
    pod_id: str
    node_name: str


class AssignPods(Command, frozen=True, kw_only=True):
    """Bind pods. Each is checked again: pending, unbound, wanted, node ready with room; those that fail are passed over."""

    epoch: int
    assignments: tuple[Assignment, ...]


class Unplaced(Struct, frozen=True, kw_only=True):
    pod_id: str
    reason: str
    message: str


class ExplainPods(Command, frozen=True, kw_only=True):
    """Say on pending pods why they have no node."""

    epoch: int
    pods: tuple[Unplaced, ...]


class NodeVerdict(Struct, frozen=True, kw_only=True):
    name: str
    id: str
    incarnation: int
    """The verdict is about this life of the agent; passed over when it has registered anew since."""
    status: NodeStatus
    reason: str = ""


class MarkNodes(Command, frozen=True, kw_only=True):
    """Node down, node back. A node that becomes unknown has its pods told to stop (reason NodeLost) by the same entry."""

    epoch: int
    verdicts: tuple[NodeVerdict, ...]


class RemovePods(Command, frozen=True, kw_only=True):
    """Forget pods that are finished."""

    epoch: int
    ids: tuple[str, ...]


AnyCommand = (
    CreateDeployment | UpdateDeployment | DeleteDeployment | DeletePod | DeleteNode | RegisterServer | RegisterNode | ReportPods
    | ClaimLeadership | CreatePods | StopPods | AssignPods | ExplainPods | MarkNodes | RemovePods
    | RemoveServer | RaiseSchema
    | CreateToken | RevokeToken | AdoptTokens | SpendToken
    | NoteChange
)


class Entry(Struct, frozen=True, kw_only=True):
    """One proposal as it stands in the log (msgpack)."""

    command: AnyCommand
    at: float
    """Seconds since the epoch, stamped by the proposing server; the only time a handler sees."""
    schema: int = 1
    """What its command needs; a server that knows less halts."""
    fingerprint: str = ""
    """Of the request body behind an Idempotency-Key; comes back in the reply, so that reuse of the key for another body is noticed."""
    actor: str = ""
    """Who asked for it, where that was a user: for the history only."""
    source: str = ""
    """And from which address."""
