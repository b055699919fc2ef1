"""`kago demo`: the main promise seen with one's own eyes on one machine, in about a minute, and nothing left behind.

Three servers and two agents are started, an application is deployed and called, the leader is killed with -9 and the application
scaled under its successor; no pod may have been restarted or moved by that. It succeeds only if all of it was seen.
"""

import asyncio
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from kago.cli.console import note, say
from kago.cli.failures import Code, VerbFailed
from kago.cli.local import LOOPBACK, KagoProcess, LocalCluster, run_kago
from kago.client.client import Client
from kago.client.errors import ClientError
from kago.client.status import ClusterStatus
from kago.core.model.deployment import DeploymentPatch
from kago.core.model.node import Node, NodeStatus
from kago.core.model.pod import Pod

Result = TypeVar("Result")

IMAGE = "nginx:alpine"
ENGINE_S = 5.0
PULL_S = 90.0
STEP_S = 60.0
"""Longest wait for anything; a step takes a second or two."""
FIRST_PORT, PORTS = 20_000, 10_000

DOCKER_MANIFEST = f"""\
kind: Deployment
spec:
  name: web
  scheduler: least-allocated
  image: {IMAGE}
  replicas: 2
  resources:
    cpu: 100m
    memory: 64Mi
"""
PROCESS_MANIFEST = """\
kind: Deployment
spec:
  name: web
  scheduler: least-allocated
  runtime: process
  replicas: 2
  resources:
    cpu: 100m
    memory: 256Mi
  env:
    PATH: {path}
  command: [/bin/sh, -c]
  args:
    - port=$(( {first} + $(printf %s "$KAGO_POD_NAME" | cksum | cut -d' ' -f1) % {ports} ));
      exec python3 -m http.server --bind 127.0.0.1 $port
"""


async def run(*, runtime: str, keep: bool) -> int:
    """The exit code. Whatever happens, Ctrl-C included, nothing of it stays."""
    if runtime not in ("auto", "docker", "process"):
        raise VerbFailed(f"--runtime {runtime!r} is none of docker, process, auto", Code.USAGE)
    chosen = await asyncio.to_thread(_choose_runtime, runtime)
    directory = Path(tempfile.mkdtemp(prefix="kago-demo-"))
    prefix = f"demo-{uuid.uuid4().hex[:6]}"
    cluster = LocalCluster(directory, node_prefix=prefix, agent_flags=["--runtime", chosen, "--cpu", "2000", "--memory", "2048"])
    loop = asyncio.get_running_loop()
    this = asyncio.current_task()
    if this is not None:
        loop.add_signal_handler(signal.SIGTERM, this.cancel)
    failed = True
    try:
        async with Client(cluster.urls, timeout_s=10.0) as client:
            await _Story(cluster, client, chosen, keep=keep).tell()
        failed = False
    except (VerbFailed, ClientError) as error:
        note(f"\nerror: {error}")
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        await asyncio.shield(asyncio.to_thread(_clean_up, cluster, failed=failed))
    return Code.ERROR if failed else Code.DONE


