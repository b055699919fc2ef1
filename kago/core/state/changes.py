"""What a command did: the only way state moves, and what watchers are told."""

from msgspec import Struct

from kago.core.model.cluster import Cluster, Server
from kago.core.model.deployment import Deployment
from kago.core.model.history import ChangeRecord
from kago.core.model.node import Node
from kago.core.model.pod import Pod
from kago.core.model.token import Removal, Token

Thing = Deployment | Pod | Node | Server | Cluster | Token | Removal | ChangeRecord


class Put(Struct, frozen=True):
    """`after` is now the thing; `before` is what it replaces (None: new)."""

    after: Thing
    before: Thing | None = None


class Removed(Struct, frozen=True):
    before: Thing


Change = Put | Removed
