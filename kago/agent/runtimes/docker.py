"""Pods as containers of a Docker engine, through the docker package.

That package blocks, so each call runs in one of three bounded sets of threads (looking, acting, pulling), none of which a
heartbeat ever waits for. Identity is the label set: a container is this agent's if it carries its cluster's and its own id, and
nothing else is ever listed, stopped or removed. Never two of a pod: its name follows from the pod's, and the engine allows a name
once. Restart policy is "no": the agent restarts, so that backoff, counters and the wish to stop are in one place; while no agent
runs, a container that crashed waits for it. A restart starts the same container again; `pull_policy: always` asks the registry
whenever a container is created.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar

import docker
import urllib3
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import LogConfig
from docker.utils import kwargs_from_env

from kago.agent.runtime import LAST_LINES, EngineUnavailable, Observed, Owner, Progress, RuntimeFailed, last_lines
from kago.agent.runtimes.images import Images
from kago.agent.runtimes.threads import Threads, tell
from kago.core.model.deployment import Network, Runtime
from kago.core.model.pod import Pod

logger = logging.getLogger("kago.agent.docker")

T = TypeVar("T")

CALL_S = 5
"""Deadline of what an engine answers from memory."""
ACT_S = 60
"""Deadline of creating, starting and removing: these touch its disk."""
REFRESH_S = 30.0
"""All containers are listed and inspected anew this often; between that the engine's events say which to look at."""
RECONNECT_S = 1.0
STAMP_S = 0.5
"""The engine notes when a container started this much later at most; by then it may have written something. Less than any restart delay."""
EVENTS = ("start", "die", "destroy", "pause", "unpause", "health_status")
"""What moves what is observed of a container; each health check alone is three events more."""
MIB = 1024 * 1024
LOG_LIMITS = {"max-size": "10m", "max-file": "2"}

CLUSTER, AGENT, NODE = "kago.cluster", "kago.agent", "kago.node"
DEPLOYMENT, POD, POD_NAME, INCARNATION, GRACE = "kago.deployment", "kago.pod", "kago.pod-name", "kago.incarnation", "kago.stop-grace"


