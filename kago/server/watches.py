"""Watches: what there is, then what happens to it, as a stream of lines on one connection."""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import msgspec
from sanic import HTTPResponse, Request
from sanic.exceptions import SanicException

from kago.core.state.changes import Thing
from kago.server.feed import OF_NODE, Feed, IndexTooOld, Subscription, put_line
from kago.server.problems import Refused, of_log_error, unavailable
from kago.server.requests import number, selected, topic_of
from kago.server.store import READ_TIMEOUT_S, Store
from raft.errors import LogError, NoLeader

_logger = logging.getLogger(__name__)
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"
STOPPING = "this server stops; go on at another one"
"""Said to the feed at a stop; every other reason why a watch ends means that it cannot be resumed."""
HEARTBEAT_S = 8.0
AGENT_HEARTBEAT_S, AGENTS_A_SECOND = 1.0, 2_000
"""Agents tell a dead master from a quiet one by it. In a cluster of more nodes it is longer, as their own heartbeats are (`leases.py`)."""
BEATS_AT_S = 0.1
"""Heartbeats fall on multiples of this: one turn of the loop serves all that are due, instead of a turn for each."""
MAX_WATCHES = 10_000
_Line = tuple[int | None, bytes]
_BURST = 64
"""Lines joined into one write."""


async def watch_answer(store: Store, request: Request, kind: str, things: Sequence[Thing]) -> None:
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
        # Whatever is in the queue by now are changes since `after`; what comes into it from now on is told behind the listing.
        end = [*subscription.take(), (store.tables.index, _mark(store, "synced"))]
        await _Stream(store, request, feed, subscription).run(_first(store, things if after is None else (), end))
    finally:
        feed.unsubscribe(subscription)


def _first(store: Store, things: Iterable[Thing], end: list[_Line]) -> Iterator[_Line]:
    """`things` as they were at the index of the last line, encoded only when their turn comes."""
    index, _ = end[-1]
    for thing in things:
        # No id before the listing is whole: who breaks off within it must list again.
        yield None, put_line(index or 0, store.encoded(thing))
    yield from end


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
        agents_s = max(AGENT_HEARTBEAT_S, len(store.tables.nodes) / AGENTS_A_SECOND)
        self._beat_s = agents_s if subscription.topic.startswith(OF_NODE) else HEARTBEAT_S

    async def run(self, first: Iterator[_Line]) -> None:
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

    async def _send(self, response: HTTPResponse, first: Iterator[_Line]) -> Refused:
        """Until the subscription ends; why it did."""
        loop = asyncio.get_running_loop()
        while lines := list(islice(first, _BURST)):
            await response.send(self._framed(lines))
            await asyncio.sleep(0)  # the log and everybody else go on between two pieces of a long listing
        beat_at = self._next_beat(loop.time())
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
                beat_at = self._next_beat(loop.time())
            if burst:
                await response.send(self._framed(burst))
        if self._subscription.closed == STOPPING:
            return unavailable("stopping", STOPPING)
        return Refused(410, "index-too-old", self._subscription.closed)

    def _next_beat(self, now: float) -> float:
        return (now + self._beat_s) // BEATS_AT_S * BEATS_AT_S

    def _framed(self, lines: Iterable[_Line]) -> bytes:
        if self._sse:
            return b"".join((b"" if index is None else b"id: %d\n" % index) + b"data: %b\n\n" % line for index, line in lines)
        return b"".join(line + b"\n" for _, line in lines)


def _mark(store: Store, kind: str) -> bytes:
    tables = store.tables
    return msgspec.json.encode({"type": kind, "index": tables.index, "epoch": tables.cluster.epoch})
