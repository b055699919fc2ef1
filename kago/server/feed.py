"""The feed of changes: a ring of the last ones and the watchers of what comes.

Listing and following are one step, for both happen on the event loop that applies: a watcher begins at the index its listing
reflects and misses nothing after it. A watcher is woken by the topics it asked for only, and one that cannot keep up is closed rather than
buffered without end. Each change is encoded once, however many read it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import takewhile
from typing import TypeVar

import msgspec

from kago.core.model.cluster import Cluster
from kago.core.model.deployment import Deployment
from kago.core.model.history import ChangeRecord
from kago.core.model.node import Node
from kago.core.model.pod import Pod
from kago.core.state.changes import Change, Put, Removed, Thing

MAX_RING_CHANGES = 100_000
"""Changes kept for watchers that come back."""
MAX_QUEUED_LINES = 20_000
"""Lines a watcher may lie behind before it is closed."""

_encoder = msgspec.json.Encoder()
encode = _encoder.encode

_Item = TypeVar("_Item")
OF_NODE = "pods/node/"
"""Before a node's name, the topic of its pods."""


class IndexTooOld(Exception):
    """The ring does not reach back that far: list again."""


class Encodings:
    """The JSON of each thing as it is now, made once and shared by all lists and watches.

    Ask only for things that stand in the tables: what is kept is forgotten when the feed says that the thing is gone.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[Thing, bytes]] = {}

    def of(self, thing: Thing) -> bytes:
        key = _key(thing)
        known = self._known.get(key)
        if known is not None and known[0] is thing:
            return known[1]
        encoded = encode(thing)
        self._known[key] = (thing, encoded)
        return encoded

    def forget(self, thing: Thing) -> None:
        self._known.pop(_key(thing), None)

    def clear(self) -> None:
        self._known.clear()


def _key(thing: Thing) -> tuple[str, str]:
    if isinstance(thing, Cluster):
        return "Cluster", ""
    if isinstance(thing, ChangeRecord):
        return thing.kind, str(thing.index)
    return thing.kind, thing.id if isinstance(thing, Pod) else getattr(thing, "name", "")


def topics_of(thing: Thing) -> tuple[str, ...]:
    """The topics a change of `thing` concerns; a pod's last one is its node's."""
    if isinstance(thing, Pod):
        return ("pods", f"pods/deployment/{thing.deployment_name}", f"{OF_NODE}{thing.node_name}")
    if isinstance(thing, Deployment):
        return ("deployments",)
    if isinstance(thing, Node):
        return ("nodes",)
    if isinstance(thing, ChangeRecord):
        return ("changes",)
    return ()


class Subscription:
    """One watcher's queue of lines. Iterate `ready()` after `wait()`; `closed` says why it ended."""

    def __init__(self, topic: str, wanted: Callable[[Thing], bool], index: int) -> None:
        self.topic = topic
        self.wanted = wanted
        self.index = index
        """Everything up to here is in the queue or was taken from it."""
        self.closed = ""
        self._lines: deque[tuple[int, bytes]] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def push(self, index: int, line: bytes) -> None:
        if self.closed:
            return
        if len(self._lines) >= MAX_QUEUED_LINES:
            self._lines.clear()
            self.close("the watcher reads slower than the cluster changes; list again")
            return
        self._lines.append((index, line))
        self._wake()

    def close(self, reason: str) -> None:
        self.closed = self.closed or reason
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, timeout_s: float) -> bool:
        """Until there is something or it is closed; False at the time-out."""
        if self._lines or self.closed:
            return True
        self._waiter = asyncio.get_running_loop().create_future()
        handle = asyncio.get_running_loop().call_later(timeout_s, self._wake)
        try:
            await self._waiter
        finally:
            handle.cancel()
            self._waiter = None
        return bool(self._lines or self.closed)

    def take(self) -> Iterator[tuple[int | None, bytes]]:
        """Every line there is, the last one of each entry with its index: only there may a stream be left and gone on from."""
        while self._lines:
            index, line = self._lines.popleft()
            yield None if self._lines and self._lines[0][0] == index else index, line


