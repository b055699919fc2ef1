"""Every failpoint is a place that a running cluster comes to, and does there what it is told."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.chaos.campaign import deploy_steady
from tests.chaos.cluster import SERVERS, ChaosCluster
from tests.chaos.failpoints import AGENT, ALL, DOCKER, PROCESS, SERVER, Failpoints
from tests.chaos.load import Load
from tests.chaos.machines import ROOT
from tests.chaos.registry import Registry
from tests.chaos.registry import why_none as why_no_registry
from tests.chaos.stage import Stage
from tests.chaos.verdicts import Findings
from tests.e2e.netns import why_none
from tests.integration.engine import why_none as why_no_engine

CHURN = "churn"
WHY_NO_PULL = why_none() or why_no_engine() or why_no_registry()


def test_there_are_enough_and_each_once() -> None:
    assert len(ALL) == len(set(ALL)) >= 40


@pytest.mark.parametrize("line", ["", "apply.before", "apply.before:0:exit", "apply.before:1:explode", "nowhere:1:exit"])
def test_rubbish_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        Failpoints(line)


def test_the_third_time_and_once_only() -> None:
    points = Failpoints("apply.before:3:error")
    points.hit("apply.before")
    points.hit("apply.after")
    points.hit("apply.before")
    with pytest.raises(OSError, match=r"failpoint apply\.before"):
        points.hit("apply.before")
    points.hit("apply.before")


def test_exit_is_a_kill(tmp_path: Path) -> None:
    code = f"from tests.chaos.failpoints import Failpoints as F\np = F('@{tmp_path}/f')\np.hit('apply.before')\nprint('alive')"
    (tmp_path / "f").write_text("apply.before:1:exit")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "")
    assert (tmp_path / "f.fired").read_text() == "apply.before\n"


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.skipif(bool(why_none()), reason=f"no networks for a cluster: {why_none()}")
def test_each_is_reached(tmp_path: Path) -> None:
    """A life in which all of it happens: snapshots made and sent, leadership given away and lost, a disk emptied, pods coming and going."""
    cluster = ChaosCluster(tmp_path, failpoints=True, snapshot_entries=60)
    dice = random.Random(1)
    load = Load(cluster.ways, mark="f", dice=dice)
    stage = Stage(cluster, dice, Findings())
    try:
        cluster.start()
        deploy_steady(cluster, name=CHURN, replicas=1)
        cluster.user.do(load.prepare())
        running = cluster.user.begin(load.run())
        away = stage.follower()
        stage.kill(away)
        for replicas in (3, 0, 2):
            cluster.ask(stage.leader(), "PUT", f"/deployments/{CHURN}", {"replicas": replicas})
            time.sleep(1.2)
        stage.start(away)
        cluster.until("the cluster to heal", cluster.healthy)
        for end in (cluster.processes[stage.leader()].stop, cluster.processes[stage.leader()].kill):
            end()
            stage.start(*SERVERS)
            cluster.until("the cluster to heal", cluster.healthy)
        stage.rejoin(stage.follower())
        stage.kill(*cluster.agents)
        stage.start(*cluster.agents)
        cluster.until("the cluster to heal", cluster.healthy)
        cluster.user.loop.call_soon_threadsafe(load.stop)
        running.result(30)
        reached = {line for path in tmp_path.glob("*.hit") for line in path.read_text().splitlines()}
    finally:
        cluster.close()
    assert sorted({*SERVER, *AGENT, *PROCESS} - reached) == []
    assert not reached & {*DOCKER}


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.skipif(bool(WHY_NO_PULL), reason=f"no engine to pull with: {WHY_NO_PULL}")
def test_each_call_of_an_engine_is_reached() -> None:
    directory = Path(tempfile.mkdtemp(prefix="kago-points-"))  # an engine's socket has a short path by law
    cluster, registry = ChaosCluster(directory, agents=1, with_docker=True, failpoints=True), Registry(directory)
    try:
        cluster.start()
        image = registry.publish(cluster.engines["a1"], "churn:1")
        deploy_steady(cluster, name=CHURN, replicas=1, image=image)
        cluster.ask(SERVERS[0], "DELETE", f"/deployments/{CHURN}")
        cluster.until("its container to go", lambda: not cluster.boxes())
        reached = set(Path(f"{cluster.failpoint('a1')}.hit").read_text().splitlines())
    finally:
        cluster.close()
        registry.close()
        shutil.rmtree(directory, ignore_errors=True)
    assert sorted({*DOCKER} - reached) == []


def test_nothing_of_it_is_in_the_product() -> None:
    """Whoever runs `kago` runs no failpoint, whatever the environment says."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, kago.cli.main, kago.server.app, kago.agent.app; print([m for m in sys.modules if 'failpoint' in m])",
        ],
        env={**os.environ, "KAGO_FAILPOINT": "apply.before:1:exit"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
