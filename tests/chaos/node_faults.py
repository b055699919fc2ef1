"""Faults of the nodes: agents killed, containers killed and starved, engines restarted, nodes cut off."""

import os
import signal
import time
from collections.abc import Callable

import docker

from tests.chaos.cluster import LEASE_S, Box
from tests.chaos.stage import NO_CLOCK, Fault, Stage

_SHORT_S = 2.5
_LONG_S = 9.0
"""Less and more than the lease of a node (5 s)."""
HOG = "hog"


def _agent_killed(stage: Stage) -> None:
    """Its containers run on. If the machine is so slow that it is not back within its lease, they are rightly moved."""
    agent, began = stage.busy_agent(), time.monotonic()
    pods, life = stage.pods_on(agent), _incarnation(stage, agent)
    stage.kill(agent)
    stage.hold(1.0)
    stage.start(agent)
    stage.cluster.until("the agent to be back", lambda: _incarnation(stage, agent) > life)
    if time.monotonic() - began > LEASE_S - 1.0:
        stage.touched |= pods


def _incarnation(stage: Stage, agent: str) -> int:
    node = stage.cluster.get(f"/nodes/{stage.cluster.node(agent)}")
    return int(node["incarnation"]) if node is not None else 0


def _node_cut_short(stage: Stage) -> None:
    network, agent = stage.cluster.network, stage.busy_agent()
    network.cut(agent)
    try:
        stage.hold(_SHORT_S)
    finally:
        network.join(agent)


def _node_cut_long(stage: Stage) -> None:
    """Its pods are replaced elsewhere while they run on; back, it stops what is not its own any more."""
    network, agent = stage.cluster.network, stage.busy_agent()
    stage.touched |= stage.pods_on(agent)
    network.cut(agent)
    try:
        stage.hold(_LONG_S)
    finally:
        network.join(agent)


def _container_killed(stage: Stage) -> None:
    box = stage.pod()
    stage.touched.add(box.pod_name)
    if stage.cluster.engines:
        _engine(stage, box).api.kill(box.start.partition("/")[0])
    else:
        os.killpg(int(box.start.partition("/")[0]), signal.SIGKILL)
    _comes_back(stage, box)


def _engine(stage: Stage, box: Box) -> docker.DockerClient:
    agent = next(agent for agent in stage.cluster.agents if stage.cluster.node(agent) == box.node)
    return stage.cluster.docker_of(agent)


def _comes_back(stage: Stage, box: Box) -> None:
    def back() -> bool:
        return any(one.pod_id == box.pod_id and one.start != box.start and "stopped" not in one.start for one in stage.boxes())

    stage.cluster.until(f"{box.pod_name} to run again", back, timeout_s=40)


def _starved(stage: Stage) -> None:
    """A pod that takes more memory than it was given is killed, alone, and that is said."""
    cluster = stage.cluster
    body = {"name": HOG, "command": ["tail"], "args": ["/dev/zero"], "resources": {"memory_mb": 24, "cpu_millis": 100}}
    runtime = {"image": "chaos:1"} if cluster.engines else {"runtime": "process"}
    server = stage.any_server()
    answer = cluster.ask(server, "POST", "/deployments", body | runtime)
    assert answer is not None and answer.status == 201, answer
    try:

        def killed() -> bool:
            pods = cluster.get(f"/pods?deployment_name={HOG}") or []
            return any("OOMKilled" in pod["message"] for pod in pods)

        cluster.until("a pod killed for its memory", killed)
    finally:
        answer = cluster.ask(server, "DELETE", f"/deployments/{HOG}")
        assert answer is not None and answer.status == 200, answer


def _engine_restarted(number: int) -> Callable[[Stage], None]:
    def run(stage: Stage) -> None:
        engine = stage.cluster.engines[stage.busy_agent()]
        engine.stop(number)
        time.sleep(1.0)
        engine.start()

    return run


def _agent_paused(stage: Stage) -> None:
    """For longer than its lease: back, it must not act on what it knew before."""
    agent = stage.busy_agent()
    stage.touched |= stage.pods_on(agent)
    stage.pause(agent, _LONG_S)


def _agent_clock_jumps(stage: Stage) -> None:
    """What an agent measures by the wall clock, it must not be led astray by: its containers' backoff, its leases."""
    agent = stage.clocked
    try:
        for seconds in (3600, -3600):
            stage.set_clock(agent, seconds)
            stage.hold(2.0)
    finally:
        stage.set_clock(agent, 0)
        stage.clock_file(agent).unlink()


def _give_agent_clock(stage: Stage) -> None:
    stage.clocked = stage.busy_agent()
    stage.give_clock(stage.clocked)


def _engine_hung(stage: Stage) -> None:
    """It is there and says nothing: unknown is not gone."""
    engine = stage.cluster.engines[stage.busy_agent()]
    engine.send(signal.SIGSTOP)
    try:
        time.sleep(_LONG_S)
    finally:
        engine.send(signal.SIGCONT)


NODE_FAULTS = (
    Fault(name="agent-paused", run=_agent_paused),
    Fault(name="agent-clock-jump", run=_agent_clock_jumps, prepare=_give_agent_clock, lacks=NO_CLOCK),
    Fault(name="engine-hung", run=_engine_hung, docker=True),
    Fault(name="agent-killed", run=_agent_killed),
    Fault(name="node-cut-below-lease", run=_node_cut_short),
    Fault(name="node-cut-beyond-lease", run=_node_cut_long),
    Fault(name="container-killed", run=_container_killed),
    Fault(name="container-oom-killed", run=_starved),
    Fault(name="engine-stopped", run=_engine_restarted(signal.SIGTERM), docker=True),
    Fault(name="engine-killed", run=_engine_restarted(signal.SIGKILL), docker=True),
)
