"""Answers of the API: things as they are encoded once, lists as their concatenation, watches as streams."""

import asyncio
import logging
from collections.abc import Callable, Iterable

import msgspec
from sanic import HTTPResponse, Request
from sanic.exceptions import SanicException
from sanic.response import raw

from kago.clock import http_date
from kago.core.state.changes import Thing
from kago.server.feed import Feed, IndexTooOld, Subscription, encode, put_line
from kago.server.problems import CONTENT_TYPE, Refused, of_log_error, unavailable
from kago.server.requests import check_parameters, etag, flag, number, parameter, selected, topic_of
from kago.server.store import READ_TIMEOUT_S, Store
from raft.errors import LogError, NoLeader

_logger = logging.getLogger(__name__)
JSON = "application/json"
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"
STOPPING = "this server stops; go on at another one"
"""Said to the feed at a stop; every other reason why a watch ends means that it cannot be resumed."""
HEARTBEAT_S = 8.0
AGENT_HEARTBEAT_S = 1.0
"""Agents tell a dead master from a quiet one by it."""
MAX_WATCHES = 10_000
STANDING_S = 0.01
"""So much later than it was may the leader be said to have been heard, or known."""
_Line = tuple[int | None, bytes]
_BURST = 64
"""Lines joined into one write."""


def problem(request: Request, refused: Refused) -> HTTPResponse:
    return raw(refused.body(request.path), status=refused.status, headers=refused.headers, content_type=CONTENT_TYPE)


def thing_answer(store: Store, request: Request, thing: Thing, *, status: int = 200, headers: dict[str, str] | None = None) -> HTTPResponse:
    """One thing, with its ETag; 304 where the client has it already."""
    tag = etag(thing)
    if request.method == "GET" and tag in (request.headers.get("if-none-match") or ""):
        return raw(b"", status=304, headers={"etag": tag})
    # Not from the store's encodings: this may be a thing that is gone, or one that a dry run only imagined.
    return raw(encode(thing), status=status, headers={"etag": tag, **(headers or {})}, content_type=JSON)


def list_answer(store: Store, things: Iterable[Thing]) -> HTTPResponse:
    return raw(_joined(store, things), content_type=JSON)


def _joined(store: Store, things: Iterable[Thing]) -> bytes:
    of = store.encodings.of
    return b"[" + b",".join([of(thing) for thing in things]) + b"]"


def struct_answer(value: object, *, status: int = 200) -> HTTPResponse:
    return raw(msgspec.json.encode(value), status=status, content_type=JSON)


async def make_readable(store: Store, request: Request) -> None:
    """Bring the tables to where this read may be answered. Refused (400, 503)."""
    check_parameters(request)
    least = number(request, "min_index")
    try:
        await store.catch_up(stale=flag(request, "stale"), min_index=least)
    except NoLeader as error:
        if least is not None:
            raise unavailable("catching-up", str(error)) from None
        raise of_log_error(error) from None
    except LogError as error:
        raise of_log_error(error) from None


class Read:
    """How one question is answered: `content` gives what follows the headers that every answer has. It may raise Refused."""

    __slots__ = ("content", "stale")

    def __init__(self, content: Callable[[], bytes], *, stale: bool) -> None:
        self.content = content
        self.stale = stale


async def read_one(store: Store, request: Request, find: Callable[[], Thing]) -> HTTPResponse:
    """Answer by what `find` gives, which may raise Refused."""
    await make_readable(store, request)
    known: Thing | None = None
    content = b""

    def again() -> bytes:
        nonlocal known, content
        if (thing := find()) is not known:
            known, content = thing, content_of(store.encodings.of(thing), JSON, tag=etag(thing))
        return content

    _note(request, again)
    return thing_answer(store, request, find())


async def read_many(store: Store, request: Request, kind: str, find: Callable[[], list[Thing]]) -> HTTPResponse | None:
    """Answer by what `find` gives of a kind, or with a watch that begins with it (None: that has been answered)."""
    await make_readable(store, request)
    if flag(request, "watch"):
        await watch_answer(store, request, kind, find())
        return None
    index, content = -1, b""

    def again() -> bytes:
        nonlocal index, content
        if index != (changed := store.feed.changed_at(kind)):
            index, content = changed, content_of(_joined(store, find()), JSON)
        return content

    _note(request, again)
    return list_answer(store, find())


def _note(request: Request, content: Callable[[], bytes]) -> None:
    """So that the request, when it comes again, can be answered by `repeats.py`."""
    if parameter(request, "min_index") is None:
        request.ctx.read = Read(content, stale=flag(request, "stale"))


def content_of(body: bytes, content_type: str, *, tag: str = "") -> bytes:
    """The rest of an answer, from the headers on that are its own."""
    mark = f"etag: {tag}\r\n" if tag else ""
    return f"{mark}content-length: {len(body)}\r\nconnection: keep-alive\r\ncontent-type: {content_type}\r\n\r\n".encode() + body


