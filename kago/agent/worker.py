"""The part of an agent that makes what runs equal to what is wanted: look, remember, plan, act, say.

It goes round whenever something moved (a new wish, an event of a runtime, an action that ended, a delay that is over) and every
30 s in any case. Actions run beside it, one at a time for each pod, so that neither a slow pull nor a hanging engine holds up
another pod or a heartbeat. It needs no master: what it knows is on disk before it acts on it.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import msgspec

from kago.agent.notes import Notebook
from kago.agent.plan import Record, Remove, Sight, Start, after_failure, after_sight, containers_by_pod, plan, uncounted_end
from kago.agent.report import Work, reports
from kago.agent.runtime import ContainerRuntime, EngineUnavailable, Observed, Owner, RuntimeFailed
from kago.clock import Clock
from kago.core.model.deployment import Runtime
from kago.core.model.pod import Desired, Pod
from kago.core.model.report import PodReport

logger = logging.getLogger("kago.agent")

RESYNC_S = 30.0
QUIET_S, SETTLE_S = 0.05, 0.02
"""A round that follows another one within the first waits for the second: what moves together is one round, each of which is a report."""
BURST, BURST_S = 4, 0.1
"""With so many actions under way it waits for this long."""
LOOK_S = 6.0
"""A runtime that has not listed its containers by then is taken as not answering."""
BLIND_S = 2.0
"""How long a runtime that did not answer is left alone."""
YOUNG_S = 0.05
"""A container that is there after so long is reported once: each report is an entry in the cluster's log."""
STARTS = 12
"""Containers asked for at once; a runtime creates as many of them at once as does it good."""
AGAIN_S = 5.0
"""Before a container that could not be removed is tried again."""
PROGRESS_S = 3.0
"""Progress of a pull is reported at most this often: each report is an entry in the cluster's log."""


