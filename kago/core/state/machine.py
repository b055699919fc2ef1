"""The replicated state machine: a command in, changes and a reply out, the same on every server.

`decide` is pure and serves dry runs as well; `Machine` puts it behind the log's contract. Nothing here raises for any entry: what
cannot be read or is not allowed is a Rejection. An exception halts the replica loudly: it is a bug, or `TooNew`.
"""

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec.structs import replace

from kago.core.state import commands as c
from kago.core.state.changes import Change, Put
from kago.core.state.handlers import cluster, deployments, history, nodes, pods, reports, tokens
from kago.core.state.handlers.draft import Draft
from kago.core.state.rejections import Refusal, Rejection, Reply
from kago.core.state.snapshot import Snapshot, read_snapshot
from kago.core.state.tables import Tables

_HANDLERS: dict[type[c.Command], Callable[[Draft, Any], Reply]] = {
    c.CreateDeployment: deployments.create,
    c.UpdateDeployment: deployments.update,
    c.DeleteDeployment: deployments.delete,
    c.DeletePod: pods.delete,
    c.DeleteNode: nodes.delete,
    c.RegisterServer: cluster.register_server,
    c.RemoveServer: cluster.remove_server,
    c.RegisterNode: nodes.register,
    c.ReportPods: reports.report,
    c.ClaimLeadership: cluster.claim,
    c.CreatePods: pods.create,
    c.StopPods: pods.stop,
    c.AssignPods: pods.assign,
    c.ExplainPods: pods.explain,
    c.MarkNodes: nodes.mark,
    c.RemovePods: pods.remove,
    c.RaiseSchema: cluster.raise_schema,
    c.CreateToken: tokens.create,
    c.RevokeToken: tokens.revoke,
    c.AdoptTokens: tokens.adopt,
    c.SpendToken: tokens.spend,
    c.NoteChange: history.note,
}
_FENCED = (c.CreatePods, c.StopPods, c.AssignPods, c.ExplainPods, c.MarkNodes, c.RemovePods, c.RemoveServer, c.RaiseSchema)

# Dicts are encoded in the order of their keys: a restored replica may hold them in another order than one that was there.
_ENCODER = msgspec.msgpack.Encoder(order="deterministic")
_ENTRIES = msgspec.msgpack.Decoder(c.Entry)
_REPLIES: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def decide(
    tables: Tables, command: c.AnyCommand, *, at: float, index: int, actor: str = "", source: str = ""
) -> tuple[tuple[Change, ...], Reply]:
    """What `command` does to `tables` at `index`, without doing it. A Rejection comes with no changes."""
    if isinstance(command, _FENCED) and command.epoch != tables.cluster.epoch:
        return (), Rejection(refusal=Refusal.STALE_EPOCH, detail=f"a command of epoch {command.epoch}, but it is {tables.cluster.epoch}")
    draft = Draft(tables, at=at, index=index)
    reply = _HANDLERS[type(command)](draft, command)
    if isinstance(reply, Rejection):
        return (), reply
    changes = draft.changes()
    remembered = history.record(tables, command, changes, actor=actor, source=source, at=at, index=index)
    return (*changes, *remembered), reply if changes or remembered else replace(reply, changed=False)


def encode_entry(command: c.AnyCommand, at: float, fingerprint: str = "", *, actor: str = "", source: str = "") -> bytes:
    """The entry to propose; `at` is the proposer's clock, in seconds since the epoch."""
    entry = c.Entry(command=command, at=at, schema=command.needs(), fingerprint=fingerprint, actor=actor, source=source)
    return _ENCODER.encode(entry)


def decode_reply(result: bytes) -> Reply:
    """What `Machine.apply` returned. Raises msgspec.DecodeError for anything else."""
    return _REPLIES.decode(result)


class TooNew(Exception):
    """The log holds what only a later version of this program understands: this one must halt before it goes astray."""

    def __init__(self, schema: int) -> None:
        super().__init__(
            f"the cluster uses schema {schema} by now and this version understands {c.SCHEMA_VERSION} at most: start this server with "
            "the version the other servers have; its data is well and nothing needs to be restored"
        )


class Machine:
    """raft.contract.StateMachine over Tables. One thread calls apply, snapshot and restore."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.on_changes: Callable[[int, tuple[Change, ...]], None] | None = None
        """Called after every entry, also one that changed nothing, with the tables already changed."""
        self.on_restored: Callable[[int], None] | None = None
        """Called after a snapshot replaced `tables` by other ones."""
        self._digest = bytes(16)

    @property
    def digest(self) -> str:
        """Hash over every entry's changes and reply since the first one: equal at an equal index, or a replica has gone astray."""
        return self._digest.hex()

    def apply(self, index: int, entry: bytes) -> bytes:
        assert index > self.tables.index, f"entry {index} after entry {self.tables.index}"
        changes, reply = self._decide(index, entry)
        result = _ENCODER.encode(reply)
        self._digest = _chained(self._digest, index, changes, result)
        self.tables.absorb(index, changes)
        if self.on_changes is not None:
            self.on_changes(index, changes)
        return result

    def snapshot(self) -> Callable[[], Iterator[bytes]]:
        return Snapshot(self.tables, self._digest).chunks

    def restore(self, index: int, chunks: Iterable[bytes]) -> None:
        """Raises ValueError for what is not a whole snapshot taken at `index`; the state is then as before."""
        self.tables, self._digest = read_snapshot(index, chunks)
        if self.on_restored is not None:
            self.on_restored(index)

    def _decide(self, index: int, entry: bytes) -> tuple[tuple[Change, ...], Reply]:
        try:
            decoded = _ENTRIES.decode(entry)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            _check_schema(_schema(entry))
            # The decoder's own words stay out of the reply: they may differ between two servers' versions of it.
            return (), Rejection(refusal=Refusal.UNKNOWN_COMMAND, detail="this command is not known here")
        _check_schema(decoded.schema)
        changes, reply = decide(self.tables, decoded.command, at=decoded.at, index=index, actor=decoded.actor, source=decoded.source)
        if not decoded.fingerprint:
            return changes, reply
        if isinstance(reply, Rejection):
            return changes, replace(reply, fingerprint=decoded.fingerprint)
        return changes, replace(reply, fingerprint=decoded.fingerprint, at=decoded.at)


class _Schema(msgspec.Struct):
    """The one field that is read of an entry whose command is not known here."""

    schema: int = 1


def _schema(entry: bytes) -> int:
    try:
        return msgspec.msgpack.decode(entry, type=_Schema).schema
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return 1


def _check_schema(schema: int) -> None:
    if schema > c.SCHEMA_VERSION:
        raise TooNew(schema)


def _chained(digest: bytes, index: int, changes: Iterable[Change], result: bytes) -> bytes:
    parts = [index.to_bytes(8, "big"), result]
    for change in changes:
        parts += (b"+", _ENCODER.encode(change.after)) if isinstance(change, Put) else (b"-", _ENCODER.encode(change.before))
    chain = blake2b(digest, digest_size=16)
    chain.update(b"".join(parts))
    return chain.digest()