class Feed:
    """Takes every applied entry's changes, in order."""

    def __init__(self, encodings: Encodings, *, ring_changes: int = MAX_RING_CHANGES) -> None:
        self.index = 0
        """Of the last entry published."""
        self._encodings = encodings
        self._limit = ring_changes
        self._ring: deque[tuple[int, tuple[Change, ...]]] = deque()
        self._of_node: dict[str, deque[tuple[int, Change]]] = {}
        """Of the ring, the changes of pods by the topic of their node: agents come back by the thousand, each to a few pods among all."""
        self._held = 0
        self._floor = 0
        """Everything after this index is in the ring."""
        self._topics: dict[str, dict[Subscription, None]] = {}
        self._changed: dict[str, int] = {}
        self._restored_at = 0

    @property
    def watchers(self) -> int:
        return sum(map(len, self._topics.values()))

    def changed_at(self, kind: str) -> int:
        """Index of the last change of anything of a kind (a topic without a slash)."""
        return self._changed.get(kind, self._restored_at)

    def publish(self, index: int, changes: tuple[Change, ...]) -> None:
        self.index = index
        if not changes:
            return
        self._ring.append((index, changes))
        self._held += len(changes)
        while self._held > self._limit and len(self._ring) > 1:
            self._floor, dropped = self._ring.popleft()
            self._held -= len(dropped)
            self._drop(dropped)
        for change in changes:
            self._tell(index, change)

    def at_version(self, version: int, key: tuple[str, str]) -> Thing | None:
        """The thing of that kind and name as it was at `version`, once it is something else or gone; None: older than the ring."""
        replaced = (change.before for _, changes in _after(version, self._ring) for change in changes if _key(_newest(change)) == key)
        return next((thing for thing in replaced if getattr(thing, "version", None) == version), None)

    def restored(self, index: int) -> None:
        """A snapshot replaced the state: nobody can follow across it."""
        self.index = self._floor = self._restored_at = index
        self._changed.clear()
        self._ring.clear()
        self._of_node.clear()
        self._held = 0
        self._encodings.clear()
        for subscription in [s for topic in self._topics.values() for s in topic]:
            subscription.close("this server caught up by a snapshot; list again")

    def close(self, reason: str) -> None:
        for subscription in [s for topic in self._topics.values() for s in topic]:
            subscription.close(reason)

    def subscribe(self, topic: str, wanted: Callable[[Thing], bool], *, after: int | None = None) -> Subscription:
        """Follow `topic` from `after` on (None: from now). Raises IndexTooOld. `unsubscribe` when done."""
        start = self.index if after is None else after
        if start < self._floor:
            raise IndexTooOld(f"index {start} is older than what is kept here (from {self._floor + 1})")
        subscription = Subscription(topic, wanted, start)
        for index, change in self._missed(topic, start):
            if (seen := _as_seen(change, wanted)) is not None:
                subscription.push(index, self._line(index, seen))
        self._topics.setdefault(topic, {})[subscription] = None
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        topic = self._topics.get(subscription.topic)
        if topic is not None:
            topic.pop(subscription, None)
            if not topic:
                del self._topics[subscription.topic]

    def _missed(self, topic: str, start: int) -> Iterable[tuple[int, Change]]:
        """The changes of a topic after `start`."""
        if topic.startswith(OF_NODE):
            return _after(start, self._of_node.get(topic, ()))
        missed = ((index, change) for index, changes in _after(start, self._ring) for change in changes)
        return ((index, change) for index, change in missed if topic in topics_of(_newest(change)))

    def _drop(self, changes: Iterable[Change]) -> None:
        """They are older than all others in the ring."""
        for change in changes:
            if isinstance(pod := _newest(change), Pod):
                kept = self._of_node[topic := OF_NODE + str(pod.node_name)]
                kept.popleft()
                if not kept:
                    del self._of_node[topic]

    def _tell(self, index: int, change: Change) -> None:
        if not isinstance(change, Put):
            self._encodings.forget(change.before)
        lines: dict[bool, bytes] = {}
        topics = topics_of(thing := _newest(change))
        if topics:
            self._changed[topics[0]] = index
        if isinstance(thing, Pod):
            self._of_node.setdefault(topics[-1], deque()).append((index, change))
        for topic in topics:
            for subscription in self._topics.get(topic, ()):
                seen = _as_seen(change, subscription.wanted)
                if seen is not None:
                    kind = isinstance(seen, Put)
                    if kind not in lines:
                        lines[kind] = self._line(index, seen)
                    subscription.push(index, lines[kind])

    def _line(self, index: int, change: Change) -> bytes:
        if isinstance(change, Put):
            # A change from the ring may be of a thing that is newer by now, or gone: only what is told as it happens is kept.
            return put_line(index, self._encodings.of(change.after) if index == self.index else encode(change.after))
        return b'{"type":"removed","index":%d,"object":%b}' % (index, encode(change.before))


def _after(start: int, items: Sequence[tuple[int, _Item]]) -> list[tuple[int, _Item]]:
    """Those of a later index. From the end backwards: who comes back costs what it missed, not what is kept."""
    missed = list(takewhile(lambda item: item[0] > start, reversed(items)))
    missed.reverse()
    return missed


def _newest(change: Change) -> Thing:
    return change.after if isinstance(change, Put) else change.before


def _as_seen(change: Change, wanted: Callable[[Thing], bool]) -> Change | None:
    """`change` as someone sees it who sees only what is `wanted`: what is no longer wanted is removed to them. None: nothing."""
    if wanted(_newest(change)):
        return change
    if isinstance(change, Put) and change.before is not None and wanted(change.before):
        return Removed(change.before)
    return None


def put_line(index: int, encoded: bytes) -> bytes:
    """A watch event that says a thing is now so."""
    return b'{"type":"put","index":%d,"object":%b}' % (index, encoded)
