"""Drives a replica from the event loop, without a thread of its own and without polling.

Something came in, somebody asked, or a deadline of PySyncObj's came: one step runs, as a plain callback. The journal's sync happens inside
the step while the disk is fast; once syncs take long they move to a thread, and whatever comes in meanwhile forms the next batch. Why
not a thread for all of it: beside a busy event loop each system call of a second thread gives up the GIL and waits up to the
switch interval (5 ms) to get it back, and a write makes a dozen.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from ssl import SSLContext

from raft.contract import Clock, RaftConfig, StateMachine
from raft.disk import FileDisk
from raft.errors import LogError, LogHalted, StartRefused
from raft.replica import Replica
from raft.transport import AsyncioWire, PeerName

_TO_THREAD_S = 0.0015
_TO_LOOP_S = 0.0006
"""Average duration of a sync above which it leaves the event loop, and below which it comes back."""
_WEIGHT = 0.1
_GRACE_S = 0.001
_BEATS_S = 1.0
"""A leader whose sync takes longer than this falls silent: its disk may never answer again, and another one must lead."""


class Driver:
    """Steps of one replica, as callbacks of the running event loop."""

    def __init__(self, replica: Replica, clock: Clock) -> None:
        self._replica = replica
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal-sync")
        self._scheduled = False
        self._called = False
        """Somebody asked for a step that was not begun yet; during a sync nobody can have it at once."""
        self._syncing: asyncio.Future[float] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._average_s = 0.0
        self._threaded = False
        self._stopped = False
        replica.on_wake = self.wake
        replica.quiesce = self.stop

    def wake(self) -> None:
        """There is something to do: run a step once the callbacks already waiting have had their say, and those of whoever comes in until
        then, so that they share it: a step costs much more than a proposal more in it."""
        self._called = True
        if not self._scheduled and self._syncing is None and not self._stopped:
            self._scheduled = True
            self._loop.call_soon(self._loop.call_soon, self._step)

    def _step(self) -> None:
        self._scheduled = False
        if self._stopped or self._syncing is not None:
            return
        replica = self._replica
        self._called = False
        replica.work()
        if replica.dirty:
            if self._threaded:
                self._syncing = self._loop.run_in_executor(self._thread, self._timed_sync)
                self._syncing.add_done_callback(self._synced)
                self._beat(self._syncing, self._clock.monotonic() + _BEATS_S)
                return
            began = self._clock.monotonic()
            replica.sync_or_halt()
            self._measured(self._clock.monotonic() - began)
        self._finish()

    def _beat(self, sync: "asyncio.Future[float]", until: float) -> None:
        """A sync may take longer than the others wait for their leader: its signs of life go on meanwhile."""
        now = self._clock.monotonic()
        if self._syncing is sync and not self._stopped and now < until and (due := self._replica.outbox.beat(now)) < until:
            self._loop.call_later(due - now + _GRACE_S, self._beat, sync, until)

    def _timed_sync(self) -> float:
        began = self._clock.monotonic()
        self._replica.sync()
        return self._clock.monotonic() - began

    def _synced(self, future: "asyncio.Future[float]") -> None:
        self._syncing = None
        error = future.exception()
        if error is not None:
            self._replica.halt(LogHalted(f"the journal cannot be written: {error}"))
        else:
            self._measured(future.result())
        if not self._stopped:
            self._finish()

    def _measured(self, took_s: float) -> None:
        self._average_s += _WEIGHT * (took_s - self._average_s)
        if self._average_s > _TO_THREAD_S:
            self._threaded = True
        elif self._average_s < _TO_LOOP_S:
            self._threaded = False

    def _finish(self) -> None:
        self._replica.flush()
        if self._called:
            self.wake()
        else:
            self._sleep()

    def _sleep(self) -> None:
        due, now = self._replica.deadline(), self._clock.monotonic()
        if due <= now:
            self.wake()
        elif self._timer is None or due < self._timer_at:
            # A timer that comes too early finds nothing due and goes back to sleep: cheaper than moving it at each heartbeat.
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._timer_at = None, due
            if due != float("inf"):
                self._timer = self._loop.call_later(due - now + _GRACE_S, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        if self._syncing is None and not self._stopped:
            if self._replica.deadline() <= self._clock.monotonic():
                self.wake()
            else:
                self._sleep()

    async def stop(self) -> None:
        """No more steps; a sync under way is waited for."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._syncing is not None:
            await asyncio.wait([self._syncing])
        self._thread.shutdown(wait=True)


async def open_replica(
    config: RaftConfig,
    machine: StateMachine,
    data_dir: Path,
    *,
    clock: Clock,
    random: Random | None = None,
    on_fatal: Callable[[LogError], None] | None = None,
    insecure: bool = False,
    bind: str | None = None,
    server_ssl: SSLContext | None = None,
    client_ssl: SSLContext | None = None,
    peer_name: PeerName | None = None,
) -> Replica:
    """Start the replica of `data_dir` on the running event loop. StartRefused, OSError where the port cannot be bound."""
    if len({server_ssl is None, client_ssl is None, peer_name is None}) > 1:
        raise StartRefused("encryption needs a server's and a client's context and the name in a certificate")
    dice = random or Random()  # seeded by the system; nothing that is drawn is a secret
    wire = AsyncioWire(clock=clock, random=dice, server_ssl=server_ssl, client_ssl=client_ssl, peer_name=peer_name, insecure=insecure)
    snapshots = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
    disk = FileDisk(data_dir)
    try:
        replica = Replica(config, machine, disk=disk, wire=wire, clock=clock, random=dice, executor=snapshots, on_fatal=on_fatal)
        await wire.listen(bind or replica.identity.address)
        driver = Driver(replica, clock)
        replica.start()
    except BaseException:
        wire.close()
        snapshots.shutdown(wait=False)
        disk.close()
        raise

    def closed() -> None:
        snapshots.shutdown(wait=True)
        disk.close()

    replica.on_closed = closed
    driver.wake()
    return replica
