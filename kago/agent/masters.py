"""How an agent and the control plane hear of each other: registration, heartbeats with reports, and the watch of its pods.

Any master will do, and all of them may be away: then only the wishes stand still. Two clients, so that a watch that leaves a
master and a heartbeat that leaves one do not push each other about.

A master's view is believed only if it is whole (`synced`), at least as new in index and epoch as any taken over before, no older than
this life's registration (the notes may be a copy from before a former life was given its pods), and if after it came a heartbeat
was answered under this agent's identity; else a master that was left behind, or one set up anew on the same address, could make the
agent remove what runs.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import aclosing

import msgspec

from kago.agent.notes import Notebook
from kago.agent.report import MAX_REPORTS, unheard
from kago.agent.worker import Worker
from kago.client.client import Client
from kago.client.errors import ClientError, Problem
from kago.client.walk import usable_urls
from kago.clock import Clock
from kago.core.model.node import NodeStatus
from kago.core.model.pod import PHASE_ORDER, Pod
from kago.core.model.report import Heartbeat, HeartbeatReply, PodReport, Registration, RegistrationReply, WatchEvent

logger = logging.getLogger("kago.agent")

SILENCE_S = 2.5
"""A watch without a line for this long is left; masters send agents one every second, and in large clusters two in that time."""
HEARD_S = 5.0
"""A listing waits this long for a heartbeat to be answered, else it is not believed."""
BEHIND_S = 5.0
"""A watch whose master lags this far behind what another one said is left."""
FIRST_HEARTBEAT_S = 1.0
LEAST_HEARTBEAT_S, MOST_HEARTBEAT_S = 0.05, 60.0
"""Whatever a master says: neither a flood nor a silence without end."""
CALL_S = 3.0
"""Deadline of every call to the control plane, all masters tried in it."""
AGAIN_S = 0.3
"""After a failed call; longer after the next. All these times stretch with the heartbeats, which stretch with the number of nodes."""
TAKEOVER_S = 30.0
"""How long a fresh agent waits for a former one of the same name to be given up by the cluster."""
LEAVE_S = 2.0
MAX_REMOVED = 200
"""Servers whose removal is remembered, the last ones: certificates live for 30 days."""


class Superseded(Exception):
    """This agent must not act any more; its containers are left as they are."""


class Outdated(Superseded):
    """Its data directory is older than what the cluster knows, and nobody else runs under its identity: a new life is noted, begin it."""


class Masters:
    def __init__(
        self,
        registration: Registration,
        notebook: Notebook,
        worker: Worker,
        clock: Clock,
        *,
        telling: Client,
        watching: Client,
        dice: random.Random,
        on_removed: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_removed` is called where the cluster says that this node was removed for good."""
        self._registration = registration
        self._notebook = notebook
        self._worker = worker
        self._clock = clock
        self._telling = telling
        self._watching = watching
        self._dice = dice
        self._on_removed = on_removed
        self._acknowledged: dict[str, PodReport] = {}
        self._unproved: dict[str, int] = {}
        """Pods of the last acknowledgements, and the log index from which on the watch must show what was told."""
        self._told: dict[str, PodReport] = {}
        """The worker's reports that are acknowledged as a whole."""
        self._news = asyncio.Event()
        self._heartbeat_s = FIRST_HEARTBEAT_S
        self._registered = False
        self._ever_registered = False
        self._joined = asyncio.Event()
        self._joined_at = 0
        """Log index at which this life was registered."""
        self._heard = asyncio.Event()
        """Set by each heartbeat that was answered."""
        self._resume: int | None = None
        self._newest = 0
        self._floor, self._floor_at = 0, clock.monotonic()
        """A log index known for at least BEHIND_S."""
        self._lost = ""
        self._unsure = False
        """Whether the server that is watched may be one that was removed."""

    def news(self) -> None:
        """There is something to report: send it now."""
        self._news.set()

    @property
    def heard(self) -> bool:
        """Whether the last call reached a master."""
        return self._registered and not self._lost

    # -- telling -----------------------------------------------------------------------------------------------------

    async def tell(self) -> None:
        """Register and send heartbeats for ever. Superseded when another agent has this node's place."""
        since, failures = self._clock.monotonic(), 0
        while True:
            self._news.clear()
            pause = self._again_s(failures) * self._dice.uniform(0.7, 1.3)
            try:
                if not self._registered:
                    await self._register()
                if self._registered:
                    pause = await self._beat()
            except Problem as problem:
                if problem.status == 404:
                    logger.warning("the cluster does not know this node (any more), registering again")
                    self._registered, self._told = False, {}
                    self._acknowledged.clear()
                elif problem.status == 409:
                    await self._give_way(problem, waited_s=self._clock.monotonic() - since)
                    pause = 1.0
                elif problem.status == 403:
                    if problem.type == "removed":
                        self._on_removed()
                    raise Superseded(problem.detail) from problem
                elif problem.status in (400, 422) and not self._ever_registered:
                    raise Superseded(f"the cluster does not accept this node: {problem}") from problem
                self._note_loss(problem)
            except ClientError as error:
                self._note_loss(error)
            failures = failures + 1 if self._lost else 0
            if self._lost:
                await asyncio.sleep(pause)  # news do not make a master answer
            elif pause > 0:
                await self._pause(pause)

    def _again_s(self, failures: int) -> float:
        """Many agents that come again and again at once would keep busy servers busy; few ones are not to be given up for their manners."""
        return min(AGAIN_S * 2.0 ** min(failures, 10), max(AGAIN_S, self._heartbeat_s / 4))

    async def _give_way(self, problem: Problem, *, waited_s: float) -> None:
        """Another agent has this node's place. Returns where its end may be waited for; Superseded, Outdated."""
        stale = problem.type == "stale-incarnation"
        if not self._ever_registered and stale and problem.node_status not in ("", NodeStatus.READY):
            # Its life is over, so it was ours: this directory is a copy from before. Two agents that live never get here.
            await self._note(incarnation=max(problem.incarnation, self._registration.incarnation), superseded=False)
            raise Outdated(f"{problem.detail}: this data directory is from before that, and begins a new life")
        if self._ever_registered or waited_s > TAKEOVER_S or (stale and not problem.node_status):
            if stale:
                await self._note(superseded=True)
            raise Superseded(problem.detail) from problem

    async def _note(self, **known: object) -> None:
        self._notebook.notes = msgspec.structs.replace(self._notebook.notes, **known)
        await self._worker.save()

    async def leave(self) -> None:
        """Say that the agent stops on purpose; if nobody hears it the lease will run out all the same."""
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._telling.heartbeat(self._registration.name, self._heartbeat((), leaving=True))
        except (ClientError, TimeoutError) as error:
            logger.info("no master took the good-bye: %s", error)

    async def _register(self) -> None:
        reply = await self._telling.register(self._registration)
        if not reply.cluster_id:
            return  # no leader has named the cluster yet
        notes = self._notebook.notes
        if notes.cluster_id and reply.cluster_id != notes.cluster_id:
            raise Superseded(
                f"{self._notebook.data_dir} belongs to cluster {notes.cluster_id}, but the masters are of cluster {reply.cluster_id}; "
                "give the agent another --data-dir to join that one"
            )
        self._check_epoch(reply.epoch)
        self._notebook.notes = msgspec.structs.replace(notes, cluster_id=reply.cluster_id, superseded=False)
        self._worker.wake()
        self._learn(reply)
        self._registered = self._ever_registered = True
        self._joined_at = reply.index
        self._joined.set()
        logger.info("registered as node %s of cluster %s", self._registration.name, reply.cluster_id)

    async def _beat(self) -> float:
        """Returns how long to wait before the next one."""
        said = self._worker.said
        reports = unheard(said, self._acknowledged) if said is not self._told else ()
        reply = await self._telling.heartbeat(self._registration.name, self._heartbeat(reports))
        self._check_epoch(reply.epoch)
        if said is not self._told:
            self._acknowledged.update({report.pod_id: report for report in reports})
            self._unproved.update({report.pod_id: reply.index for report in reports})
            for pod_id in self._acknowledged.keys() - said.keys():
                del self._acknowledged[pod_id]
            if len(reports) < MAX_REPORTS and len(self._acknowledged) == len(said):
                self._told = said
        self._learn(reply)
        if self._lost:
            logger.info("a master answers again")
            self._lost = ""
        self._heard.set()
        return 0.0 if len(reports) == MAX_REPORTS else self._heartbeat_s * self._dice.uniform(0.8, 1.0)

    def _check_epoch(self, epoch: int) -> None:
        """Leave a master of an earlier life of the cluster, from before it was restored or recovered: a lease there is worth nothing."""
        known = self._notebook.notes.epoch
        if epoch < known:
            self._telling.leave()
            raise ClientError(f"this master knows epoch {epoch}, one seen before was of epoch {known}: it is left behind")

    def _heartbeat(self, reports: tuple[PodReport, ...], *, leaving: bool = False) -> Heartbeat:
        registration = self._registration
        return Heartbeat(node_id=registration.id, incarnation=registration.incarnation, pods=reports, leaving=leaving)

    def _learn(self, reply: HeartbeatReply | RegistrationReply) -> None:
        self._heartbeat_s = min(max(reply.heartbeat_s, LEAST_HEARTBEAT_S), MOST_HEARTBEAT_S)
        self._telling.allow(max(CALL_S, self._heartbeat_s / 2))
        now = self._clock.monotonic()
        if now - self._floor_at >= BEHIND_S:
            self._floor, self._floor_at = self._newest, now
        self._newest = max(self._newest, reply.index)
        self._shut_out(reply.removed_servers)
        masters = self._notebook.notes.masters
        if reply.servers == masters:
            return
        servers = usable_urls(reply.servers)  # noted, one that is none would keep the agent from its next start
        if servers and servers != masters:
            self._notebook.notes = msgspec.structs.replace(self._notebook.notes, masters=servers)
            self._telling.learn(servers)
            self._watching.learn(servers)
            self._worker.wake()  # it writes the notes

    def _shut_out(self, removed: dict[str, int]) -> None:
        """Servers that were removed: what they still hold open of ours is left, and nothing new is made."""
        known = self._notebook.notes.removed_servers
        news = {id: index for id, index in removed.items() if index > known.get(id, 0)}
        if news:
            newest = sorted({**known, **news}.items(), key=lambda item: item[1])[-MAX_REMOVED:]
            self._notebook.notes = msgspec.structs.replace(self._notebook.notes, removed_servers=dict(newest))
            self._telling.leave()
            self._watching.leave()
            self._unsure = True
            self._worker.wake()

    def _note_loss(self, error: ClientError) -> None:
        if str(error) != self._lost:
            logger.warning("heartbeat: %s", error)
        self._lost = str(error)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return

    # -- watching ----------------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Follow this node's pods on one master after the other, for ever."""
        said, failures = "", 0
        while True:
            began = self._clock.monotonic()
            try:
                await self._follow()
                raise _Behind("the stream ended")
            except Problem as problem:
                if problem.status == 410:
                    self._resume = None  # too much has happened since: begin with a listing
                error = str(problem)
            except (ClientError, _Behind, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as trouble:
                error = str(trouble)
                if not isinstance(trouble, ClientError):
                    self._watching.leave()
            if error != said:
                logger.info("watch of the pods: %s", error)
                said = error
            failures = failures + 1 if self._clock.monotonic() - began < self._heartbeat_s else 0
            await asyncio.sleep(self._again_s(failures) * self._dice.uniform(0.3, 1.0))

    async def _follow(self) -> None:
        """One stream, until it breaks."""
        await self._joined.wait()
        params = {"node_name": self._registration.name}
        view: dict[str, Pod] | None = None
        if self._resume is None:
            view = {}
            params["min_index"] = str(max(self._notebook.notes.index, self._joined_at))
        else:
            params["index"] = str(self._resume)
        async with aclosing(self._watching.watch("/pods", params, silence_s=max(SILENCE_S, 0.75 * self._heartbeat_s))) as events:
            async for event in events:
                match event.type:
                    case "put" | "removed":
                        self._take(event, view)
                    case "synced" if view is not None:
                        await self._take_over(view, event)
                        view = None
                if self._unsure:
                    self._unsure = False
                    raise _Behind("a server was removed: this may be it")
                if view is None:
                    self._resume = max(self._resume or 0, event.complete)
                    self._prove(self._resume)
                    if event.type == "heartbeat" and event.index < self._floor:
                        raise _Behind(f"this master is at index {event.index}, others were at {self._floor} {BEHIND_S:.0f} s ago")

    def _take(self, event: WatchEvent, view: dict[str, Pod] | None) -> None:
        pod = msgspec.convert(event.object, Pod)
        mine = event.type == "put" and pod.node_name == self._registration.name
        if mine:
            self._compare(pod)
        if view is not None:
            if mine:
                view[pod.id] = pod
        elif mine:
            self._worker.want(pod, index=event.index)
        else:
            self._worker.forget(pod.id, index=event.index)

    def _prove(self, index: int) -> None:
        """The watch has come to `index`: what was acknowledged by then and is not shown was overtaken on its way to the acknowledgement."""
        for pod_id in [pod_id for pod_id, least in self._unproved.items() if least <= index]:
            del self._unproved[pod_id]
            pod = self._worker.pod(pod_id)
            if pod is not None:
                self._compare(pod)

    def _compare(self, pod: Pod) -> None:
        """Say it again where the cluster believes what it was told before: a heartbeat that hung somewhere has come after a later one."""
        told = self._acknowledged.get(pod.id)
        if told is None or told != self._worker.said.get(pod.id) or not pod.live or PHASE_ORDER[told.status] < PHASE_ORDER[pod.status]:
            return  # The last: a pod goes forward only, however often it is said to have gone back.
        if (pod.ready, pod.reason) != (told.ready, told.reason):
            del self._acknowledged[pod.id]
            self._told = {}
            self.news()

    async def _take_over(self, view: dict[str, Pod], event: WatchEvent) -> None:
        notes = self._notebook.notes
        if event.index < notes.index or event.epoch < notes.epoch:
            raise _Behind(f"this master's view is {event.index} (epoch {event.epoch}), one seen before was {notes.index} ({notes.epoch})")
        self._heard.clear()
        self.news()
        try:
            async with asyncio.timeout(HEARD_S):
                await self._heard.wait()
        except TimeoutError:
            raise _Behind("it lists pods, but no heartbeat is answered") from None
        if event.index < self._joined_at:
            raise _Behind(f"this master's view is {event.index}, this agent was registered at {self._joined_at}")
        self._worker.take_over(view, index=event.index, epoch=event.epoch)


class _Behind(Exception):
    """Another master is the better one to watch."""
