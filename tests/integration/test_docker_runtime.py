"""The agent with Docker, as a real process against a real engine of its own and a control plane of a few lines."""

import asyncio
import shutil
import signal
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import pytest

from kago.core.model.deployment import Network, PullPolicy, Runtime
from kago.core.model.pod import Pod, PodStatus
from kago.core.model.resources import Resources
from tests.integration.agents import AgentProcess, free_port, make_pod
from tests.integration.engine import Engine, private_engine, remove_containers, why_none
from tests.integration.master import Master

pytestmark = pytest.mark.skipif(bool(why_none()), reason=f"no Docker engine for tests: {why_none()}")

IMAGE = "kago-test:1"
SLEEP = ("sh", "-c", "trap 'exit 0' TERM; sleep 600 & wait")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with private_engine() as engine:
        engine.make_image(IMAGE)
        yield engine


class Stage:
    """One master, one agent, one engine."""

    def __init__(self, master: Master, agent: AgentProcess, engine: Engine) -> None:
        self.master, self.agent, self.engine = master, agent, engine
        self.docker = engine.client()

    async def run(self, *pods: Pod) -> None:
        for pod in pods:
            await self.master.put(pod)
        await self.master.until(lambda: all(self.ready(pod) for pod in pods))

    def ready(self, pod: Pod) -> bool:
        return pod.id in self.master.reports and self.master.reports[pod.id].ready

    def reason(self, pod: Pod) -> str:
        return self.master.reports[pod.id].reason if pod.id in self.master.reports else ""

    def containers(self, pod: Pod) -> list[Any]:
        return list(self.docker.containers.list(all=True, filters={"label": f"kago.pod={pod.id}"}, ignore_removed=True))

    def state(self, pod: Pod) -> tuple[str, str]:
        """(id, start time) of its only container."""
        (one,) = self.containers(pod)
        return one.id, one.attrs["State"]["StartedAt"]

    async def gone(self, *pods: Pod) -> None:
        for pod in pods:
            await self.master.stop(pod)
        await self.master.until(lambda: not any(pod.id in self.master.pods for pod in pods), 15)
        assert [self.containers(pod) for pod in pods] == [[] for _ in pods]


Story = Callable[[Stage], Coroutine[None, None, None]]


def play(tmp_path: Path, engine: Engine, story: Story) -> None:
    async def run() -> None:
        async with Master() as master:
            agent = AgentProcess(tmp_path / "agent", master.url, runtime=Runtime.DOCKER, DOCKER_HOST=engine.host)
            agent.start()
            stage = Stage(master, agent, engine)
            try:
                await story(stage)
                assert "Traceback" not in agent.logged()
            except BaseException:
                print(agent.logged())
                raise
            finally:
                agent.finish()
                remove_containers(stage.docker)
                stage.docker.close()

    asyncio.run(run())


def docker_pod(*command: str, image: str = IMAGE, **fields: Any) -> Pod:
    return make_pod(*(command or SLEEP), image=image, runtime=Runtime.DOCKER, **fields)


def test_limits_networks_labels_and_environment(tmp_path: Path, engine: Engine) -> None:
    async def story(stage: Stage) -> None:
        pods = {network: docker_pod(network=network, env={"COLOUR": "red"}, labels={"tier": "web"}) for network in Network}
        await stage.run(*pods.values())
        for network, pod in pods.items():
            (one,) = stage.containers(pod)
            assert one.name == f"kago-{pod.name}" and one.attrs["HostConfig"]["NetworkMode"] == network
            limits = one.attrs["HostConfig"]
            assert (limits["NanoCpus"], limits["Memory"], limits["MemorySwap"]) == (100_000_000, 64 << 20, 64 << 20)
            assert limits["RestartPolicy"]["Name"] in ("", "no")
            labels = {"kago.cluster": "c1", "kago.node": "n1", "kago.deployment": "web", "kago.pod": pod.id, "tier": "web"}
            assert labels.items() <= one.labels.items()
            assert {"COLOUR=red", f"KAGO_POD_NAME={pod.name}", "KAGO_NODE_NAME=n1"} <= set(one.attrs["Config"]["Env"])
        await stage.gone(*pods.values())

    play(tmp_path, engine, story)


