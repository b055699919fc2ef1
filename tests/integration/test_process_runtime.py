"""The agent with the process runtime, as a real process against a control plane of a few lines."""

import asyncio
import os
import shutil
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path

import msgspec
import pytest

from kago.agent.app import SUPERSEDED
from kago.agent.notes import Notes
from kago.agent.runtime import Owner
from kago.agent.runtimes import process
from kago.agent.runtimes.cgroups import Cgroups
from kago.agent.runtimes.process import ProcessRuntime
from kago.core.model.pod import PodStatus
from kago.core.model.report import PodReport
from kago.core.model.resources import Resources
from tests.integration.agents import AgentProcess, make_pod
from tests.integration.master import Master

Story = Callable[[Master, AgentProcess], Coroutine[None, None, None]]


def play(tmp_path: Path, story: Story) -> None:
    """Run a story with one master and one agent, and leave nothing behind."""

    async def run() -> None:
        async with Master() as master:
            agent = AgentProcess(tmp_path / "agent", master.url)
            agent.start()
            try:
                await story(master, agent)
                assert "Traceback" not in agent.logged()
            except BaseException:
                print(agent.logged())
                raise
            finally:
                agent.finish()
                sweep(tmp_path / "agent")

    asyncio.run(run())


def sweep(data_dir: Path) -> None:
    """Kill what the pods of this data directory still run."""
    for stat in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            mine = str(data_dir).encode() in stat.read_bytes()
        except OSError:
            continue
        if mine and int(stat.parent.name) != os.getpid():
            os.killpg(int(stat.parent.name), signal.SIGKILL)
    agent_id = msgspec.json.decode((data_dir / "agent.json").read_bytes(), type=Notes).agent_id
    cgroups = Cgroups.find(agent_id)
    for path in (data_dir / "pods").glob("*"):
        if cgroups is not None:
            cgroups.remove(path.name)
    if cgroups is not None:
        cgroups.leave()
    shutil.rmtree(data_dir)


def test_a_pod_from_start_to_end(tmp_path: Path) -> None:
    async def story(master: Master, agent: AgentProcess) -> None:
        script = "echo $KAGO_POD_NAME $COLOUR; trap 'exit 0' TERM; while :; do sleep 0.1; done"
        pod = make_pod("sh", "-c", script, env={"COLOUR": "red"})
        await master.put(pod)
        await master.until(lambda: ready(master, pod.id))
        report = master.reports[pod.id]
        assert (report.status, report.restarts, report.reason) == (PodStatus.RUNNING, 0, "")
        log = tmp_path / "agent" / "pods" / report.container_id / "log"
        assert log.read_text() == f"{pod.name} red\n"
        assert (await agent.ask("/health"))["master_heard"] is True
        assert [one["pod_id"] for one in await agent.ask("/pods")] == [pod.id]
        await master.stop(pod)
        await master.until(lambda: pod.id not in master.pods)
        assert not log.parent.exists()
        assert master.reports[pod.id].status is PodStatus.TERMINATED

    play(tmp_path, story)


def test_kill_9_of_the_agent_restarts_nothing(tmp_path: Path) -> None:
    async def story(master: Master, agent: AgentProcess) -> None:
        pods = [make_pod("sleep", "600") for _ in range(5)]
        short = make_pod("sh", "-c", "sleep 2; exit 7")
        for pod in (*pods, short):
            await master.put(pod)
        await master.until(lambda: all(ready(master, pod.id) for pod in (*pods, short)))
        before = {pod.id: master.reports[pod.id] for pod in pods}
        await agent.kill()
        await asyncio.sleep(2.5)  # the short one ends while nobody looks
        await master.stop(pods[0])
        master.reports.clear()
        agent.start()
        await master.until(lambda: pods[0].id not in master.pods and all(pod.id in master.reports for pod in (*pods, short)))
        for pod in pods[1:]:
            assert master.reports[pod.id] == before[pod.id]
        await master.until(lambda: master.reports[short.id].restarts == 1)
        assert master.reports[short.id].exit_code == 7
        assert [one.incarnation for one in master.registrations] == [1, 2]
        assert len({one.id for one in master.registrations}) == 1

    play(tmp_path, story)


