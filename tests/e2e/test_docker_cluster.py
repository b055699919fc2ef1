"""The main job with real containers: three servers, two agents, an engine; the examples' whole lives, and everything killed in turn."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kago.cli.manifest import open_sources, read_manifests
from kago.core.model.deployment import DeploymentSpec, Strategy
from tests.e2e.docker_cluster import Box, DockerCluster
from tests.integration.engine import EXAMPLE_IMAGES, Engine, private_engine, why_none

pytestmark = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.timeout(150),
    pytest.mark.skipif(bool(why_none()), reason=f"no Docker engine for tests: {why_none()}"),
]

EXAMPLES = Path(__file__).parents[2] / "examples"
UPDATES = {"nginx:alpine": "nginx:1.25-alpine", "httpd:alpine": "httpd:2.4-alpine"}
REPLACED_S = 7.0


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with private_engine() as engine:
        for image in EXAMPLE_IMAGES:
            engine.make_image(image, marker=image)
        yield engine


@pytest.fixture(scope="module")
def running(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerCluster]:
    cluster = DockerCluster(tmp_path_factory.mktemp("docker"), [engine])
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def cluster(running: DockerCluster) -> Iterator[DockerCluster]:
    """Whole before each test, with nothing left over after it."""
    running.bring_up()
    yield running
    left = running.boxes()
    if left:  # the next test shall not pay for this one
        print(running.diary())
        running.bring_up()
        for deployment in running.get("/deployments"):
            running.request("DELETE", f"/deployments/{deployment['name']}").raise_for_status()
        running.until("its containers to go", lambda: not running.boxes())
    assert left == []
    assert "Traceback" not in "".join(process.log.read_text() for process in running.processes())


def example(name: str) -> tuple[DeploymentSpec, ...]:
    return read_manifests(open_sources([str(EXAMPLES / name)], stdin=str, fetch=str))


def settled(cluster: DockerCluster, name: str, replicas: int, image: str) -> None:
    """Until that many pods of that image run and nothing else of the deployment is there."""

    def done() -> bool:
        found = cluster.get(f"/deployments/{name}")
        counts = {found["ready_replicas"], found["updated_replicas"], found["total_replicas"]}
        boxes = cluster.boxes(name)
        return counts == {replicas} and len(boxes) == replicas and all(box.running and box.image == image for box in boxes)

    cluster.until(f"{replicas} pods of {name} with {image}", done)


def gone(cluster: DockerCluster, name: str) -> None:
    for server in range(3):
        assert cluster.request("GET", f"/deployments/{name}", server=server).status_code == 404
    cluster.until(f"the last container of {name} to go", lambda: not cluster.boxes(name))
    cluster.until(f"the last pod of {name} to go", lambda: not cluster.get("/pods", deployment_name=name))


def apply(cluster: DockerCluster, name: str, replicas: int, *extra: str) -> list[Box]:
    """A deployment of nginx that is up; its containers."""
    lines = ["kind: Deployment\nspec:", f"name: {name}", "image: nginx:alpine", f"replicas: {replicas}", *extra]
    cluster.kago("apply", "-f", "-", "--wait", "--timeout", "40s", stdin="\n  ".join(lines))
    settled(cluster, name, replicas, "nginx:alpine")
    return cluster.boxes(name)


def delete(cluster: DockerCluster, *names: str) -> None:
    for name in names:
        assert cluster.request("DELETE", f"/deployments/{name}").status_code == 200
    for name in names:
        gone(cluster, name)


# -- lives -----------------------------------------------------------------------------------------------------------


def live_by_command(cluster: DockerCluster, file: str, server: int) -> set[str]:
    """Apply, scale, update and delete an example with the command line on one server. The nodes it was placed on at first."""
    only, path = [cluster.urls[server]], str(EXAMPLES / file)
    specs = example(file)
    assert cluster.kago("apply", "-f", path, "--wait", "--timeout", "40s", servers=only).split("\n")[:-1] == [
        f"deployment/{spec.name} created" for spec in specs
    ]
    placed = {box.node for box in cluster.boxes()}
    for spec in specs:
        settled(cluster, spec.name, spec.replicas, spec.image)
        assert cluster.request("PUT", f"/deployments/{spec.name}", server=server, body={"replicas": 4}).status_code == 200
        settled(cluster, spec.name, 4, spec.image)
        assert cluster.kago("scale", spec.name, "3", "--wait", servers=only) == f"deployment/{spec.name} scaled\n"
        settled(cluster, spec.name, 3, spec.image)
    text = (EXAMPLES / file).read_text().replace(f"replicas: {specs[0].replicas}", "replicas: 3")
    for old, new in UPDATES.items():
        text = text.replace(old, new)
    edited = cluster.directory / file
    edited.write_text(text)
    last = specs[-1].name
    with cluster.watched(last, server=server) as lowest:
        changed = cluster.kago("apply", "-f", str(edited), "--wait", "--timeout", "60s", servers=only)
        for spec in specs:
            settled(cluster, spec.name, 3, UPDATES[spec.image])
    assert changed.split("\n")[:-1] == [f"deployment/{spec.name} configured" for spec in specs]
    assert (lowest.running >= 3, lowest.ready >= 3) == (True, True), str(lowest)
    cluster.kago("delete", "-f", path, servers=only)
    for spec in specs:
        gone(cluster, spec.name)
    return placed


def live_by_request(cluster: DockerCluster, file: str, server: int) -> None:
    """The same by requests to one server, with a limit that allows one fewer while it is updated."""
    specs = example(file)
    for spec in specs:
        small = {"cpu_millis": spec.resources.cpu_millis, "memory_mb": spec.resources.memory_mb}
        body = {"name": spec.name, "image": spec.image, "replicas": spec.replicas, "resources": small}
        assert cluster.request("POST", "/deployments", server=server, body=body).status_code == 201
        settled(cluster, spec.name, spec.replicas, spec.image)
        whole = {**body, "replicas": 4, "rolling_update": {"max_surge": 0, "max_unavailable": 1, "min_ready_s": 0.2}}
        assert cluster.request("PUT", f"/deployments/{spec.name}", server=server, body=whole).status_code == 200
        settled(cluster, spec.name, 4, spec.image)
        assert cluster.kago("scale", spec.name, "3", servers=[cluster.urls[server]]) == f"deployment/{spec.name} scaled\n"
        settled(cluster, spec.name, 3, spec.image)
    for spec in specs:
        path, image = f"/deployments/{spec.name}", UPDATES[spec.image]
        with cluster.watched(spec.name, server=server) as lowest:
            assert cluster.request("PUT", path, server=server, body={"image": image}).json()["revision"] == 2
            settled(cluster, spec.name, 3, image)
        assert (lowest.running >= 2, lowest.ready >= 2) == (True, True), str(lowest)
        assert cluster.request("DELETE", path, server=server).status_code == 200
    for spec in specs:
        gone(cluster, spec.name)


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("strategy", list(Strategy))
def test_lives_of_the_examples(cluster: DockerCluster, strategy: Strategy, nodes: int) -> None:
    """Each case through another pair of servers; over all of them each example lives through leader and followers, both ways."""
    cluster.schedule_by(strategy)
    cluster.bring_up()
    if nodes == 1:
        cluster.agents[1].stop()
        cluster.until("its node to be out", lambda: cluster.get(f"/nodes/{cluster.node_names[1]}")["status"] == "notready")
    leader = cluster.servers.index(cluster.leader())
    case = 2 * list(Strategy).index(strategy) + nodes - 1
    first, second = (leader + case) % 3, (leader + case + 1) % 3
    files = ["nginx-deployment", "multi-deployment"] if case % 4 in (0, 3) else ["multi-deployment", "nginx-deployment"]
    placed = live_by_command(cluster, f"{files[0]}.{'yml' if case < 4 else 'jsonnet'}", first)
    spreads = nodes == 2 and strategy in (Strategy.LEAST_ALLOCATED, Strategy.BALANCED)
    assert len(placed) == (2 if spreads else 1)
    live_by_request(cluster, f"{files[1]}.yml", second)


# -- everything killed in turn ---------------------------------------------------------------------------------------


def test_kill_of_the_leader_and_of_a_follower(cluster: DockerCluster) -> None:
    before = apply(cluster, "app", 4, "scheduler: least-allocated")
    for victim in (cluster.leader(), cluster.followers()[0]):
        victim.kill()
        began = time.monotonic()
        left = next(n for n, one in enumerate(cluster.servers) if one.running)
        assert cluster.request("POST", "/deployments", server=left, body={"name": "new", "image": "nginx:alpine"}).status_code == 201
        print(f"a write was taken {time.monotonic() - began:.2f} s after {victim.name} was killed")
        settled(cluster, "new", 1, "nginx:alpine")
        cluster.bring_up()
        assert cluster.get("/deployments/new", server=cluster.servers.index(victim))["ready_replicas"] == 1
        delete(cluster, "new")
    cluster.same(before)
    delete(cluster, "app")


def test_kill_of_two_of_three_and_of_all_three_and_back(cluster: DockerCluster) -> None:
    before = apply(cluster, "app", 4, "scheduler: least-allocated")
    acknowledged: list[str] = []
    for count in (2, 3):
        for n in range(5):
            name = f"empty-{count}-{n}"
            body = {"name": name, "image": "nginx:alpine", "replicas": 0}
            assert cluster.request("POST", "/deployments", server=n % 3, body=body).status_code == 201
            acknowledged.append(name)
        for victim in [cluster.leader(), *cluster.followers()][:count]:
            victim.kill()
        if count == 2:
            left = next(n for n, one in enumerate(cluster.servers) if one.running)
            assert cluster.request("PUT", "/deployments/app", server=left, body={"replicas": 1}).status_code == 503
        time.sleep(6.0)  # longer than a lease
        assert cluster.boxes("app") == before
        began = time.monotonic()
        cluster.bring_up()
        print(f"whole {time.monotonic() - began:.2f} s after {count} servers were started again")
        for server in range(3):
            assert {one["name"] for one in cluster.get("/deployments", server=server)} == {"app", *acknowledged}
        if count == 2:  # the refused write may yet have come about, as its answer said
            assert cluster.request("PUT", "/deployments/app", body={"replicas": 4}).status_code == 200
    time.sleep(6.0)
    cluster.same(before)
    delete(cluster, "app", *acknowledged)


def test_kill_of_an_agent_and_its_restart(cluster: DockerCluster) -> None:
    before = apply(cluster, "app", 4, "scheduler: least-allocated")
    cluster.agents[0].kill()
    time.sleep(1.0)
    cluster.bring_up()
    time.sleep(3.0)
    cluster.same(before)
    cluster.agents[1].stop()  # on purpose: its containers run on, too
    time.sleep(1.0)
    cluster.bring_up()
    time.sleep(2.0)
    cluster.same(before)
    delete(cluster, "app")


def test_a_node_gone_and_back(cluster: DockerCluster) -> None:
    before = apply(cluster, "app", 4, "scheduler: least-allocated")
    gone_node = cluster.node_names[0]
    lost, kept = [box for box in before if box.node == gone_node], [box for box in before if box.node != gone_node]
    assert lost and kept
    cluster.agents[0].kill()
    killed = time.monotonic()

    def replaced() -> bool:
        return sum(box.running for box in cluster.boxes("app") if box.node != gone_node) == 4

    cluster.until("four containers on the other node", replaced, timeout_s=15)
    took = time.monotonic() - killed
    print(f"run elsewhere {took:.2f} s after the agent was killed")
    assert took < REPLACED_S
    cluster.until("four ready pods", lambda: cluster.get("/deployments/app")["ready_replicas"] == 4)
    assert [box for box in cluster.boxes("app") if box.node == gone_node] == lost, "an agent that is away stops nothing"
    cluster.bring_up()
    cluster.until("the surplus to go", lambda: len(cluster.boxes("app")) == 4)
    time.sleep(2.0)
    after = cluster.boxes("app")
    assert len(after) == 4 and set(kept) < set(after) and not {box.id for box in lost} & {box.id for box in after}
    assert {pod["container_id"] for pod in cluster.pods("app")} == {box.id for box in after}
    delete(cluster, "app")


# -- what happens to containers --------------------------------------------------------------------------------------


def test_killed_containers_come_back_in_place_and_a_loop_slows_down(cluster: DockerCluster) -> None:
    before = apply(cluster, "app", 3)
    victim, client = before[0], cluster.engine_of(0)
    for restarts in (1, 2):
        client.api.kill(victim.id)

        def back(restarts: int = restarts) -> bool:
            pod = next(pod for pod in cluster.pods("app") if pod["name"] == victim.pod_name)
            return bool(pod["ready"]) and pod["restarts"] == restarts

        began = time.monotonic()
        cluster.until("the killed container to run again", back)
        assert 2.0 ** (restarts - 1) * 0.8 < time.monotonic() - began < 2.0**restarts + 3
    after = {box.pod_name: box for box in cluster.boxes("app")}
    assert after[victim.pod_name].id == victim.id
    assert [after[box.pod_name] for box in before[1:]] == before[1:]
    client.api.remove_container(before[1].id, force=True)  # a person removes one altogether
    cluster.until("it to be made anew", lambda: len(cluster.running("app")) == 3)
    assert {box.pod_name for box in cluster.boxes("app")} == {box.pod_name for box in before}
    manifest = "kind: Deployment\nspec: {name: loop, image: 'nginx:alpine', command: [sh, -c, 'echo no database; exit 3']}"
    cluster.kago("apply", "-f", "-", stdin=manifest)
    looping = cluster.until("its reason", lambda: [pod for pod in cluster.pods("loop") if pod["reason"] == "CrashLoopBackOff"])[0]
    assert looping["exit_code"] == 3 and looping["message"].count("no database") == 1, looping["message"]
    assert not looping["ready"]
    delete(cluster, "app", "loop")


def test_a_missing_image_is_said_and_used_when_it_is_there(cluster: DockerCluster, engine: Engine) -> None:
    cluster.kago("apply", "-f", "-", stdin="kind: Deployment\nspec: {name: late, image: '127.0.0.1:9/late:1', replicas: 2}")
    cluster.until("the reasons", lambda: {pod["reason"] for pod in cluster.pods("late")} <= {"ErrImagePull", "ImagePullBackOff"})
    assert all("127.0.0.1:9/late:1" in pod["message"] and not pod["ready"] for pod in cluster.pods("late"))
    assert cluster.boxes("late") == []
    engine.make_image("127.0.0.1:9/late:1", marker="late")
    settled(cluster, "late", 2, "127.0.0.1:9/late:1")
    delete(cluster, "late")


def test_an_update_to_an_image_that_does_not_start_takes_nothing_away(cluster: DockerCluster) -> None:
    before = apply(cluster, "app", 3)
    with cluster.watched("app") as lowest:
        assert cluster.request("PUT", "/deployments/app", body={"image": "127.0.0.1:9/never:1"}).status_code == 200
        cluster.until("the reason", lambda: any(pod["reason"] == "ImagePullBackOff" for pod in cluster.pods("app")))
        time.sleep(1.0)
        assert cluster.running("app") == before
        assert cluster.request("PUT", "/deployments/app", body={"image": "nginx:alpine", "env": {"A": "1"}}).status_code == 200
        settled(cluster, "app", 3, "nginx:alpine")
    assert (lowest.running >= 3, lowest.ready >= 3) == (True, True), str(lowest)
    delete(cluster, "app")


def test_containers_of_others_are_left_alone(cluster: DockerCluster) -> None:
    """A person's, with a name like ours even, and one with the labels of another cluster."""
    client = cluster.engine_of(0)
    labels = {"kago.cluster": "another", "kago.agent": "another", "kago.node": "w1", "kago.pod": "1", "kago.deployment": "app"}
    theirs = [
        client.containers.run("busybox:latest", ["sleep", "9999"], detach=True, name="kago-app-of-mine"),
        client.containers.run("busybox:latest", ["sleep", "9999"], detach=True, labels=labels),
    ]
    try:
        before = [client.api.inspect_container(str(one.id))["State"]["StartedAt"] for one in theirs]
        apply(cluster, "app", 2)
        cluster.agents[0].kill()
        cluster.bring_up()
        delete(cluster, "app")
        states = [client.api.inspect_container(str(one.id))["State"] for one in theirs]
        assert [state["StartedAt"] for state in states] == before
        assert all(state["Running"] for state in states)
    finally:
        for one in theirs:
            one.remove(force=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_engine_that_restarts_under_its_agents(cluster: DockerCluster, engine: Engine, number: signal.Signals) -> None:
    before = apply(cluster, "app", 4, "scheduler: least-allocated")
    began = time.monotonic()
    engine.stop(number)
    time.sleep(1.0)
    engine.start()
    up = time.monotonic()
    cluster.until("every container to run again", lambda: len(cluster.running("app")) == 4)
    cluster.until("every pod to be ready", lambda: cluster.get("/deployments/app")["ready_replicas"] == 4)
    print(f"all run again {time.monotonic() - up:.2f} s after the engine answered, away for {up - began:.2f} s")
    time.sleep(2.0)
    after = cluster.boxes("app")
    assert [box.id for box in after] == [box.id for box in before]
    assert {pod["name"] for pod in cluster.pods("app")} == {box.pod_name for box in before}
    delete(cluster, "app")


def test_two_machines_with_an_engine_each(tmp_path: Path, engine: Engine) -> None:
    """One of them loses its power: agent and engine, and with it the containers."""
    with private_engine() as other:
        other.make_image("nginx:alpine", marker="other")
        cluster = DockerCluster(tmp_path, [engine, other])
        try:
            cluster.bring_up()
            before = apply(cluster, "app", 4, "scheduler: least-allocated")
            lost = [box for box in before if box.node == cluster.node_names[1]]
            assert 0 < len(lost) < 4
            cluster.agents[1].kill()
            killed = time.monotonic()
            other.stop()
            cluster.until("four pods on the other machine", lambda: len(cluster.running_on(0, "app")) == 4, timeout_s=15)
            print(f"run elsewhere {time.monotonic() - killed:.2f} s after a machine went away")
            assert time.monotonic() - killed < REPLACED_S
            other.start()
            cluster.bring_up()
            cluster.until("the surplus to go", lambda: len(cluster.boxes("app")) == 4)
            assert not {box.id for box in lost} & {box.id for box in cluster.boxes("app")}
            delete(cluster, "app")
            assert cluster.boxes() == []
        finally:
            cluster.close()
            cluster.remove_all()
