"""What a command did: the only way state moves, and what watchers are told.

Neither these nor the things of the state (`gc=False`) are looked through by Python's search for cycles, of which they have none: among
150,000 pods it would take longer than the servers may be silent.
"""

from msgspec import Struct

from kago.core.model.cluster import Cluster, Server
from kago.core.model.deployment import Deployment
from kago.core.model.history import ChangeRecord
from kago.core.model.node import Node
from kago.core.model.pod import Pod
from kago.core.model.token import Removal, Token

Thing = Deployment | Pod | Node | Server | Cluster | Token | Removal | ChangeRecord


class Put(Struct, gc=False, frozen=True):
    """`after` is now the thing; `before` is what it replaces (None: new)."""

    after: Thing
    before: Thing | None = None


class Removed(Struct, gc=False, frozen=True):
    before: Thing


Change = Put | Removed