def test_a_crash_loop_slows_down_and_says_why(tmp_path: Path) -> None:
    async def story(master: Master, agent: AgentProcess) -> None:
        pod = make_pod("sh", "-c", "echo no database; exit 3")
        await master.put(pod)
        await master.until(lambda: report_of(master, pod.id).reason == "CrashLoopBackOff" and report_of(master, pod.id).restarts >= 1)
        said = master.reports[pod.id]
        assert said.status is PodStatus.RUNNING and not said.ready and said.exit_code == 3
        assert "exit code 3" in said.message and said.message.endswith("no database")
        restarts = said.restarts
        await agent.kill()
        agent.start()  # the counter and the delay outlive the agent
        await asyncio.sleep(1.0)
        assert master.reports[pod.id].restarts == restarts
        await master.until(lambda: master.reports[pod.id].restarts > restarts)

    play(tmp_path, story)


def test_without_any_master_crashed_pods_are_restarted(tmp_path: Path) -> None:
    async def story(master: Master, agent: AgentProcess) -> None:
        pod = make_pod("sleep", "600")
        await master.put(pod)
        await master.until(lambda: ready(master, pod.id))
        await agent.kill()
        await master.die()
        ref = master.reports[pod.id].container_id
        os.kill(pid_of(tmp_path, ref), signal.SIGKILL)
        agent.start()
        async with asyncio.timeout(10):
            while not (said := await agent_pods(agent)) or not said[0]["ready"]:
                await asyncio.sleep(0.1)
        assert (said[0]["restarts"], said[0]["exit_code"]) == (1, 137)
        assert (await agent.ask("/health"))["master_heard"] is False

    play(tmp_path, story)


def test_unwanted_containers_go_only_on_a_view_as_new_as_the_last(tmp_path: Path) -> None:
    async def story(master: Master, agent: AgentProcess) -> None:
        pod = make_pod("sleep", "600")
        await master.put(pod)
        await master.until(lambda: ready(master, pod.id))
        await agent.kill()
        seen = master.index
        del master.pods[pod.id]
        master.index = 5  # a master that was left behind
        master.history.clear()
        agent.start()
        await agent.listens()
        await asyncio.sleep(2)
        assert [one["ready"] for one in await agent.ask("/pods")] == [True]
        master.index = seen + 1
        async with asyncio.timeout(15):
            while await agent.ask("/pods") or list((tmp_path / "agent" / "pods").iterdir()):
                await asyncio.sleep(0.1)

    play(tmp_path, story)


def test_limits_and_errors_show_on_the_pod(tmp_path: Path) -> None:
    async def story(master: Master, agent: AgentProcess) -> None:
        greedy = make_pod("python3", "-c", "x = 'a' * 300_000_000", resources=Resources(cpu_millis=500, memory_mb=32))
        absent = make_pod("/no/such/program")
        for pod in (greedy, absent):
            await master.put(pod)
        await master.until(lambda: report_of(master, greedy.id).exit_code is not None and bool(report_of(master, absent.id).reason))
        assert master.reports[absent.id].status is PodStatus.CREATING
        assert master.reports[absent.id].reason == "StartError"
        assert "/no/such/program" in master.reports[absent.id].message
        if "limited by cgroup" in agent.logged():
            assert "OOMKilled" in master.reports[greedy.id].message
        else:
            assert "MemoryError" in master.reports[greedy.id].message
        await master.stop(absent)
        await master.until(lambda: absent.id not in master.pods)

    play(tmp_path, story)


