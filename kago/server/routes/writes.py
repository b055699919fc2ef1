"""One way for every mutation: dry run or log, refusal or thing."""

from typing import Any, TypeVar

from sanic import HTTPResponse, Request

from kago.core.model.deployment import Deployment
from kago.core.model.node import Node
from kago.core.model.pod import Pod
from kago.core.state.changes import Put
from kago.core.state.commands import AnyCommand
from kago.core.state.machine import decide
from kago.core.state.rejections import Accepted, Rejection, Reply
from kago.server.answers import make_readable, struct_answer
from kago.server.problems import Refused, not_found, of_log_error, of_rejection
from kago.server.requests import check_parameters, fingerprint, flag
from kago.server.store import Store, request_id
from raft.errors import LogError

T = TypeVar("T", Deployment, Pod, Node)


async def write(store: Store, request: Request, command: AnyCommand, kind: type[T], key: str) -> tuple[T | None, Accepted]:
    """Do `command`; the thing it is about as it is afterwards (None: gone). Refused where it was not done.

    `key` is the thing's key in its table.
    """
    check_parameters(request)
    if flag(request, "dry_run"):
        await make_readable(store, request)
        changes, reply = decide(store.tables, command, at=store.clock.now(), index=store.tables.index + 1)
        accepted = _accepted(reply)
        after = [change.after for change in changes if isinstance(change, Put) and isinstance(change.after, kind)]
        made = next((thing for thing in after if key in (thing.name, getattr(thing, "id", ""))), None)
        return made if made is not None else _table(store, kind).get(key), accepted
    mark = fingerprint(request)
    path = request.path.rstrip("/").removeprefix("/v1")
    identity = request_id(request.method, path, request.headers["idempotency-key"]) if mark else None
    try:
        actor, source = caller_of(request)
        reply = await store.submit(command, request_id=identity, fingerprint=mark, actor=actor, source=source)
    except LogError as error:
        raise of_log_error(error) from None
    if reply.fingerprint != mark:
        raise Refused(409, "conflict", "this Idempotency-Key was used before for a request with another body; use a new key")
    return _table(store, kind).get(key), _accepted(reply)


async def delete_missing(store: Store, request: Request, command: AnyCommand, kind: type[T], name: str) -> HTTPResponse:
    """A deletion of what is not here: under an Idempotency-Key perhaps one that was done already, whose answer counts. Refused (404)."""
    if "idempotency-key" not in request.headers:
        raise not_found(kind.__name__.lower(), name)
    _, reply = await write(store, request, command, kind, name)
    return struct_answer({"name": reply.name or name, "version": reply.version})


def caller_of(request: Request) -> tuple[str, str]:
    """(who asks, from where), for the history."""
    caller = getattr(request.ctx, "caller", None)
    return caller.name if caller is not None else "anybody", request.ip


def _table(store: Store, kind: type[T]) -> dict[str, T]:
    tables: dict[type, Any] = {Deployment: store.tables.deployments, Pod: store.tables.pods, Node: store.tables.nodes}
    found: dict[str, T] = tables[kind]
    return found


def _accepted(reply: Reply) -> Accepted:
    if isinstance(reply, Rejection):
        raise of_rejection(reply)
    return reply
