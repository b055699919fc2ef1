"""Agents' reports on their way into the log: those that arrive while one entry is under way share the next."""

import asyncio
from typing import NamedTuple

from kago.clock import seconds_of
from kago.core.checks import LATE_CERTIFICATE_S, MAX_CLOCK_OFF_S
from kago.core.model.node import NodeStatus
from kago.core.model.report import Heartbeat
from kago.core.state.commands import NodeReport, ReportPods
from kago.core.state.rejections import Refusal, Rejection
from kago.server.problems import of_rejection
from kago.server.store import Store

HEARD_S = 60.0
MAX_PODS_PER_ENTRY = 1000
MAX_BYTES_PER_ENTRY = 256 * 1024
"""Of the requests that share an entry; keeps it below the log's limit, so that no agent's report fails for its neighbour's."""


class _Waiting(NamedTuple):
    report: NodeReport
    size: int
    done: "asyncio.Future[None]"


class Reports:
    """One batch at a time; an agent is answered once its report is applied."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[_Waiting] = []
        self._sender: asyncio.Task[None] | None = None
        self._clocks_off_s: dict[str, float] = {}
        self._late: dict[str, tuple[float, float]] = {}
        """By node, when its certificate, late for renewal, runs out, and when it was heard with it (monotonic)."""

    async def submit(self, name: str, beat: Heartbeat, *, size: int) -> None:
        """Returns once the report, of about `size` bytes, is in the state. Raises LogError, Refused."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        report = NodeReport(node_name=name, node_id=beat.node_id, incarnation=beat.incarnation, pods=beat.pods)
        self._waiting.append(_Waiting(report, size, done))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send())
        await done

    def note_clock(self, name: str, date: str | None) -> None:
        """The `Date` an agent sent its heartbeat with; agents of the first release send none."""
        try:
            off_s = seconds_of(date) - self._store.clock.now() if date else 0.0
        except (ValueError, OverflowError):
            return
        if abs(off_s) > MAX_CLOCK_OFF_S:
            self._clocks_off_s[name] = off_s
        else:
            self._clocks_off_s.pop(name, None)

    def clocks_off_s(self) -> dict[str, float]:
        """By node, where an agent's clock is far from this server's: ahead of it if positive."""
        return {name: off_s for name, off_s in self._clocks_off_s.items() if name in self._store.tables.nodes}

    def note_certificate(self, name: str, expires_at: float) -> None:
        """Of the one an agent showed with its heartbeat; seconds since the epoch."""
        clock = self._store.clock
        if expires_at - clock.now() < LATE_CERTIFICATE_S:
            self._late[name] = (expires_at, clock.monotonic())
        else:
            self._late.pop(name, None)

    def certificates_left_s(self) -> dict[str, float]:
        """By node, where an agent should have a new certificate by now. One that is heard elsewhere may have."""
        clock, nodes = self._store.clock, self._store.tables.nodes
        here = {name for name, (_, heard_at) in self._late.items() if clock.monotonic() - heard_at < HEARD_S}
        silent = {name for name in self._late if name in nodes and nodes[name].status is not NodeStatus.READY}
        return {name: self._late[name][0] - clock.now() for name in sorted((here | silent) & nodes.keys())}

    async def _send(self) -> None:
        while self._waiting:
            batch = self._take()
            try:
                reply = await self._store.submit(ReportPods(reports=tuple(waiting.report for waiting in batch)))
            except Exception as error:  # a bug is the askers' to report: their requests end with it
                _settle(batch, error)
            else:
                stale = isinstance(reply, Rejection) and reply.refusal in (Refusal.STALE_INCARNATION, Refusal.NOT_FOUND)
                _settle(batch, of_rejection(reply) if stale and isinstance(reply, Rejection) else None)

    def _take(self) -> list[_Waiting]:
        taken, pods, size = 0, 0, 0
        for waiting in self._waiting:
            pods, size = pods + len(waiting.report.pods), size + waiting.size
            if taken and (pods > MAX_PODS_PER_ENTRY or size > MAX_BYTES_PER_ENTRY):
                break
            taken += 1
        batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return batch


def _settle(batch: list[_Waiting], error: Exception | None) -> None:
    for waiting in batch:
        if waiting.done.done():
            continue
        if error is None:
            waiting.done.set_result(None)
        else:
            waiting.done.set_exception(error)
