"""The history of what users did: one more change of the entries they caused, and the oldest record's end where there are too many."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from operator import attrgetter

from kago.core.model.deployment import SPEC_FIELDS, Deployment
from kago.core.model.history import ChangeRecord
from kago.core.model.token import Token
from kago.core.state import commands as c
from kago.core.state.changes import Change, Put, Removed, Thing
from kago.core.state.handlers.draft import Draft
from kago.core.state.rejections import Accepted, Reply
from kago.core.state.tables import Tables

SCHEMA = 2
"""What the cluster must be at: servers of the first release keep no history, and all must have the same state."""
MAX_RECORDS = 2_000
MAX_SUMMARY = 400
MAX_CALLER = 200
"""Characters kept of an actor or a source."""
_PLAIN = ("image", "replicas", "resources", "rolling_update", "runtime", "network", "pull_policy", "stop_grace_s", "scheduler")
"""Fields whose values are told; a command, environment or label may hold what is nobody's business."""
_spec_of = attrgetter(*SPEC_FIELDS)
_VERBS: Mapping[type[c.Command], str] = {
    c.CreateDeployment: "created", c.UpdateDeployment: "updated", c.DeleteDeployment: "deleted", c.DeletePod: "deleted",
    c.DeleteNode: "deleted", c.CreateToken: "created", c.RevokeToken: "revoked",
}


def record(
    tables: Tables, command: c.AnyCommand, changes: Sequence[Change], *, actor: str, source: str, at: float, index: int
) -> list[Change]:
    """The changes that remember `command`, which did `changes` to `tables`; none of what no user does."""
    if tables.cluster.schema_version < SCHEMA:
        return []
    if isinstance(command, c.NoteChange):
        verb, name, summary = command.verb[:MAX_CALLER], command.name[:MAX_CALLER], command.summary
    elif type(command) in _VERBS and changes:
        verb, name, summary = _told(command, changes)
    else:
        return []
    made = ChangeRecord(
        index=index, version=index, at=at, actor=actor[:MAX_CALLER], source=source[:MAX_CALLER], verb=verb, name=name, summary=_cut(summary)
    )
    evicted = [Removed(oldest) for oldest in islice(tables.history.values(), max(0, len(tables.history) + 1 - MAX_RECORDS))]
    return [Put(made), *evicted]


def note(draft: Draft, command: c.NoteChange) -> Reply:
    """Nothing but the record."""
    return Accepted(name=command.name, version=draft.index)


def _told(command: c.AnyCommand, changes: Sequence[Change]) -> tuple[str, str, str]:
    """(verb, name, summary)."""
    verb = _VERBS[type(command)]
    name, before, after = _subject(command, changes)
    if isinstance(after, Deployment):
        summary = ", ".join(_differences(before, after))
        scaled = verb == "updated" and summary.startswith("replicas ") and "," not in summary
        return "scaled" if scaled else verb, name, summary
    if isinstance(command, c.DeleteNode) and command.force:
        return verb, name, "by force"
    return verb, name, f"role {after.role.value}" if isinstance(after, Token) and isinstance(command, c.CreateToken) else ""


def _subject(command: c.AnyCommand, changes: Sequence[Change]) -> tuple[str, Thing | None, Thing | None]:
    """TYPE/NAME, and the thing before and after."""
    match command:
        case c.CreateDeployment(spec=spec):
            title, wanted = f"deployment/{spec.name}", ("Deployment", spec.name)
        case c.UpdateDeployment(name=name) | c.DeleteDeployment(name=name):
            title, wanted = f"deployment/{name}", ("Deployment", name)
        case c.DeletePod(id=id):
            title, wanted = f"pod/{id}", ("Pod", id)
        case c.DeleteNode(name=name):
            title, wanted = f"node/{name}", ("Node", name)
        case c.CreateToken(token=token):
            title, wanted = f"token/{token.id}", ("Token", token.id)
        case c.RevokeToken(id=id):
            title, wanted = f"token/{id}", ("Token", id)
        case _:
            raise AssertionError(f"{type(command).__name__} has a verb but no subject")
    for change in changes:
        before = change.before
        after = change.after if isinstance(change, Put) else None
        thing = after if after is not None else before
        kind, key = getattr(thing, "kind", ""), getattr(thing, "id", None) or getattr(thing, "name", "")
        if wanted in ((kind, key), (kind, getattr(thing, "name", ""))):
            return (f"pod/{getattr(thing, 'name', '')}" if kind == "Pod" else title), before, after
    return title, None, None


def _differences(before: Thing | None, after: Deployment) -> Iterator[str]:
    if not isinstance(before, Deployment):
        yield from (f"image {after.image}", f"replicas {after.replicas}")
        return
    for name, was, value in zip(SPEC_FIELDS, _spec_of(before), _spec_of(after), strict=True):
        if was != value:
            yield f"{name} {_short(was)} -> {_short(value)}" if name in _PLAIN else f"{name} changed"


def _short(value: object) -> str:
    fields: tuple[str, ...] = getattr(value, "__struct_fields__", ())
    text = "{" + ", ".join(f"{name}: {getattr(value, name)}" for name in fields) + "}" if fields else str(getattr(value, "value", value))
    return text if len(text) <= 100 else text[:99] + "…"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SUMMARY else text[: MAX_SUMMARY - 1] + "…"