def test_kill_9_of_the_agent_restarts_nothing_and_orphans_go(tmp_path: Path, engine: Engine) -> None:
    async def story(stage: Stage) -> None:
        pods = [docker_pod() for _ in range(4)]
        await stage.run(*pods)
        before = [stage.state(pod) for pod in pods]
        await stage.agent.kill()
        await stage.master.remove(pods[0].id)
        stage.master.reports.clear()
        stage.agent.start()
        await stage.master.until(lambda: all(stage.ready(pod) for pod in pods[1:]))
        assert [stage.state(pod) for pod in pods[1:]] == before[1:]
        async with asyncio.timeout(10):
            while stage.containers(pods[0]):
                await asyncio.sleep(0.1)

    play(tmp_path, engine, story)


def test_containers_of_others_are_never_touched(tmp_path: Path, engine: Engine) -> None:
    async def story(stage: Stage) -> None:
        await stage.master.until(lambda: bool(stage.master.heartbeats))
        agent_id = stage.master.registrations[0].id
        others = [
            {},
            {"kago.cluster": "other", "kago.agent": agent_id, "kago.pod": "1"},
            {"kago.cluster": "c1", "kago.agent": "another", "kago.pod": "2"},
        ]
        theirs = [stage.docker.containers.run(IMAGE, ["sleep", "600"], labels=labels, detach=True) for labels in others]
        orphan = {"kago.cluster": "c1", "kago.agent": agent_id, "kago.pod": "3", "kago.stop-grace": "0.1"}
        own = stage.docker.containers.run(IMAGE, ["sleep", "600"], labels=orphan, detach=True)
        pod = docker_pod()
        await stage.run(pod)
        await stage.gone(pod)
        for one in theirs:
            one.reload()
            assert one.status == "running"
        with pytest.raises(docker.errors.NotFound):
            own.reload()

    play(tmp_path, engine, story)


def test_a_crash_is_restarted_in_place_and_a_loop_is_called_one(tmp_path: Path, engine: Engine) -> None:
    async def story(stage: Stage) -> None:
        steady, broken = docker_pod(), docker_pod("sh", "-c", "echo no database; exit 3")
        await stage.run(steady)
        await stage.master.put(broken)
        ref, _ = stage.state(steady)
        stage.containers(steady)[0].kill()
        await stage.master.until(lambda: stage.ready(steady) and stage.master.reports[steady.id].restarts == 1)
        assert stage.state(steady)[0] == ref and stage.master.reports[steady.id].exit_code == 137
        await stage.master.until(lambda: stage.reason(broken) == "CrashLoopBackOff")
        said = stage.master.reports[broken.id]
        assert said.status is PodStatus.RUNNING and said.exit_code == 3 and said.message.endswith("no database")
        await stage.gone(steady, broken)

    play(tmp_path, engine, story)


def test_over_the_memory_limit_is_called_so(tmp_path: Path, engine: Engine) -> None:
    async def story(stage: Stage) -> None:
        pod = docker_pod("tail", "/dev/zero", resources=Resources(cpu_millis=500, memory_mb=16))
        await stage.master.put(pod)
        await stage.master.until(lambda: pod.id in stage.master.reports and stage.master.reports[pod.id].exit_code == 137)
        assert "OOMKilled" in stage.master.reports[pod.id].message

    play(tmp_path, engine, story)


def test_what_a_user_can_get_wrong_shows_on_the_pod_and_is_tried_again(tmp_path: Path, engine: Engine) -> None:
    async def story(stage: Stage) -> None:
        absent = docker_pod(image=f"127.0.0.1:{free_port()}/none:1")
        never = docker_pod(image="kago-test:never", pull_policy=PullPolicy.NEVER)
        program = docker_pod("/no/such/program")
        taken = docker_pod()
        stranger = stage.docker.containers.run(IMAGE, ["sleep", "600"], name=f"kago-{taken.name}", detach=True)
        for pod in (absent, never, program, taken):
            await stage.master.put(pod)
        wanted = ((absent, "ImagePullBackOff"), (never, "ErrImageNeverPull"), (program, "StartError"), (taken, "NameConflict"))
        for pod, reason in wanted:
            await stage.master.until(lambda pod=pod, reason=reason: stage.reason(pod) == reason)
            assert stage.master.reports[pod.id].status is PodStatus.CREATING
        assert "/no/such/program" in stage.master.reports[program.id].message
        stranger.reload()
        assert stranger.status == "running"
        stranger.remove(force=True)
        engine.make_image("kago-test:never", 'CMD ["sleep", "600"]')
        await stage.master.until(lambda: stage.ready(taken) and stage.ready(never), 20)
        await stage.gone(absent, never, program, taken)

    play(tmp_path, engine, story)