async def watch_answer(store: Store, request: Request, kind: str, things: Iterable[Thing]) -> None:
    """Stream `things` (unless an index to go on from is given) and what happens to them from then on.

    `things` is read in the same step as the subscription begins, so nothing is missed or told twice.
    """
    feed, after = store.feed, number(request, "index")
    if feed.watchers >= MAX_WATCHES:
        raise Refused(429, "rate-limited", f"{MAX_WATCHES} watches are open on this server; ask another one", headers={"retry-after": "5"})
    if request.head.startswith(b"HEAD "):
        await request.respond(content_type=NDJSON)
        return
    try:
        if after is not None and after > store.tables.index:
            await _reach(store, after)
        subscription = feed.subscribe(topic_of(request, kind), selected(request), after=after)
    except IndexTooOld as error:
        raise Refused(410, "index-too-old", f"{error}; list again, without index") from None
    except LogError as error:
        raise of_log_error(error) from None
    try:
        index = store.tables.index
        # No id before the listing is whole: who breaks off within it must list again.
        first: list[_Line] = [(None, put_line(index, store.encodings.of(thing))) for thing in things] if after is None else []
        first += subscription.take()
        first.append((index, _mark(store, "synced")))
        await _Stream(store, request, feed, subscription).run(first)
    finally:
        feed.unsubscribe(subscription)


async def _reach(store: Store, index: int) -> None:
    """Wait for an index that this server has not applied; one that the cluster has never reached is as good as one forgotten."""
    try:
        await store.log.barrier(timeout_s=READ_TIMEOUT_S)
    except NoLeader:
        await store.log.wait_applied(index, timeout_s=READ_TIMEOUT_S)
    if index > store.tables.index:
        raise IndexTooOld(f"index {index} was never reached by this cluster, which is at {store.tables.index}")


class _Stream:
    """One watch on one connection."""

    def __init__(self, store: Store, request: Request, feed: Feed, subscription: Subscription) -> None:
        self._store = store
        self._request = request
        self._feed = feed
        self._subscription = subscription
        self._sse = SSE in (request.headers.get("accept") or "")
        self._beat_s = AGENT_HEARTBEAT_S if subscription.topic.startswith("pods/node/") else HEARTBEAT_S

    async def run(self, first: list[_Line]) -> None:
        response = await self._request.respond(content_type=SSE if self._sse else NDJSON, headers={"cache-control": "no-store"})
        if response is None:
            return
        try:
            end = await self._send(response, first)
        except (OSError, SanicException):
            raise
        except Exception:
            # Too late for an error's answer, and an end without words would look like a stop.
            _logger.exception("bug: watch of %s", self._request.path)
            end = Refused(500, "internal", "this server has a bug here; its log has the details")
        document = {"type": "error", "index": self._store.tables.index, "object": end.document(self._request.path)}
        await response.send(self._framed([(None, msgspec.json.encode(document))]))
        await response.eof()

    async def _send(self, response: HTTPResponse, first: list[_Line]) -> Refused:
        """Until the subscription ends; why it did."""
        loop = asyncio.get_running_loop()
        for start in range(0, len(first), _BURST):
            await response.send(self._framed(first[start : start + _BURST]))
        beat_at = loop.time() + self._beat_s
        while not self._subscription.closed:
            await self._subscription.wait(max(0.0, beat_at - loop.time()))
            burst: list[_Line] = []
            for item in self._subscription.take():
                burst.append(item)
                if len(burst) == _BURST:
                    await response.send(self._framed(burst))
                    burst = []
            # Closed, it has lost what lies between its last line and the tables: no index of theirs may be gone on from.
            if loop.time() >= beat_at and not self._subscription.closed:
                burst.append((self._store.tables.index, _mark(self._store, "heartbeat")))
                beat_at = loop.time() + self._beat_s
            if burst:
                await response.send(self._framed(burst))
        if self._subscription.closed == STOPPING:
            return unavailable("stopping", STOPPING)
        return Refused(410, "index-too-old", self._subscription.closed)

    def _framed(self, lines: Iterable[_Line]) -> bytes:
        if self._sse:
            return b"".join((b"" if index is None else b"id: %d\n" % index) + b"data: %b\n\n" % line for index, line in lines)
        return b"".join(line + b"\n" for _, line in lines)


def _mark(store: Store, kind: str) -> bytes:
    tables = store.tables
    return msgspec.json.encode({"type": kind, "index": tables.index, "epoch": tables.cluster.epoch})


def header_values(store: Store) -> dict[str, str]:
    """What every answer says about the state it was given from; by the date clients reckon ages, whatever their own clock says."""
    status = store.status()
    age = status.leader_contact_age_s
    return {
        "date": http_date(int(store.clock.now())),
        "x-kago-index": str(store.tables.index),
        "x-kago-leader": status.leader or "",
        "x-kago-servers": ",".join(server_urls(store)),
        "x-kago-known-leader": "true" if status.leader is not None else "false",
        "x-kago-last-contact": "-1" if age is None else str(round(age * 1000)),
    }


class Standing:
    """`header_values` for answers that are many: worked out again when the index moved or some milliseconds have passed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._index = -1
        self._until = 0.0
        self._values: dict[str, str] = {}
        self._lines = b""

    def values(self) -> dict[str, str]:
        store, now = self._store, self._store.clock.monotonic()
        if store.tables.index != self._index or now >= self._until:
            self._index, self._until = store.tables.index, now + STANDING_S
            self._values, self._lines = header_values(store), b""
        return self._values

    def lines(self) -> bytes:
        """As they stand in an answer's head."""
        values = self.values()
        self._lines = self._lines or "".join(f"{name}: {value}\r\n" for name, value in values.items()).encode()
        return self._lines


def server_urls(store: Store) -> tuple[str, ...]:
    """API URLs of all servers that announced themselves."""
    return tuple(store.tables.servers[id].api for id in sorted(store.tables.servers))
