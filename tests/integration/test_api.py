"""The REST API as clients meet it: a real server on loopback, over a log in memory."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from kago.config import ServeConfig
from kago.server.app import Server
from kago.server.gate import Limits
from kago.server.store import RECENT_S
from raft import MemoryLog
from raft.contract import LogStatus
from raft.errors import NoLeader

WEB = {"name": "web", "image": "nginx:1.27", "replicas": 2}
NODE = {"name": "n1", "id": "node-1", "incarnation": 1, "address": "127.0.0.1", "port": 8081,
        "capacity": {"cpu_millis": 4000, "memory_mb": 8192}, "runtimes": ["docker"]}
Scenario = Callable[[Server, httpx.AsyncClient], Awaitable[None]]


class Leaderless(MemoryLog):
    """A log that has lost its leader where `cut` is set."""

    cut = False

    async def propose(self, *args: Any, **kwargs: Any) -> Any:
        if self.cut:
            raise NoLeader("no leader was known until the deadline")
        return await super().propose(*args, **kwargs)

    async def barrier(self, *, timeout_s: float = 5.0) -> int:
        if self.cut:
            raise NoLeader("no leader was known until the deadline")
        return await super().barrier(timeout_s=timeout_s)

    def status(self) -> LogStatus:
        status = super().status()
        if not self.cut:
            return status
        return replace(status, leader=None, leader_contact_age_s=3.0)


@asynccontextmanager
async def running(base: Path, limits: Limits | None = None) -> AsyncIterator[tuple[Server, httpx.AsyncClient]]:
    config = ServeConfig(port=0, me="memory:0", members=("memory:0",), api_url="http://127.0.0.1:1", data_dir=base)
    server = Server(config, limits=limits)
    await server.start(Leaderless(server.store.machine))
    try:
        async with httpx.AsyncClient(base_url=server.url, timeout=5) as client:
            while not server.store.tables.cluster.epoch or not server.store.tables.servers:
                await asyncio.sleep(0.005)
            yield server, client
    finally:
        await server.stop()


def play(base: Path, scenario: Scenario) -> None:
    async def all_of_it() -> None:
        async with running(base) as (server, client):
            await scenario(server, client)

    asyncio.run(all_of_it())


def assert_problem(answer: httpx.Response, status: int, name: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["type"] == f"urn:kago:problem:{name}"
    assert document["status"] == status and document["error"] == document["detail"] != ""
    assert "Traceback" not in answer.text
    assert answer.headers["x-kago-index"].isdigit()
    return document


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)


async def lines_of(answer: httpx.Response, count: int) -> list[dict[str, Any]]:
    found = []
    async with asyncio.timeout(5):
        async for line in answer.aiter_lines():
            found.append(json.loads(line))
            if len(found) == count:
                break
    return found


def test_the_life_of_a_deployment(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        made = await client.post("/deployments", json=WEB)
        assert made.status_code == 201 and made.headers["location"] == "/deployments/web"
        assert made.json()["name"] == "web" and made.json()["revision"] == 1 and made.json()["ready_replicas"] == 0
        assert_problem(await client.post("/deployments", json=WEB), 409, "already-exists")
        assert_problem(await client.post("/deployments", json=WEB, headers={"if-none-match": "*"}), 412, "precondition-failed")

        async def has_two_pods() -> bool:
            return len((await client.get("/pods", params={"deployment_name": "web"})).json()) == 2

        await eventually(has_two_pods)
        pod = (await client.get("/pods")).json()[0]
        assert pod["status"] == "pending" and pod["node_name"] is None and pod["deployment_name"] == "web"
        for key in (pod["id"], pod["name"]):
            assert (await client.get(f"/pods/{key}")).json()["id"] == pod["id"]

        scaled = await client.put("/deployments/web", json={"replicas": 5})
        assert scaled.status_code == 200 and scaled.json()["replicas"] == 5 and scaled.headers["x-kago-changed"] == "true"
        assert (await client.put("/deployments/web", json={"replicas": 5})).headers["x-kago-changed"] == "false"
        edited = (await client.get("/deployments/web")).json() | {"image": "nginx:1.28"}
        assert (await client.put("/deployments/web", json=edited)).json()["revision"] == 2, "GET, edit, PUT works"
        assert_problem(await client.put("/deployments/web", json={"name": "other"}), 422, "validation")
        assert_problem(await client.put("/deployments/none", json={"replicas": 1}), 404, "not-found")

        gone = await client.delete("/deployments/web")
        assert gone.status_code == 200 and gone.json()["name"] == "web"
        assert_problem(await client.get("/deployments/web"), 404, "not-found")
        assert_problem(await client.delete("/deployments/web"), 404, "not-found")
        assert (await client.get("/deployments")).json() == []
        assert (await client.get("/v1/deployments")).json() == []

    play(tmp_path, scenario)


def test_preconditions_and_caching(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        tag = (await client.post("/deployments", json=WEB)).headers["etag"]

        async def has_moved() -> bool:
            return (await client.get("/deployments/web")).headers["etag"] != tag

        await eventually(has_moved)  # its pods were made: the thing is another one, what the user wants is not
        newer = (await client.get("/deployments/web")).headers["etag"]
        fresh = await client.get("/deployments/web", headers={"if-none-match": newer})
        assert fresh.status_code == 304 and fresh.content == b"" and fresh.headers["etag"] == newer
        changed = await client.put("/deployments/web", json={"replicas": 3}, headers={"if-match": tag})
        assert changed.status_code == 200
        late = await client.put("/deployments/web", json={"replicas": 4}, headers={"if-match": tag})
        assert_problem(late, 412, "precondition-failed")
        assert_problem(await client.delete("/deployments/web", headers={"if-match": tag}), 412, "precondition-failed")
        assert_problem(await client.delete("/deployments/web", headers={"if-match": '"rubbish"'}), 412, "precondition-failed")
        pod = (await client.get("/pods")).json()[0]
        assert_problem(await client.delete(f"/pods/{pod['id']}", headers={"if-match": '"1"'}), 412, "precondition-failed")
        bare = str(changed.json()["spec_version"])
        assert (await client.delete("/deployments/web", headers={"if-match": bare})).status_code == 200

    play(tmp_path, scenario)


def test_an_idempotency_key_gives_the_first_answer(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        key = {"idempotency-key": "one"}
        first = await client.post("/deployments", json=WEB, headers=key)
        index = server.store.tables.index
        again = await client.post("/deployments", json=WEB, headers=key)
        assert (first.status_code, again.status_code) == (201, 201) and again.json()["created_at"] == first.json()["created_at"]
        assert_problem(await client.post("/deployments", json=WEB | {"name": "x"}, headers=key), 409, "conflict")
        assert (await client.get("/deployments/x")).status_code == 404
        assert server.store.tables.index >= index
        assert_problem(await client.post("/deployments", json=WEB, headers={"idempotency-key": "k" * 300}), 400, "bad-request")

    play(tmp_path, scenario)


def test_dry_runs_change_nothing(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        imagined = await client.post("/deployments?dry_run=true", json=WEB)
        assert imagined.status_code == 200 and imagined.json()["replicas"] == 2
        assert (await client.get("/deployments")).json() == []
        await client.post("/deployments", json=WEB)
        assert (await client.put("/deployments/web?dry_run=true", json={"replicas": 9})).json()["replicas"] == 9
        assert (await client.delete("/deployments/web?dry_run=true")).status_code == 200
        assert (await client.get("/deployments/web")).json()["replicas"] == 2
        assert_problem(await client.post("/deployments?dry_run=true", json=WEB), 409, "already-exists")

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("method", "path", "content", "kind", "status", "name"),
    [
        ("GET", "/nothing", None, None, 404, "not-found"),
        ("GET", "/deployments/%2e%2e", None, None, 404, "not-found"),
        ("PATCH", "/deployments", None, None, 405, "method-not-allowed"),
        ("BREW", "/health", None, None, 405, "method-not-allowed"),
        ("POST", "/deployments", b"{}", "application/x-www-form-urlencoded", 415, "unsupported-media-type"),
        ("POST", "/deployments", b"{}", None, 415, "unsupported-media-type"),
        ("POST", "/deployments", b"{", "application/json", 400, "bad-request"),
        ("POST", "/deployments", b"{}", "application/json", 422, "validation"),
        ("POST", "/deployments", b'{"name":"-x","image":"nginx"}', "application/json", 422, "validation"),
        ("POST", "/deployments", b'{"name":"x","image":"nginx","replicas":-1}', "application/json", 422, "validation"),
        ("POST", "/deployments", b" " * (4 * 1024 * 1024 + 1), "application/json", 413, "too-large"),
        ("POST", "/deployments", b'{"name":"x","image":"n","env":{"A":"' + b"x" * 600_000 + b'"}}', "application/json", 422, "validation"),
        ("GET", "/deployments?stale=perhaps", None, None, 400, "bad-request"),
        ("GET", "/deployments?min_index=-1", None, None, 400, "bad-request"),
        ("GET", "/deployments?min_index=" + "9" * 5000, None, None, 400, "bad-request"),
        ("GET", "/pods?watch=true&index=%C2%B2", None, None, 400, "bad-request"),
        ("GET", "/pods?selector=app", None, None, 400, "bad-request"),
        ("GET", "/pods/none", None, None, 404, "not-found"),
        ("DELETE", "/nodes/none", None, None, 404, "not-found"),
        ("POST", "/nodes/none/heartbeat", b'{"node_id":"a","incarnation":1}', "application/json", 404, "not-found"),
    ],
)
def test_bad_requests_are_refused_cleanly(
    tmp_path: Path, method: str, path: str, content: bytes | None, kind: str | None, status: int, name: str
) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        index = server.store.tables.index
        answer = await client.request(method, path, content=content, headers={"content-type": kind} if kind else {})
        assert_problem(answer, status, name)
        if status == 405:
            assert "GET" in answer.headers["allow"]
        assert not server.store.tables.deployments
        assert (await client.get("/health")).json()["status"] == "healthy", "still serving"
        assert server.store.tables.index - index <= 1

    play(tmp_path, scenario)


def test_an_agent_registers_reports_and_says_good_bye(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        joined = await client.post("/nodes/register", json=NODE)
        assert joined.status_code == 200, joined.text
        reply = joined.json()
        assert reply["cluster_id"] == server.store.tables.cluster.id and reply["servers"] == ["http://127.0.0.1:1"]
        await client.post("/deployments", json=WEB)

        async def bound() -> bool:
            return len((await client.get("/pods?node_name=n1")).json()) == 2

        await eventually(bound)
        async with client.stream("GET", "/pods?node_name=n1&watch=true") as watch:
            events = await lines_of(watch, 4)
        assert [event["type"] for event in events] == ["put", "put", "synced", "heartbeat"], "a heartbeat within 2 s"
        pods = [{"pod_id": event["object"]["id"], "status": "running", "ready": True} for event in events[:2]]
        beat = {"node_id": "node-1", "incarnation": 1, "pods": pods}
        heard = await client.post("/nodes/n1/heartbeat", json=beat)
        assert heard.status_code == 200 and heard.json()["epoch"] == 1 and heard.json()["lease_s"] == 5.0
        assert (await client.get("/deployments/web?stale=true")).json()["ready_replicas"] == 2, "answered after it was applied"
        node = (await client.get("/nodes/n1")).json()
        assert node["status"] == "ready" and node["pods"] == 2
        assert node["used"]["cpu_millis"] + node["available"]["cpu_millis"] == node["allocatable"]["cpu_millis"] == 4000
        index = server.store.tables.index
        assert (await client.post("/nodes/n1/heartbeat", json=beat | {"pods": []})).status_code == 200
        assert server.store.tables.index == index, "nothing new: nothing logged"
        assert_problem(await client.post("/nodes/n1/heartbeat", json=beat | {"node_id": "other"}), 409, "stale-incarnation")
        assert_problem(await client.post("/nodes/n1/heartbeat", json=beat | {"incarnation": 2}), 404, "not-found")
        assert_problem(await client.post("/nodes/register", json=NODE | {"id": "node-2"}), 409, "conflict")
        assert_problem(await client.post("/nodes/register", json=NODE | {"port": 0}), 422, "validation")
        assert_problem(await client.delete("/nodes/n1"), 409, "conflict")
        await client.post("/nodes/n1/heartbeat", json=beat | {"pods": [], "leaving": True})

        async def left() -> bool:
            return bool((await client.get("/nodes?status=notready")).json())

        await eventually(left)
        assert (await client.delete("/nodes/n1?force=true")).status_code == 200
        assert (await client.get("/nodes")).json() == []

    play(tmp_path, scenario)


def test_without_a_leader_reads_may_be_stale_and_writes_say_so(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/deployments", json=WEB)
        await client.post("/nodes/register", json=NODE)
        log = server.store.log
        assert isinstance(log, Leaderless)
        log.cut = True
        await asyncio.sleep(2 * RECENT_S)
        for refused in (
            await client.put("/deployments/web", json={"replicas": 9}),
            await client.get("/deployments/web"),
            await client.get("/ready"),
        ):
            assert_problem(refused, 503, "no-leader")
            assert refused.headers["retry-after"] == "1" and refused.headers["x-kago-known-leader"] == "false"
            assert refused.headers["x-kago-last-contact"] == "3000"
        assert (await client.get("/deployments/web?stale=true")).json()["replicas"] == 2
        assert (await client.get(f"/deployments/web?min_index={server.store.tables.index}")).status_code == 200
        assert (await client.get("/cluster")).json()["leader"] is None
        beat = await client.post("/nodes/n1/heartbeat", json={"node_id": "node-1", "incarnation": 1})
        assert_problem(beat, 503, "no-leader")  # it would renew no lease: the agent tries another server
        log.cut = False
        await asyncio.sleep(2 * RECENT_S)
        assert (await client.get("/ready")).status_code == 200

    play(tmp_path, scenario)


def test_the_cluster_describes_itself(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/nodes/register", json=NODE)
        await client.post("/deployments", json=WEB)
        before = server.store.tables.index
        cluster = (await client.get("/cluster")).json()
        assert cluster["leader"] == "memory:0" and cluster["term"] == 1 and before <= cluster["index"] <= server.store.tables.index
        (member,) = cluster["members"]
        assert (member["id"], member["role"], member["api"], member["lag"]) == ("memory:0", "leader", "http://127.0.0.1:1", 0)
        text = (await client.get("/metrics")).text
        for line in (
            "kago_deployments_total 1.0",
            'kago_deployment_replicas_desired{deployment="web"} 2.0',
            'kago_deployment_replicas_ready{deployment="web"} 0.0',
            "kago_nodes_total 1.0",
            'kago_node_cpu_capacity_millicores{node="n1"} 4000.0',
            'kago_pods_by_status{status="running"} 0.0',
            "kago_raft_leader 1.0",
            'kago_http_requests_total{method="POST",status="201"} 1.0',
        ):
            assert line in text.splitlines(), line
        document = (await client.get("/openapi.json")).json()
        assert document["openapi"] == "3.1.0" and "/deployments/{name}" in document["paths"]
        page = (await client.get("/docs")).text
        assert page.startswith("<!doctype html>") and "https://" not in page, "nothing from elsewhere"

    play(tmp_path, scenario)


def test_a_stop_ends_watches_and_lets_requests_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (server, client):
            async with client.stream("GET", "/nodes?watch=true") as watch:
                lines = asyncio.create_task(lines_of(watch, 2))
                await asyncio.sleep(0.05)
                slow = asyncio.create_task(client.get(f"/nodes?min_index={server.store.tables.index + 1}"))
                await asyncio.sleep(0.05)
                stopping = asyncio.create_task(server.stop())
                await asyncio.sleep(0.05)
                assert (await lines)[-1]["type"] == "error"
                assert (await slow).status_code == 503
                await stopping
            with pytest.raises(httpx.TransportError):
                await client.get("/health")

    asyncio.run(scenario())