class _Story:
    """The steps in order; each prints what it did and how long it took."""

    def __init__(self, cluster: LocalCluster, client: Client, runtime: str, *, keep: bool) -> None:
        self._cluster = cluster
        self._client = client
        self._runtime = runtime
        self._keep = keep
        self._began = time.monotonic()
        self._killed: list[KagoProcess] = []

    async def tell(self) -> None:
        await self._start()
        before = await self._deploy()
        await self._call(before)
        await self._lose_the_leader()
        await self._scale(before)
        if self._keep:
            say(f"\nIt runs on. In another terminal: export KAGO_SERVER={','.join(self._cluster.urls)}\nCtrl-C ends it.")
            await asyncio.Event().wait()
        await self._delete()
        say(f"\nAll of it was seen, in {time.monotonic() - self._began:.1f} s.")

    async def _start(self) -> None:
        say(f"Starting three servers and two agents ({self._runtime}) on {LOOPBACK} …")
        self._cluster.start()

        async def ready() -> ClusterStatus | None:
            cluster = await self._client.cluster()
            nodes = await self._client.list(Node)
            return cluster if cluster.leader and sum(node.status is NodeStatus.READY for node in nodes) == 2 else None

        cluster = await self._until("a leader and two ready nodes", ready)
        self._done(f"leader is {cluster.leader}, both nodes are ready")
        self._show("get", "nodes")

    async def _deploy(self) -> dict[str, Pod]:
        manifest = DOCKER_MANIFEST
        if self._runtime == "process":
            path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
            manifest = PROCESS_MANIFEST.format(path=path, first=FIRST_PORT, ports=PORTS)
        self._show("apply", "-f", "-", "--wait", "--timeout", "2m", stdin=manifest)
        pods = {pod.id: pod for pod in await self._client.list(Pod, deployment_name="web")}
        self._done(f"{len(pods)} pods run on {', '.join(sorted({pod.node_name or '-' for pod in pods.values()}))}")
        self._show("get", "deployments")
        self._show("get", "pods", "-o", "wide")
        return pods

    async def _call(self, pods: dict[str, Pod]) -> None:
        pod = min(pods.values(), key=lambda pod: pod.name)
        url = await asyncio.to_thread(_url_of, pod, self._runtime)

        async def answered() -> str | None:
            return await asyncio.to_thread(_first_line, url)

        line = await self._until(f"an answer of {url}", answered)
        self._done(f"GET {url} ({pod.name}): {line}")

    async def _lose_the_leader(self) -> None:
        before = await self._client.cluster()
        if before.leader is None:
            raise VerbFailed("the cluster lost its leader by itself")
        leader = self._cluster.server_at(before.leader)
        say(f"\n$ kill -9 {leader.pid}    # {leader.name}, the leader")
        self._killed.append(leader)
        leader.kill()
        killed = time.monotonic()
        await self._client.update("web", DeploymentPatch(replicas=2))
        self._done(f"the first write after that was taken {time.monotonic() - killed:.2f} s after the kill")

        async def successor() -> ClusterStatus | None:
            cluster = await self._client.cluster()
            return cluster if cluster.leader not in (None, before.leader) else None

        after = await self._until("a new leader", successor)
        self._done(f"{after.leader} leads now")
        self._show("cluster", "status")

    async def _scale(self, before: dict[str, Pod]) -> None:
        self._show("scale", "web", "4", "--wait", "--timeout", "2m")
        pods = {pod.id: pod for pod in await self._client.list(Pod, deployment_name="web")}
        self._show("get", "pods", "-o", "wide")
        for pod in before.values():
            now = pods.get(pod.id)
            if now is None or (now.container_id, now.restarts, now.node_name) != (pod.container_id, pod.restarts, pod.node_name):
                raise VerbFailed(f"pod {pod.name} did not come through the loss of the leader untouched: {now}")
        self._done(f"{len(pods)} pods; the first {len(before)} were neither restarted nor moved")

    async def _delete(self) -> None:
        self._show("delete", "web")

        async def gone() -> bool | None:
            return True if not await self._client.list(Pod) and not _containers(self._cluster) else None

        await self._until("the last pod to end", gone)
        self._done("no pod and no container is left")

    async def _until(self, what: str, look: Callable[[], Awaitable[Result | None]]) -> Result:
        deadline = time.monotonic() + STEP_S
        why = ""
        while time.monotonic() < deadline:
            try:
                found = await look()
            except ClientError as error:
                why = f" ({error})"
            else:
                if found is not None:
                    return found
            dead = [process for process in self._cluster.processes() if process not in self._killed and not process.running]
            if dead:
                raise VerbFailed(f"{dead[0].name} ended by itself:\n{dead[0].last_words()}")
            await asyncio.sleep(0.1)
        raise VerbFailed(f"waited {STEP_S:.0f} s in vain for {what}{why}")

    def _show(self, *arguments: str, stdin: str = "") -> None:
        if stdin:
            say("\n" + "\n".join(f"  {line}" for line in stdin.splitlines()))
        say(f"\n$ kago {' '.join(arguments)}")
        result = run_kago(arguments, environment={"KAGO_SERVER": ",".join(self._client.servers), "KAGO_OUTPUT": "table"}, stdin=stdin)
        say(result.stdout.rstrip())
        if result.returncode != 0:
            raise VerbFailed(f"`kago {' '.join(arguments)}` ended with {result.returncode}: {result.stderr.strip()}")

    def _done(self, what: str) -> None:
        say(f"[{time.monotonic() - self._began:5.1f} s] {what}")


def _choose_runtime(wanted: str) -> str:
    """Docker where an engine answers and the image can be had, else plain processes; says why."""
    if wanted == "process":
        return wanted
    why = _docker_hindrance()
    if not why:
        return "docker"
    if wanted == "docker":
        raise VerbFailed(why)
    note(f"{why}; the demo's pods run as plain processes.")
    return "process"


def _docker_hindrance() -> str:
    """Why Docker will not do; empty where it will."""
    if shutil.which("docker") is None:
        return "there is no docker command here"
    try:
        if _docker("info", "--format", "{{.ServerVersion}}", timeout_s=ENGINE_S).returncode != 0:
            return "no Docker engine answers"
        if _docker("image", "inspect", IMAGE, timeout_s=ENGINE_S).returncode == 0:
            return ""
        note(f"Pulling {IMAGE} …")
        pulled = _docker("pull", "--quiet", IMAGE, timeout_s=PULL_S)
    except subprocess.TimeoutExpired as error:
        return f"`{' '.join(error.cmd)}` took too long"
    return f"{IMAGE} cannot be pulled ({pulled.stderr.strip()})" if pulled.returncode != 0 else ""


def _docker(*arguments: str, timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)


def _url_of(pod: Pod, runtime: str) -> str:
    if runtime == "docker":
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return f"http://{_docker('inspect', '--format', form, pod.container_id).stdout.strip()}/"
    crc = subprocess.run(["cksum"], input=pod.name, capture_output=True, text=True, check=True).stdout.split()[0]
    return f"http://{LOOPBACK}:{FIRST_PORT + int(crc) % PORTS}/"


def _first_line(url: str) -> str | None:
    """`HTTP 200, <first line of the body>`, or None where nothing answers yet."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2.0) as answer:
            body = answer.read(4096).decode(errors="replace").strip()
            return f"HTTP {answer.status}, {body.splitlines()[0] if body else 'empty'}"
    except (urllib.error.URLError, OSError):
        return None


def _containers(cluster: LocalCluster) -> list[str]:
    """Containers and processes of pods on the demo's nodes that still exist."""
    found = [str(pid) for pid in cluster.leftovers()]
    if shutil.which("docker"):
        for name in cluster.node_names:
            found += _docker("ps", "--all", "--quiet", "--filter", f"label=kago.node={name}").stdout.split()
    return found


def _clean_up(cluster: LocalCluster, *, failed: bool) -> None:
    """Processes by their pids, containers by their label, then the directory (kept after a failure: it holds the logs)."""
    cluster.stop()
    cluster.kill_leftovers()
    if shutil.which("docker"):
        for name in cluster.node_names:
            for container in _docker("ps", "--all", "--quiet", "--filter", f"label=kago.node={name}").stdout.split():
                _docker("rm", "--force", "--volumes", container)
    if failed:
        note(f"The logs are kept in {cluster.directory}.")
    else:
        shutil.rmtree(cluster.directory, ignore_errors=True)
