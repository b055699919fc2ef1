"""Heartbeats in the leader's memory: who was heard when, and whose lease has run out.

They never enter the log; only verdicts do. Everything here is handed its time (monotonic seconds), so that a test is its own clock.
Whoever becomes leader starts all leases anew. A leader that was not running itself (paused, starved) blames nobody for the silence it
slept through, nor one that is cut off from the other servers for what it cannot hear through them. Nor does one that hears no node at
all: then its own link is bad more likely than every node gone at once, and if they are gone there is none left to move anything to.
That has an end, so that nodes do not look ready for ever.
"""

import heapq
from collections.abc import Iterable

from kago.core.controllers.eviction import Liveness

HEARTBEATS_PER_S = 500.0
"""Of all nodes together; beyond it each node's interval stretches."""
LEASE_BEATS = 5
QUIET_BEATS = 2
"""Without a heartbeat of anybody for so many intervals, the leader takes itself for deaf, if more than one node could be heard."""
MISSED_BEATS = 3
DEAF_LEASES = 6
"""So many leases at most are granted to a node for silences that were everybody's."""
PAUSE_S = 1.0
"""A gap between two ticks longer than this is ours, not the nodes'."""


class _Lease:
    __slots__ = ("due_at", "excused_s", "expired", "heard_at", "incarnation", "leaving")

    def __init__(self, heard_at: float) -> None:
        self.heard_at = heard_at
        self.due_at = 0.0
        """Of its entry in the heap; another entry under the same name is of a node that was deleted."""
        self.excused_s = 0.0
        self.incarnation: int | None = None
        self.expired = False
        self.leaving = False