class DockerRuntime:
    kind = Runtime.DOCKER

    def __init__(self, environment: Mapping[str, str]) -> None:
        """`environment`: DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH are honoured."""
        self._environment = dict(environment)
        self._clients: dict[int, docker.APIClient] = {}
        self._connecting = threading.Lock()
        self._looking = Threads(3, "docker-look")
        self._acting = Threads(8, "docker-act")
        self._images = Images(self._engine)
        self._owner: Owner | None = None
        self._changed: Callable[[], None] = lambda: None
        self._seen: dict[str, Observed] = {}
        """All containers by id, as they were last inspected."""
        self._seen_at = 0.0
        """When all were listed (monotonic)."""
        self._stirred = {""}
        """Containers to be looked at again ("": all of them)."""
        self._starting: dict[str, set[str]] = {}
        """Pods that are being started, and their containers of which events told meanwhile: these are looked at once, afterwards."""
        self._cpus = 0
        """Of the engine's machine; 0 until it was asked since its events were last followed."""
        self._moved: dict[str, asyncio.Event] = {}
        """Set when the engine tells of a container that somebody waits for."""
        self._closed = threading.Event()
        self._stream: Any = None

    async def answers(self) -> str:
        """Empty if an engine answers, else why not."""
        try:
            await self._call(self._looking, lambda: self._engine(CALL_S).ping())
        except EngineUnavailable as error:
            return str(error)
        except APIError as error:
            return explain(error)
        return ""

    async def open(self, owner: Owner, changed: Callable[[], None]) -> None:
        self._owner, self._changed = owner, changed
        threading.Thread(target=self._listen, args=(asyncio.get_running_loop(),), name="docker-events", daemon=True).start()

    async def list(self) -> tuple[Observed, ...]:
        now, known, stirred = time.monotonic(), self._seen, self._stirred
        anew = "" in stirred or now - self._seen_at > REFRESH_S
        self._stirred = set()
        try:
            self._seen = await self._call(self._looking, lambda: self._look({}, self._listed()) if anew else self._look(known, stirred))
        except BaseException as error:
            self._stirred.add("")
            if isinstance(error, APIError):
                raise EngineUnavailable(explain(error)) from error
            raise
        if anew:
            self._seen_at = now
        return tuple(self._seen.values())

    async def prepare(self, pod: Pod, progress: Progress) -> None:
        if any(one.pod_id == pod.id for one in self._seen.values()):
            return  # it has a container, hence an image
        await self._images.provide(pod.image, pod.pull_policy, progress)

    async def start(self, pod: Pod) -> None:
        known = next((one.ref for one in self._seen.values() if one.pod_id == pod.id), None)
        told = self._starting[pod.id] = set()
        try:
            await self._call(self._acting, lambda: self._start(pod, known, told))
        except EngineUnavailable:
            told.add("")  # It may have been made all the same.
            raise
        finally:
            del self._starting[pod.id]
            self._stirred |= told

    async def remove(self, ref: str, grace_s: float) -> None:
        try:
            signal = await self._call(self._looking, lambda: self._stop_signal(ref))
            if signal is not None:
                await self._call(self._acting, lambda: self._signal(ref, signal))
                if not await self._ended(ref, grace_s):
                    await self._call(self._acting, lambda: self._signal(ref, "SIGKILL"))
                    await self._ended(ref, CALL_S)
            await self._call(self._acting, lambda: self._erase(ref))
        except APIError as error:
            raise RuntimeFailed("StopError", explain(error)) from error
        finally:
            self._stirred.add(ref)
            self._changed()

    async def last_output(self, ref: str) -> str:
        try:
            output = await self._call(self._looking, lambda: self._output(ref))
        except (APIError, EngineUnavailable) as error:
            logger.debug("no output of %s: %s", ref, error)  # e.g. a log driver that cannot be read back
            return ""
        return last_lines(output)

    async def close(self) -> None:
        self._closed.set()
        if self._stream is not None:
            self._stream.close()
        self._images.close()

    # -- in a thread -------------------------------------------------------------------------------------------------

    def _engine(self, timeout_s: int) -> docker.APIClient:
        """The client for calls of that deadline; connects (to learn the API version) at its first use."""
        with self._connecting:
            if timeout_s not in self._clients:
                options = kwargs_from_env(environment=self._environment)
                client = self._clients[timeout_s] = docker.APIClient(**options, version="auto", timeout=timeout_s, max_pool_size=16)
                # Proxies and .netrc are for engines elsewhere; requests looks for them at each call.
                client.trust_env = not str(options.get("base_url", "unix:")).startswith("unix:")
            return self._clients[timeout_s]

    def _listed(self) -> Iterable[str]:
        return [str(one["Id"]) for one in self._engine(CALL_S).containers(all=True, filters={"label": [*self._mine()]})]

    def _look(self, known: Mapping[str, Observed], refs: Iterable[str]) -> dict[str, Observed]:
        """What is known, and these as they are now."""
        engine, found = self._engine(CALL_S), dict(known)
        for ref in refs:
            try:
                found[ref] = observed_from(engine.inspect_container(ref))
            except NotFound:
                found.pop(ref, None)
        return found

    def _mine(self, pod_id: str | None = None) -> tuple[str, ...]:
        if self._owner is None:
            raise EngineUnavailable("the runtime is not open")
        pod = () if pod_id is None else (f"{POD}={pod_id}",)
        return (f"{CLUSTER}={self._owner.cluster_id}", f"{AGENT}={self._owner.agent_id}", *pod)

    def _start(self, pod: Pod, known: str | None, told: set[str]) -> None:
        """`known`: its container, when they were last looked at. One that runs may be started again: the engine lets it be.
        Each that there is in the end, running or not, is in `told`."""
        engine = self._engine(ACT_S)
        ref = known or self._create(engine, pod)
        told.add(ref)
        try:
            try:
                engine.start(ref)
            except NotFound:
                if known is None:
                    raise
                ref = self._create(engine, pod)
                told.add(ref)
                engine.start(ref)
        except APIError as error:
            raise RuntimeFailed("StartError", explain(error)) from error

    def _create(self, engine: docker.APIClient, pod: Pod) -> str:
        name = f"kago-{pod.name}"
        try:
            settings = self._settings(engine, pod)
            return str(engine.create_container(pod.image, name=name, **settings)["Id"])
        except ImageNotFound as error:
            raise RuntimeFailed("ErrImagePull", f"the image {pod.image} is gone again: {explain(error)}") from error
        except APIError as error:
            if error.status_code == 409:
                return self._own_by_name(engine, name, pod, explain(error))
            raise RuntimeFailed("CreateError", explain(error)) from error

    def _own_by_name(self, engine: docker.APIClient, name: str, pod: Pod, conflict: str) -> str:
        """The name is taken: by this very pod's container (a call that seemed to fail had not), or by somebody else's."""
        try:
            there = engine.inspect_container(name)
        except APIError as error:
            raise RuntimeFailed("NameConflict", conflict) from error
        labels = there["Config"]["Labels"] or {}
        if all(labels.get(key) == value for key, _, value in (label.partition("=") for label in self._mine(pod.id))):
            return str(there["Id"])
        raise RuntimeFailed("NameConflict", f"a container that is not this agent's has the name {name} (id {there['Id'][:12]})")

    def _settings(self, engine: docker.APIClient, pod: Pod) -> dict[str, Any]:
        owner = self._owner
        if owner is None:
            raise EngineUnavailable("the runtime is not open")
        # an engine refuses more CPUs than the machine has, while a node may promise more than that
        self._cpus = self._cpus or int(engine.info().get("NCPU", 0) or 1_000_000)
        millis = min(pod.resources.cpu_millis, self._cpus * 1000)
        limits = engine.create_host_config(
            nano_cpus=millis * 1_000_000,
            mem_limit=pod.resources.memory_mb * MIB,
            memswap_limit=pod.resources.memory_mb * MIB,
            network_mode=pod.network.value,
            log_config=LogConfig(type=LogConfig.types.JSON, config=LOG_LIMITS),
        )
        labels = {
            **{key: value for key, value in pod.labels.items() if not key.startswith("kago.")},
            CLUSTER: owner.cluster_id,
            AGENT: owner.agent_id,
            NODE: owner.node_name,
            DEPLOYMENT: pod.deployment_name,
            POD: pod.id,
            POD_NAME: pod.name,
            INCARNATION: str(owner.incarnation),
            GRACE: str(pod.stop_grace_s),
        }
        given = {"KAGO_POD_NAME": pod.name, "KAGO_POD_ID": pod.id, "KAGO_NODE_NAME": owner.node_name}
        return {
            "entrypoint": list(pod.command) or None,
            "command": list(pod.args) or None,
            "environment": {**pod.env, **given},
            "hostname": None if pod.network is Network.HOST else pod.name[:63].strip("-."),
            "labels": labels,
            "host_config": limits,
        }

    def _output(self, ref: str) -> bytes:
        """Of its last start only: the engine keeps the output of them all."""
        engine = self._engine(CALL_S)
        started_at = seconds(engine.inspect_container(ref)["State"]["StartedAt"])
        # The engine stamps the start after the program's first lines, and a start comes at least a second after the end before it.
        return engine.logs(ref, tail=LAST_LINES, since=None if started_at is None else started_at - 0.9)

    def _stop_signal(self, ref: str) -> str | None:
        """The signal that asks it to stop; None where it does not run or is gone."""
        try:
            there = self._engine(CALL_S).inspect_container(ref)
        except NotFound:
            return None
        return str(there["Config"].get("StopSignal") or "SIGTERM") if there["State"]["Running"] else None

    def _signal(self, ref: str, signal: str) -> None:
        try:
            self._engine(ACT_S).kill(ref, signal=signal)
        except APIError as error:
            if error.status_code not in (404, 409):  # it ended by itself meanwhile
                raise

    def _erase(self, ref: str) -> None:
        try:
            self._engine(ACT_S).remove_container(ref, v=True, force=True)
        except APIError as error:
            if error.status_code not in (404, 409):  # gone, or being removed already: the next list shows whether it went
                raise

    # -- watching ----------------------------------------------------------------------------------------------------

    async def _ended(self, ref: str, within_s: float) -> bool:
        """Whether it stops running in time; told by the engine's events, asked now and then in case one is missed."""
        moved = self._moved.setdefault(ref, asyncio.Event())
        deadline = time.monotonic() + within_s
        try:
            while True:
                moved.clear()
                if await self._call(self._looking, lambda: self._stop_signal(ref)) is None:
                    return True
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                try:
                    async with asyncio.timeout(min(left, 1.0)):
                        await moved.wait()
                except TimeoutError:
                    continue
        finally:
            self._moved.pop(ref, None)

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """The thread of the event stream. Where it breaks, everything is looked at anew."""
        while not self._closed.is_set():
            try:
                wanted = {"type": "container", "event": [*EVENTS], "label": [*self._mine()]}
                self._stream = self._engine(CALL_S).events(filters=wanted, decode=True)
                self._cpus = 0
                self._tell(loop)  # whatever happened before
                for event in self._stream:
                    actor = event.get("Actor", {})
                    self._tell(loop, str(event.get("id") or actor.get("ID", "")), str(actor.get("Attributes", {}).get(POD, "")))
            except (OSError, DockerException, urllib3.exceptions.HTTPError, ValueError) as error:
                logger.debug("event stream of the engine broke: %s", error)
            if not self._closed.is_set():
                self._tell(loop)
                self._closed.wait(RECONNECT_S)

    def _tell(self, loop: asyncio.AbstractEventLoop, ref: str = "", pod_id: str = "") -> None:
        if not self._closed.is_set():
            tell(loop, lambda: self._on_event(ref, pod_id))

    def _on_event(self, ref: str, pod_id: str) -> None:
        if ref in self._moved:
            self._moved[ref].set()
        if pod_id in self._starting:
            self._starting[pod_id].add(ref)
        else:
            self._stirred.add(ref)
            self._changed()

    async def _call(self, threads: Threads, call: Callable[[], T]) -> T:
        """Run it in a thread. APIError is the engine's answer; everything else that goes wrong means that it gave none."""
        try:
            return await threads.run(call)
        except (APIError, RuntimeFailed, EngineUnavailable):
            raise
        except (OSError, DockerException, urllib3.exceptions.HTTPError) as error:
            raise EngineUnavailable(f"no answer from the Docker engine: {error}") from error


