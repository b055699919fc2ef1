"""Agents' reports on their way into the log: those that arrive while one entry is under way share the next."""

import asyncio

from kago.core.model.report import Heartbeat
from kago.core.state.commands import NodeReport, ReportPods
from kago.core.state.rejections import Refusal, Rejection
from kago.server.problems import Refused, of_rejection
from kago.server.store import Store
from raft.errors import LogError

MAX_PODS_PER_ENTRY = 1000


class Reports:
    """One batch at a time; an agent is answered once its report is applied."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[tuple[NodeReport, asyncio.Future[None]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def submit(self, name: str, beat: Heartbeat) -> None:
        """Returns once the report is in the state. Raises LogError, Refused."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        report = NodeReport(node_name=name, node_id=beat.node_id, incarnation=beat.incarnation, pods=beat.pods)
        self._waiting.append((report, done))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send())
        await done

    async def _send(self) -> None:
        while self._waiting:
            batch = self._take()
            try:
                reply = await self._store.submit(ReportPods(reports=tuple(report for report, _ in batch)))
            except LogError as error:
                _settle(batch, error)
            else:
                stale = isinstance(reply, Rejection) and reply.refusal in (Refusal.STALE_INCARNATION, Refusal.NOT_FOUND)
                _settle(batch, of_rejection(reply) if stale and isinstance(reply, Rejection) else None)

    def _take(self) -> list[tuple[NodeReport, asyncio.Future[None]]]:
        taken, pods = 0, 0
        for report, _ in self._waiting:
            if taken and pods + len(report.pods) > MAX_PODS_PER_ENTRY:
                break
            taken, pods = taken + 1, pods + len(report.pods)
        batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return batch


def _settle(batch: list[tuple[NodeReport, "asyncio.Future[None]"]], error: LogError | Refused | None) -> None:
    for _, done in batch:
        if done.done():
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