def test_one_that_ignores_sigterm_is_killed_with_all_its_children(tmp_path: Path) -> None:
    async def story(master: Master, agent: AgentProcess) -> None:
        pod = make_pod("sh", "-c", "trap '' TERM; setsid sleep 601 & sleep 602", stop_grace_s=0.5)
        await master.put(pod)
        await master.until(lambda: ready(master, pod.id))
        await master.stop(pod)
        await master.until(lambda: pod.id not in master.pods, 5.0)
        marked = [stat for stat in Path("/proc").glob("[0-9]*/environ") if pod.id.encode() in read(stat)]
        assert not marked or "no writable cgroup" in agent.logged()

    play(tmp_path, story)


def test_a_pod_whose_directory_was_removed_can_still_be_stopped(tmp_path: Path) -> None:
    async def story(master: Master, agent: AgentProcess) -> None:
        pod = make_pod("sleep", "603")
        await master.put(pod)
        await master.until(lambda: ready(master, pod.id))
        shutil.rmtree(tmp_path / "agent" / "pods" / master.reports[pod.id].container_id)
        await master.stop(pod)
        await master.until(lambda: pod.id not in master.pods, 5.0)
        assert not [stat for stat in Path("/proc").glob("[0-9]*/environ") if pod.id.encode() in read(stat)]

    play(tmp_path, story)


@pytest.mark.parametrize("how", ["dead", "silent"])
def test_a_dead_or_silent_master_is_left_within_3_s(tmp_path: Path, how: str) -> None:
    async def story(master: Master, agent: AgentProcess) -> None:
        async with Master() as other:
            master.extra_servers = (other.url,)
            other.extra_servers = (master.url,)
            other.index = master.index
            await master.until(lambda: len(master.heartbeats) > 2)  # it has learned of the other
            if how == "dead":
                await master.die()
            else:
                master.silent = True
            began = asyncio.get_running_loop().time()
            await other.until(lambda: len(other.heartbeats) > 0, 4.0)
            assert asyncio.get_running_loop().time() - began < 3.0
            pod = make_pod("sleep", "600")
            await other.put(pod)
            await other.until(lambda: ready(other, pod.id), 8.0)

    play(tmp_path, story)


def test_a_node_the_cluster_forgot_registers_again_and_a_superseded_agent_stops_acting(tmp_path: Path) -> None:
    async def story(master: Master, agent: AgentProcess) -> None:
        pod = make_pod("sleep", "600")
        await master.put(pod)
        await master.until(lambda: ready(master, pod.id))
        master.known = False
        master.reports.clear()
        await master.until(lambda: len(master.registrations) == 2 and ready(master, pod.id))
        ref = master.reports[pod.id].container_id
        master.refuse = (409, "stale-incarnation")
        assert await agent.ended() == SUPERSEDED
        assert "stops acting" in agent.logged()
        os.kill(pid_of(tmp_path, ref), 0)  # still there

    play(tmp_path, story)


def test_a_stopped_agent_says_good_bye_and_leaves_its_pods_running(tmp_path: Path) -> None:
    async def story(master: Master, agent: AgentProcess) -> None:
        pod = make_pod("sleep", "600")
        await master.put(pod)
        await master.until(lambda: ready(master, pod.id))
        assert await agent.kill(signal.SIGTERM) == 0
        assert master.heartbeats[-1].leaving
        os.kill(pid_of(tmp_path, master.reports[pod.id].container_id), 0)

    play(tmp_path, story)


def test_a_fresh_agent_waits_for_a_former_one_of_its_name_to_be_given_up(tmp_path: Path) -> None:
    async def story(master: Master, agent: AgentProcess) -> None:
        master.refuse_registration = (409, "conflict")
        await asyncio.sleep(2.5)
        assert agent.process is not None and agent.process.poll() is None
        master.refuse_registration = None
        await master.until(lambda: bool(master.heartbeats))
        await agent.kill()
        master.refuse_registration = (422, "validation")
        agent.start()
        assert await agent.ended() == SUPERSEDED
        assert "does not accept this node" in agent.logged()

    play(tmp_path, story)