def observed_from(there: Mapping[str, Any]) -> Observed:
    """From an inspected container."""
    state, labels = there["State"], there["Config"]["Labels"] or {}
    started = seconds(state.get("StartedAt", ""))
    running = bool(state["Running"])
    health = state.get("Health") or {}
    checked = health.get("Status", "none") in ("none", "healthy", "")
    last_check = (health.get("Log") or [{}])[-1].get("Output", "")
    return Observed(
        pod_id=labels.get(POD, ""),
        runtime=Runtime.DOCKER,
        ref=there["Id"],
        run=state["StartedAt"] if started is not None else "",
        running=running,
        healthy=checked,
        started_at=started,
        finished_at=None if running else seconds(state.get("FinishedAt", "")),
        exit_code=None if running or started is None else state["ExitCode"],
        oom_killed=bool(state.get("OOMKilled")) and not running,
        grace_s=_number(labels.get(GRACE, ""), 10.0),
        detail=str(state.get("Error", "")) if checked else last_lines(f"health check: {health['Status']}. {last_check}".encode()),
    )


def seconds(stamp: str) -> float | None:
    """Since the epoch, of the engine's RFC 3339 time; None for its year 1, which means never."""
    if not stamp or stamp.startswith("0001-"):
        return None
    return datetime.fromisoformat(stamp).timestamp()


def explain(error: APIError) -> str:
    """The engine's own words."""
    return str(error.explanation or error).strip()


def _number(text: str, default: float) -> float:
    try:
        return float(text)
    except ValueError:
        return default
