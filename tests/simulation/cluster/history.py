"""What users asked and were told, against a model of the deployments that is played from the log's entries.

Every answer carries an index, so linearizability needs no search: an answer may not reflect less than what anybody knew when it was asked
for, and must say exactly what the model says at its index.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator

from msgspec import UNSET, Struct

from kago.core.state import commands as c
from tests.linearizability import Call, Kind, Value, check_by_index, check_general
from tests.simulation.world import World

NAMES = ("api", "web", "job", "db")
"""Of all deployments there ever are."""
MAX_STEPS = 20_000
Shape = tuple[int, str]
"""(replicas, image) of a deployment."""


class Operation(Struct, kw_only=True):
    """One call of a user. `name` is the deployment's or pod's."""

    id: str
    user: str
    kind: str
    """create, update, delete, delete-pod, get or list."""
    name: str = ""
    began: float
    floor: int
    """Highest index anybody had been told when it began."""
    ended: float | None = None
    outcome: str = ""
    """ok, refused (for certain not done), unknown."""
    index: int | None = None
    detail: str = ""
    sent: Shape | None = None
    """What a write asked for; -1 and "" stand for what it left as it was."""
    found: dict[str, Shape] = {}
    """What a read was told."""
    entries: dict[int, bool] = {}
    """Entries it led to: index -> whether that changed anything."""


class History:
    def __init__(self, world: World) -> None:
        self._world = world
        self.operations: dict[str, Operation] = {}
        self.known = 0
        self.outcomes: Counter[str] = Counter()
        self._of_entry: dict[bytes, str] = {}
        self._shapes: dict[str, list[tuple[int, Shape | None]]] = {}
        """By deployment: what it became at which index."""
        self.acknowledged = 0
        self.worst_gap_s = 0.0
        self._last_ack = 0.0

    # -- what servers do -------------------------------------------------------------------------------------------

    def proposed(self, entry: bytes, operation: str) -> None:
        if operation:
            self._of_entry[entry] = operation

    def entered(self, index: int, entry: bytes, command: c.AnyCommand, changed: bool) -> None:
        self._play(index, command)
        operation = self.operations.get(self._of_entry.get(entry, ""))
        if operation is None:
            return
        operation.entries[index] = changed
        effects = [at for at, had in operation.entries.items() if had]
        if changed and len(effects) > 1:
            self._world.violate("done-twice", f"{operation.kind} {operation.name} ({operation.id}) had an effect at {effects}")
        if changed and operation.outcome == "refused":
            self._world.violate("refused-but-done", f"{operation.id} was refused ({operation.detail}) and had an effect at {index}")

    def _play(self, index: int, command: c.AnyCommand) -> None:
        match command:
            case c.CreateDeployment(spec=spec) if self.shape(spec.name) is None:
                self._put(index, spec.name, (spec.replicas, spec.image))
            case c.UpdateDeployment(name=name, patch=patch) if (now := self.shape(name)) is not None:
                replicas = now[0] if patch.replicas is UNSET else patch.replicas
                image = now[1] if patch.image is UNSET else patch.image
                assert isinstance(replicas, int) and isinstance(image, str)
                self._put(index, name, (replicas, image))
            case c.DeleteDeployment(name=name) if self.shape(name) is not None:
                self._put(index, name, None)

    def _put(self, index: int, name: str, shape: Shape | None) -> None:
        self._shapes.setdefault(name, []).append((index, shape))

    def shape(self, name: str, at: int | None = None) -> Shape | None:
        """What the deployment is at an index, or now; None: there is none."""
        versions = self._shapes.get(name, [])
        place = len(versions) if at is None else bisect_right(versions, at, key=lambda version: version[0])
        return versions[place - 1][1] if place else None

    def all(self, at: int | None = None) -> dict[str, Shape]:
        found = {name: self.shape(name, at) for name in sorted(self._shapes)}
        return {name: shape for name, shape in found.items() if shape is not None}

    # -- what users do ---------------------------------------------------------------------------------------------

    def begin(self, user: str, kind: str, name: str = "", sent: Shape | None = None) -> Operation:
        operation = Operation(
            id=f"{user}.{len(self.operations)}", user=user, kind=kind, name=name, began=self._world.now, floor=self.known, sent=sent
        )
        self.operations[operation.id] = operation
        return operation

    def unknown(self, operation: Operation, detail: str) -> None:
        self._end(operation, "unknown", None, detail)

    def refused(self, operation: Operation, index: int | None, detail: str) -> None:
        """With an answer that says no: nothing of it may ever be seen."""
        self._end(operation, "refused", index, detail)
        effects = [at for at, changed in operation.entries.items() if changed]
        if effects:
            self._world.violate("refused-but-done", f"{operation.id} {operation.kind} was refused ({detail}), with an effect at {effects}")

    def written(self, operation: Operation, index: int | None) -> None:
        self._end(operation, "ok", index, "")
        world = self._world
        self.acknowledged += 1
        self.worst_gap_s = max(self.worst_gap_s, world.now - self._last_ack)
        self._last_ack = world.now
        entries = [at for at in operation.entries if index is not None and at <= index]
        if not entries and operation.kind.startswith("delete") and not operation.entries:
            # An attempt was lost, and the next one found nothing to delete: somebody else, or that attempt's twin, was first.
            if operation.kind == "delete" and self.shape(operation.name, index) is not None:
                world.violate("not-deleted", f"{operation.id}: {operation.name} is there at {index}")
        elif not entries:
            world.violate("acknowledged-nowhere", f"{operation.id} {operation.kind} {operation.name} was acknowledged at {index} only")
        elif max(entries) <= operation.floor:
            world.violate("write-order", f"{operation.id} is at {entries}, but {operation.floor} was known before it began")

    def got(self, operation: Operation, index: int | None, found: dict[str, Shape]) -> None:
        """A read's answer: the deployment asked for, or all."""
        operation.found = found
        self._end(operation, "ok", index, "")
        if index is None:
            self._world.violate("no-index", f"{operation.id}: an answer without its index")
            return
        wanted = self.all(index)
        if operation.kind == "get":
            wanted = {name: shape for name, shape in wanted.items() if name == operation.name}
        if index < operation.floor:
            self._world.violate("stale-read", f"{operation.id} reflects {index}, but {operation.floor} was known before it was asked")
        if found != wanted:
            self._world.violate("wrong-answer", f"{operation.id} {operation.kind} at {index}: {found}, the model says {wanted}")

    def judge(self) -> None:
        """At the end of a run: the same history once more, as registers, by checkers that know nothing of entries or models."""
        for field in (0, 1):
            calls = [call for operation in self.operations.values() for call in self._calls(operation, field)]
            for check in (check_by_index, check_general):
                for wrong in check(calls, max_steps=MAX_STEPS):
                    kind = "undecided" if wrong.startswith("undecided") else "not-linearizable"
                    if kind == "undecided":
                        self._world.counts[kind] += 1
                    else:
                        self._world.violate(kind, f"{check.__name__}, {('replicas', 'images')[field]}: {wrong}")

    def _calls(self, operation: Operation, field: int) -> Iterator[Call]:
        """`operation` as it concerns one field of deployments: a register each."""
        if operation.kind in ("get", "list"):
            if operation.outcome == "ok":
                for name in NAMES if operation.kind == "list" else (operation.name,):
                    found = operation.found.get(name)
                    yield self._call(operation, Kind.READ, name, operation.index, result=found[field] if found is not None else None)
            return
        kind = {"create": Kind.CREATE, "update": Kind.UPDATE, "delete": Kind.DELETE}.get(operation.kind)
        if kind is None or (operation.outcome in ("", "unknown") and not operation.entries):
            return
        effect = next((at for at, changed in operation.entries.items() if changed), None)
        done = operation.outcome == "ok" and (effect is not None or operation.kind == "update")
        value = None if operation.sent is None else operation.sent[field]
        if value in (-1, ""):
            return  # what it leaves alone it neither sets nor tells
        known = [at for at in operation.entries if operation.index is None or at <= operation.index]
        index = effect if effect is not None else max(known, default=operation.index)
        yield self._call(operation, kind, operation.name, index, argument=value, result=done)

    def _call(self, operation: Operation, kind: Kind, key: str, index: int | None, **more: Value | bool) -> Call:
        ended = operation.ended if operation.outcome in ("ok", "refused") else None
        return Call(client=operation.user, key=key, kind=kind, called_at=operation.began, returned_at=ended, index=index, **more)

    def _end(self, operation: Operation, outcome: str, index: int | None, detail: str) -> None:
        operation.ended, operation.outcome, operation.index, operation.detail = self._world.now, outcome, index, detail
        self.outcomes[f"{operation.kind}-{outcome}"] += 1
        self._world.log(outcome, operation.id, operation.kind, operation.name, index)
        if index is not None:
            self.known = max(self.known, index)