class Leases:
    """The leader's; `gained` and `lost` tell when it is one."""

    def __init__(self, *, lease_s: float, heartbeat_s: float) -> None:
        self._lease_s = lease_s
        self._heartbeat_s = heartbeat_s
        self._leases: dict[str, _Lease] = {}
        self._heap: list[tuple[float, str]] = []
        self._expired: dict[str, None] = {}
        self._leaving: dict[str, None] = {}
        self._ticked_at = 0.0
        self._anybody_at = 0.0
        """When any node was heard last."""

    def interval_s(self, nodes: int) -> float:
        """Seconds between two heartbeats of one of `nodes` nodes."""
        return max(min(self._heartbeat_s, self._lease_s / LEASE_BEATS), nodes / HEARTBEATS_PER_S)

    def lease_s(self, nodes: int) -> float:
        return max(self._lease_s, LEASE_BEATS * self.interval_s(nodes))

    def gained(self, names: Iterable[str], now: float) -> None:
        """We lead: nobody is late before a whole lease, and two heartbeats, have passed with us."""
        self.lost()
        self._leases = {name: _Lease(now) for name in names}
        self._ticked_at = self._anybody_at = now
        for name, lease in self._leases.items():
            self._look_again(name, lease, now + self._present_lease_s())

    def lost(self) -> None:
        for held in (self._leases, self._heap, self._expired, self._leaving):
            held.clear()

    def heard(self, name: str, incarnation: int, now: float, *, leaving: bool = False) -> bool:
        """A heartbeat came in. True if the leader has something to decide by it."""
        self._excuse(now)
        lease = self._leases.get(name)
        if lease is None:
            lease = self._leases[name] = _Lease(now)
            self._look_again(name, lease, now + self._present_lease_s())
        if lease.leaving and not leaving and lease.incarnation == incarnation:
            return False  # Its last word was good-bye, and this one was overtaken by it on its way through another server, or this one.
        news = lease.expired or leaving != lease.leaving or lease.incarnation != incarnation
        if lease.expired:
            lease.expired = False
            del self._expired[name]
            self._look_again(name, lease, now + self._present_lease_s())
        lease.heard_at = max(lease.heard_at, now)
        lease.excused_s = 0.0
        lease.incarnation = incarnation
        lease.leaving = leaving
        if leaving:
            self._leaving[name] = None
        else:
            self._leaving.pop(name, None)
        return news

    def forget(self, name: str) -> None:
        """The node is deleted."""
        for held in (self._leases, self._expired, self._leaving):
            held.pop(name, None)

    def tick(self, now: float, *, alone: bool = False) -> None:
        """Called several times a second while we lead; a gap means that we were not running.

        `alone`: no majority of the servers is heard now. What nodes tell the others does not reach us then, nor may we lead any more.
        """
        gap = now - self._ticked_at
        self._ticked_at = now
        if gap > PAUSE_S or alone:
            self._anybody_at = min(now, self._anybody_at + gap)
            for lease in self._leases.values():
                if not lease.expired:
                    # Not beyond now: one heard since we run again has had its due already.
                    lease.heard_at = min(now, lease.heard_at + gap)
                    lease.excused_s = 0.0

    def misses(self, name: str, now: float) -> bool:
        """Whether a node was not heard for some beats, which says that its agent is gone, though its lease may be longer by far."""
        lease = self._leases.get(name)
        return lease is not None and now - lease.heard_at > MISSED_BEATS * self.interval_s(len(self._leases))

    def age_s(self, name: str, now: float) -> float | None:
        """Seconds since a node was heard; None where it never was."""
        lease = self._leases.get(name)
        return None if lease is None or lease.incarnation is None else max(0.0, now - lease.heard_at)

    def liveness(self, down: Iterable[str], now: float) -> Liveness:
        """What to decide on. `down` are the nodes that are not ready by the tables; the cost is what ran out, not what exists."""
        lease_s = self._present_lease_s()
        deaf_until = self._deaf_until(now)
        while now >= deaf_until and self._heap and self._heap[0][0] <= now:
            at, name = heapq.heappop(self._heap)
            lease = self._leases.get(name)
            if lease is None or lease.expired or lease.due_at != at:
                continue
            due = lease.heard_at + lease_s
            if due <= now:
                lease.expired = True
                self._expired[name] = None
                self._leaving.pop(name, None)
            else:
                self._look_again(name, lease, due)
        expired = tuple(sorted(self._expired))
        heard = tuple(
            (name, lease.incarnation)
            for name in down
            if (lease := self._leases.get(name)) is not None and not lease.leaving and not lease.expired and lease.incarnation is not None
        )
        return Liveness(
            expired=expired,
            heard=heard,
            leaving=tuple(sorted(self._leaving)),
            next_expiry=max(self._heap[0][0], deaf_until) if self._heap else None,
            silent_s={name: now - self._leases[name].heard_at for name in expired},
        )

    def _excuse(self, now: float) -> None:
        """Somebody is heard. If nobody was for a while, that silence counts against none of them."""
        silence_s, self._anybody_at = now - self._anybody_at, max(now, self._anybody_at)
        if silence_s <= self._quiet_s() or not self._several():
            return
        most_s = DEAF_LEASES * self._present_lease_s()
        for lease in self._leases.values():
            if not lease.expired:
                granted_s = min(silence_s, most_s - lease.excused_s)
                lease.excused_s += granted_s
                lease.heard_at = min(now, lease.heard_at + granted_s)

    def _deaf_until(self, now: float) -> float:
        """Until when nobody is judged, as nobody at all is heard; in the past where somebody is."""
        if now - self._anybody_at <= self._quiet_s() or not self._several():
            return self._anybody_at
        return self._anybody_at + DEAF_LEASES * self._present_lease_s()

    def _quiet_s(self) -> float:
        return QUIET_BEATS * self.interval_s(len(self._leases))

    def _several(self) -> bool:
        """Whether more than one node is expected to be heard."""
        return len(self._leases) - len(self._expired) - len(self._leaving) > 1

    def _present_lease_s(self) -> float:
        return self.lease_s(len(self._leases))

    def _look_again(self, name: str, lease: _Lease, at: float) -> None:
        lease.due_at = at
        heapq.heappush(self._heap, (at, name))
