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
    try:
        yield running
        assert running.boxes() == []
        assert "Traceback" not in "".join(process.log.read_text() for process in running.processes())
    except BaseException:
        print(running.diary())
        running.bring_up()
        for deployment in running.get("/deployments"):
            running.request("DELETE", f"/deployments/{deployment['name']}").raise_for_status()
        running.remove_all()
        raise


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
    lines = ["kind: Deployment", "spec:", f"  name: {name}", "  image: nginx:alpine", f"  replicas: {replicas}", *extra]
    cluster.kago("apply", "-f", "-", "--wait", "--timeout", "40s", stdin="\n  ".join(lines).replace("\n  spec", "\nspec"))
    settled(cluster, name, replicas, "nginx:alpine")
    return cluster.boxes(name)


def delete(cluster: DockerCluster, *names: str) -> None:
    for name in names:
        assert cluster.request("DELETE", f"/deployments/{name}").status_code == 200
    for name in names:
        gone(cluster, name)


# -- lives -----------------------------------------------------------------------------------------------------------


def live_by_command(cluster: DockerCluster, file: str, server: int) -> None:
    """Apply, scale, update and delete an example with the command line on one server."""
    only, path = [cluster.urls[server]], str(EXAMPLES / file)
    specs = example(file)
    assert cluster.kago("apply", "-f", path, "--wait", "--timeout", "40s", servers=only).split("\n")[:-1] == [
        f"deployment/{spec.name} created" for spec in specs
    ]
    for spec in specs:
        settled(cluster, spec.name, spec.replicas, spec.image)
        assert cluster.request("PUT", f"/deployments/{spec.name}", server=server, body={"replicas": 4}).status_code == 200
        settled(cluster, spec.name, 4, spec.image)
        assert cluster.kago("scale", spec.name, "3", "--wait", servers=only) == f"deployment/{spec.name} scaled\n"
        settled(cluster, spec.name, 3, spec.image)
    text = (EXAMPLES / file).read_text().replace(f"replicas: {specs[0].replicas}", "replicas: 3")
    for old, new in UPDATES.items():
        text = text.replace(old, new)
    last = specs[-1].name
    with cluster.watched(last, server=server) as lowest:
        changed = cluster.kago("apply", "-f", "-", "--wait", "--timeout", "60s", stdin=text, servers=only)
        for spec in specs:
            settled(cluster, spec.name, 3, UPDATES[spec.image])
    assert changed.split("\n")[:-1] == [f"deployment/{spec.name} configured" for spec in specs]
    assert (lowest.running >= 3, lowest.ready >= 3) == (True, True), str(lowest)
    cluster.kago("delete", "-f", path, servers=only)
    for spec in specs:
        gone(cluster, spec.name)


def live_by_request(cluster: DockerCluster, file: str, server: int) -> None:
    """The same by requests to one server, with a limit that allows one fewer while it is updated."""
    specs = example(file)
    for spec in specs:
        small = {"cpu_millis": spec.resources.cpu_millis, "memory_mb": spec.resources.memory_mb}
        body = {"name": spec.name, "image": spec.image, "replicas": spec.replicas, "resources": small}
        assert cluster.request("POST", "/deployments", server=server, body=body).status_code == 201
        settled(cluster, spec.name, spec.replicas, spec.image)
        whole = {**body, "replicas": 4, "rolling_update": {"max_surge": 0, "max_unavailable": 1}}
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
    for server in cluster.servers:
        server.stop()
        server.arguments = (*server.arguments[: server.arguments.index("--scheduler")], "--scheduler", strategy) if False else server.arguments
    live_by_command(cluster, "nginx-deployment.yml", 0)