class Worker:
    def __init__(self, notebook: Notebook, runtimes: Mapping[Runtime, ContainerRuntime], node_name: str, clock: Clock) -> None:
        self._notebook = notebook
        self._runtimes = runtimes
        self._node_name = node_name
        self._clock = clock
        self.on_reports: Callable[[], None] = lambda: None
        """Called when `said` changed."""
        self._pods: dict[str, Pod] = {pod.id: pod for pod in notebook.notes.pods}
        self._records: dict[str, Record] = dict(notebook.notes.records)
        self._trusted = False
        self._observed: dict[Runtime, tuple[Observed, ...]] = {}
        self._blind: dict[Runtime, float] = {}
        """Runtimes that did not answer, and when to ask again (monotonic)."""
        self._work: dict[str, Work] = {}
        self._preparing: dict[str, asyncio.Task[None]] = {}
        self._told_at: dict[str, float] = {}
        self._starts = asyncio.Semaphore(STARTS)
        self._saving = asyncio.Lock()
        self._wake = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self.said: dict[str, PodReport] = {}
        """The present report of every pod bound here that there is something to say of."""

    @property
    def pods(self) -> tuple[Pod, ...]:
        return tuple(self._pods.values())

    def pod(self, id: str) -> Pod | None:
        """As it was wanted last."""
        return self._pods.get(id)

    def wake(self) -> None:
        self._wake.set()

    # -- what is wanted ----------------------------------------------------------------------------------------------

    def take_over(self, pods: Mapping[str, Pod], *, index: int, epoch: int) -> None:
        """A master's whole view, none older than one taken over before: from now on what is not in it is unwanted."""
        self._pods = dict(pods)
        self._trusted = True
        self._note(index, epoch)

    def want(self, pod: Pod, *, index: int) -> None:
        known, self._pods[pod.id] = self._pods.get(pod.id), pod
        if _wish(known) is not _wish(pod):  # Else it is only what this agent said itself, come back.
            self._note(index)

    def forget(self, pod_id: str, *, index: int) -> None:
        if self._pods.pop(pod_id, None) is not None:
            self._note(index)

    def _note(self, index: int, epoch: int = 0) -> None:
        notes = self._notebook.notes
        self._notebook.notes = msgspec.structs.replace(notes, pods=self.pods, index=max(index, notes.index), epoch=max(epoch, notes.epoch))
        for pod_id, preparing in self._preparing.items():
            if not self._wanted(pod_id):
                preparing.cancel()
        self.wake()

    def _wanted(self, pod_id: str) -> bool:
        pod = self._pods.get(pod_id)
        return pod is not None and pod.desired is Desired.RUNNING

    # -- rounds ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """For ever, from when the notes have the cluster's id: it is part of every container's identity."""
        while not self._notebook.notes.cluster_id:
            self._wake.clear()
            await self._wake.wait()
        notes = self._notebook.notes
        owner = Owner(cluster_id=notes.cluster_id, agent_id=notes.agent_id, node_name=self._node_name, incarnation=notes.incarnation)
        for runtime in self._runtimes.values():
            await runtime.open(owner, self.wake)
        async with asyncio.TaskGroup() as self._tasks:
            while True:
                self._wake.clear()
                wake_at = await self._round()
                ended = self._clock.monotonic()
                wait_s = RESYNC_S if wake_at is None else min(RESYNC_S, max(0.0, wake_at - self._clock.now()))
                if self._blind:
                    wait_s = min(wait_s, max(0.0, min(self._blind.values()) - self._clock.monotonic()))
                try:
                    async with asyncio.timeout(wait_s):  # not wait_for: it may swallow a cancellation that comes with the event
                        await self._wake.wait()
                except TimeoutError:
                    pass  # a delay is over, or it is time to look again
                if self._clock.monotonic() - ended < QUIET_S:
                    await asyncio.sleep(BURST_S if len(self._work) >= BURST else SETTLE_S)

    async def _round(self) -> float | None:
        # an action that ends while we look may have changed what was just seen: its pod waits for the next round
        unsure = dict(self._work)
        await self._look()
        noted = self._pods.copy()
        saved = await self.save()
        # a wish that came while the notes were written is not on disk yet: acted on, it would be forgotten by a kill
        moved = {pod_id for pod_id in noted.keys() | self._pods.keys() if _wish(noted.get(pod_id)) is not _wish(self._pods.get(pod_id))}
        busy = {*unsure, *self._work, *moved}
        sight = self._sight(noted, trusted=self._trusted and saved)
        next_steps = plan(sight, busy=busy, now=self._clock.now())
        for action in next_steps.actions:
            match action:
                case Start(pod=pod):
                    self._begin(pod.id, self._start(pod))
                case Remove(observed=observed, grace_s=grace_s):
                    self._begin(observed.pod_id, self._remove(observed, grace_s))
        self._say(sight, {**unsure, **self._work})
        return next_steps.wake_at

    async def _look(self) -> None:
        now = self._clock.monotonic()
        due = [runtime for kind, runtime in self._runtimes.items() if self._blind.get(kind, now) <= now]
        await asyncio.gather(*(self._look_at(runtime) for runtime in due))
        seen = containers_by_pod([one for kind, found in self._observed.items() if kind not in self._blind for one in found])
        here = [containers[0] for containers in seen.values() if containers[0].pod_id in self._pods]
        ended = [one for one in here if uncounted_end(self._records.get(one.pod_id, Record()), one)]
        outputs = await asyncio.gather(*(self._runtimes[one.runtime].last_output(one.ref) for one in ended))
        output_of = {one.ref: output for one, output in zip(ended, outputs, strict=True)}
        for one in here:
            record = self._records.get(one.pod_id, Record())
            self._records[one.pod_id] = after_sight(record, one, output_of.get(one.ref, ""), now=self._clock.now())
        kept = {pod_id: record for pod_id, record in self._records.items() if pod_id in self._pods}
        if kept != self._notebook.notes.records:
            self._notebook.notes = msgspec.structs.replace(self._notebook.notes, records=kept)
        self._records = kept.copy()

    async def _look_at(self, runtime: ContainerRuntime) -> None:
        try:
            async with asyncio.timeout(LOOK_S):
                self._observed[runtime.kind] = await runtime.list()
        except (EngineUnavailable, TimeoutError) as error:
            if runtime.kind not in self._blind:
                logger.warning("%s does not answer, its containers are left as they are: %s", runtime.kind, error or "timed out")
            self._blind[runtime.kind] = self._clock.monotonic() + BLIND_S
        else:
            if self._blind.pop(runtime.kind, None) is not None:
                logger.info("%s answers again", runtime.kind)

    async def save(self) -> bool:
        """Whether the notes are on disk now."""
        if self._notebook.saved:
            return True
        try:
            async with self._saving:
                await asyncio.to_thread(self._notebook.flush)
        except OSError as error:
            logger.error("cannot write %s, nothing is removed until that works: %s", self._notebook.data_dir, error)
            return False
        return True

    def _sight(self, pods: Mapping[str, Pod], *, trusted: bool) -> Sight:
        return Sight(
            pods=pods,
            observed=tuple(one for found in self._observed.values() for one in found),
            records=self._records,
            offered=frozenset(self._runtimes),
            blind=frozenset(self._blind),
            trusted=trusted,
        )

    def _say(self, sight: Sight, work: Mapping[str, Work]) -> None:
        said = reports(sight, work, self.said)
        if said != self.said:
            self.said = said
            self.on_reports()

    # -- actions -----------------------------------------------------------------------------------------------------

    def _begin(self, pod_id: str, action: Coroutine[Any, Any, None]) -> None:
        assert self._tasks is not None
        self._work[pod_id] = Work(young=True)
        self._tasks.create_task(self._act(pod_id, action))

    async def _act(self, pod_id: str, action: Coroutine[Any, Any, None]) -> None:
        growing = asyncio.get_running_loop().call_later(YOUNG_S, self._grow, pod_id)
        try:
            await action
        except RuntimeFailed as error:
            self._failed(pod_id, error.reason, error.message)
        except EngineUnavailable as error:
            self._failed(pod_id, "EngineUnavailable", str(error))
        except Exception as error:  # the fault of one pod, ours even, must not take the others' agent away
            logger.exception("pod %s", pod_id)
            self._failed(pod_id, "AgentError", f"{type(error).__name__}: {error}")
            await asyncio.sleep(AGAIN_S)
        finally:
            growing.cancel()
            self._work.pop(pod_id, None)
            self._told_at.pop(pod_id, None)
            self.wake()

    def _grow(self, pod_id: str) -> None:
        """It takes its time: say so."""
        if self._work[pod_id].young:
            self._work[pod_id] = Work()
            self.wake()

    def _failed(self, pod_id: str, reason: str, message: str) -> None:
        logger.warning("pod %s: %s: %s", pod_id, reason, message)
        if pod_id in self._pods:
            self._records[pod_id] = after_failure(self._records.get(pod_id, Record()), reason, message, now=self._clock.now())

    async def _start(self, pod: Pod) -> None:
        runtime, loop = self._runtimes[pod.runtime], asyncio.get_running_loop()

        def progress(reason: str, message: str) -> None:
            loop.call_soon_threadsafe(self._progress, pod.id, reason, message)

        preparing = self._preparing[pod.id] = asyncio.ensure_future(runtime.prepare(pod, progress))
        try:
            await asyncio.wait({preparing})
            if preparing.cancelled() or (preparing.exception() is None and not self._wanted(pod.id)):
                return
            preparing.result()
        finally:
            del self._preparing[pod.id]
            preparing.cancel()
        async with self._starts:
            if self._wanted(pod.id):
                await runtime.start(pod)

    async def _remove(self, observed: Observed, grace_s: float) -> None:
        try:
            await self._runtimes[observed.runtime].remove(observed.ref, grace_s)
        except (RuntimeFailed, EngineUnavailable) as error:
            reason = error.reason if isinstance(error, RuntimeFailed) else "EngineUnavailable"
            logger.warning("container %s of pod %s: %s", observed.ref, observed.pod_id, error)
            self._work[observed.pod_id] = Work(reason=reason, message=str(error))
            self.wake()
            await asyncio.sleep(AGAIN_S)

    def _progress(self, pod_id: str, reason: str, message: str) -> None:
        now = self._clock.monotonic()
        if pod_id in self._preparing and now - self._told_at.get(pod_id, -PROGRESS_S) >= PROGRESS_S:
            self._told_at[pod_id] = now
            self._work[pod_id] = Work(reason=reason, message=message)
            self.wake()


def _wish(pod: Pod | None) -> Desired | None:
    """The one thing of a pod that moves and that its agent obeys."""
    return pod.desired if pod is not None else None