def test_the_engine_may_restart_and_hang_under_it(tmp_path: Path, engine: Engine) -> None:
    async def story(stage: Stage) -> None:
        pods = [docker_pod() for _ in range(3)]
        await stage.run(*pods)
        before = [stage.state(pod) for pod in pods]
        heard = len(stage.master.heartbeats)
        engine.send(signal.SIGSTOP)
        await asyncio.sleep(9)
        assert len(stage.master.heartbeats) - heard > 20, "heartbeats go on while the engine hangs"
        assert all(stage.ready(pod) for pod in pods), "unknown is not gone"
        engine.send(signal.SIGCONT)
        await asyncio.sleep(3)
        assert [stage.state(pod) for pod in pods] == before
        await asyncio.to_thread(engine.stop)
        await asyncio.sleep(1)
        await asyncio.to_thread(engine.start)
        await stage.master.until(lambda: all(stage.ready(pod) and stage.master.reports[pod.id].restarts == 1 for pod in pods), 30)
        assert [stage.state(pod)[0] for pod in pods] == [ref for ref, _ in before]
        await stage.gone(*pods)

    play(tmp_path, engine, story)


def test_an_image_is_pulled_from_a_registry_and_a_moved_tag_noticed(tmp_path: Path, engine: Engine) -> None:
    if shutil.which("docker-registry") is None:
        pytest.skip("not installed: docker-registry")
    port = free_port()
    settings = tmp_path / "registry.yml"
    settings.write_text(f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {tmp_path}/registry\nhttp:\n  addr: 127.0.0.1:{port}\n")
    reference = f"127.0.0.1:{port}/web:1"

    def publish(marker: str) -> str:
        ref = engine.make_image(reference, marker=marker)
        client = engine.client()
        for line in client.images.push(reference, stream=True, decode=True):
            assert "error" not in line, line
        client.images.remove(reference)
        client.close()
        return ref

    async def story(stage: Stage) -> None:
        await _listens(port)
        first = await asyncio.to_thread(publish, "first")
        old, new = docker_pod(image=reference), docker_pod(image=reference)
        always = docker_pod(image=reference, pull_policy=PullPolicy.ALWAYS)
        await stage.run(old)
        second = await asyncio.to_thread(publish_over, first)
        await stage.run(new)
        await stage.run(always)
        assert [stage.containers(pod)[0].image.id for pod in (old, new, always)] == [first, first, second]
        assert "Pulling" not in stage.reason(old)
        await stage.gone(old, new, always)

    def publish_over(first: str) -> str:
        """Move the tag in the registry; this engine goes on knowing the old one by it."""
        client = engine.client()
        client.images.get(first).tag("keep", "1")
        second = publish("second")
        client.images.get(first).tag(reference)
        client.close()
        return second

    command = ["docker-registry", "serve", str(settings)]
    with open(tmp_path / "registry.log", "wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as registry:
        try:
            play(tmp_path, engine, story)
        finally:
            registry.kill()


async def _listens(port: int) -> None:
    async with asyncio.timeout(15):
        while True:
            with suppress(ConnectionRefusedError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)


def test_docker_asked_for_and_not_there_is_an_error(tmp_path: Path) -> None:
    agent = AgentProcess(tmp_path / "agent", "http://127.0.0.1:1", runtime=Runtime.DOCKER, DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    agent.start()
    assert asyncio.run(agent.ended()) == 1
    assert "--runtime docker, but no answer from the Docker engine" in agent.logged()