def test_a_data_directory_stays_with_its_cluster(tmp_path: Path) -> None:
    async def story(master: Master, agent: AgentProcess) -> None:
        pod = make_pod("sleep", "600")
        await master.put(pod)
        await master.until(lambda: ready(master, pod.id))
        await agent.kill()
        master.cluster_id, master.pods = "c2", {}  # set up anew on the same address
        agent.start()
        assert await agent.ended() == SUPERSEDED
        assert "belongs to cluster c1" in agent.logged()
        os.kill(pid_of(tmp_path, master.reports[pod.id].container_id), 0)

    play(tmp_path, story)


def test_two_agents_never_share_a_data_directory(tmp_path: Path) -> None:
    async def story(master: Master, agent: AgentProcess) -> None:
        await master.until(lambda: bool(master.heartbeats))
        second = AgentProcess(tmp_path / "agent", master.url)
        second.start()
        assert await second.ended() == 1
        assert "another agent runs with data directory" in second.logged()

    play(tmp_path, story)


def report_of(master: Master, pod_id: str) -> PodReport:
    return master.reports.get(pod_id) or PodReport(pod_id=pod_id, status=PodStatus.PENDING)


def ready(master: Master, pod_id: str) -> bool:
    return report_of(master, pod_id).ready


def pid_of(tmp_path: Path, ref: str) -> int:
    """The pod's command, the child of its shell."""
    for stat in Path("/proc").glob("[0-9]*/cmdline"):
        if f"agent/pods/{ref}".encode() in read(stat) and str(tmp_path).encode() in read(stat):
            children = (stat.parent / "task" / stat.parent.name / "children").read_text().split()
            return int(children[0])
    raise AssertionError(f"no process of {ref}")


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


async def agent_pods(agent: AgentProcess) -> list[dict[str, object]]:
    try:
        return list(await agent.ask("/pods"))
    except OSError:
        return []


def test_without_cgroups_memory_is_limited_by_rlimit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        runtime = ProcessRuntime(tmp_path)
        ended = asyncio.Event()
        await runtime.open(Owner(cluster_id="c1", agent_id="a1", node_name="n1", incarnation=1), ended.set)
        pod = make_pod("python3", "-c", "x = 'a' * 300_000_000", resources=Resources(cpu_millis=500, memory_mb=64))
        await runtime.start(pod)
        await ended.wait()
        (one,) = await runtime.list()
        assert one.exit_code == 1 and "MemoryError" in await runtime.last_output(one.ref)
        await runtime.remove(one.ref, 1.0)
        assert await runtime.list() == () and not list((tmp_path / "pods").iterdir())
        await runtime.close()

    monkeypatch.setattr(Cgroups, "find", lambda agent_id: None)
    asyncio.run(asyncio.wait_for(story(), 20))


def test_a_long_log_is_shortened_while_its_writer_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        runtime = ProcessRuntime(tmp_path)
        await runtime.open(Owner(cluster_id="c1", agent_id="a1", node_name="n1", incarnation=1), lambda: None)
        pod = make_pod("sh", "-c", "echo first; sleep 1; echo second; sleep 600")
        await runtime.start(pod)
        log = tmp_path / "pods" / process.ref_of(pod.id) / "log"
        while log.read_text() != "first\n":
            await asyncio.sleep(0.05)
        await runtime.list()
        assert log.read_text() == "" and log.with_name("log.1").read_text() == "first\n"
        while log.read_text() != "second\n":
            await asyncio.sleep(0.05)
        assert await runtime.last_output(log.parent.name) == "second"
        await runtime.remove(log.parent.name, 0.1)
        await runtime.close()

    monkeypatch.setattr(process, "MAX_LOG_BYTES", 3)
    asyncio.run(asyncio.wait_for(story(), 20))
