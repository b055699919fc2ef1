"""Three servers in one process, over the real log on real directories: any of them will do, and one may go."""

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from kago.config import ServeConfig
from kago.server.app import Server
from raft.contract import Role

LEASE_S = 1.0
BEAT = {"node_id": "node-1", "incarnation": 1}
NODE = {"name": "n1", "id": "node-1", "incarnation": 1, "address": "127.0.0.1", "port": 8081,
        "capacity": {"cpu_millis": 4000, "memory_mb": 8192}, "runtimes": ["docker"]}
WEB = {"name": "web", "image": "nginx:1.27", "replicas": 2}


def free_ports(count: int) -> list[int]:
    """Below those that the system gives to outgoing connections, or one of these would take them before the server does."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(20_000, 32_000)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        if port not in ports:
            ports.append(port)
    return ports


class Three:
    def __init__(self, servers: list[Server]) -> None:
        self.servers = servers
        self.http = httpx.AsyncClient(timeout=8)

    @property
    def leader(self) -> Server:
        return next(server for server in self.servers if server.store.status().role is Role.LEADER)

    @property
    def followers(self) -> list[Server]:
        return [server for server in self.servers if server.store.status().role is not Role.LEADER]

    async def ask(self, server: Server, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        return await self.http.request(method, server.url + path, json=body, headers={k.replace("_", "-"): v for k, v in headers.items()})

    async def stop(self, server: Server) -> None:
        self.servers.remove(server)
        await server.stop()


@asynccontextmanager
async def three(base: Path) -> AsyncIterator[Three]:
    raft, api = free_ports(3), free_ports(3)
    members = tuple(f"127.0.0.1:{port}" for port in raft)
    servers = []
    for me, port in zip(members, api, strict=True):
        config = ServeConfig(
            port=port, me=me, members=members, api_url=f"http://127.0.0.1:{port}", data_dir=base / str(port), node_lease_s=LEASE_S,
            heartbeat_s=0.1,
        )
        servers.append(Server(config))
    group = Three(list(servers))
    try:
        await asyncio.gather(*(server.start() for server in servers))
        await eventually(lambda: all(len(server.store.tables.servers) == 3 for server in servers))
        await eventually(lambda: all(server.store.tables.cluster.leader == group.leader.config.me for server in servers))
        yield group
    finally:
        await group.http.aclose()
        await asyncio.gather(*(server.stop() for server in group.servers))


async def eventually(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while True:
            try:
                if condition():
                    return
            except StopIteration:  # no leader at the moment
                pass
            await asyncio.sleep(0.02)


def play(base: Path, scenario: Callable[[Three], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        async with three(base) as group:
            await scenario(group)

    asyncio.run(all_of_it())


def test_any_server_takes_writes_and_shows_them_at_once(tmp_path: Path) -> None:
    async def scenario(group: Three) -> None:
        one, other = group.followers
        made = await group.ask(one, "POST", "/deployments", WEB, idempotency_key="k1")
        assert made.status_code == 201, made.text
        for server in (other, group.leader):
            seen = await group.ask(server, "GET", "/deployments/web")
            assert seen.status_code == 200 and int(seen.headers["x-kago-index"]) >= int(made.headers["x-kago-index"])
        again = await group.ask(other, "POST", "/deployments", WEB, idempotency_key="k1")
        assert again.status_code == 201 and again.json()["created_at"] == made.json()["created_at"]
        changed = await asyncio.gather(*(group.ask(server, "PUT", "/deployments/web", {"replicas": 3}) for server in group.servers))
        assert [answer.status_code for answer in changed] == [200, 200, 200]
        gone = await group.ask(one, "DELETE", "/deployments/web")
        assert gone.status_code == 200 and gone.json()["replicas"] == 3
        for server in group.servers:
            assert (await group.ask(server, "GET", "/deployments/web")).status_code == 404
        cluster = (await group.ask(other, "GET", "/cluster")).json()
        assert sorted(member["role"] for member in cluster["members"]) == ["follower", "follower", "leader"]
        assert {member["api"] for member in cluster["members"]} == {server.config.api_url for server in group.servers}

    play(tmp_path, scenario)


def test_heartbeats_reach_the_leader_through_a_follower_until_they_end(tmp_path: Path) -> None:
    async def scenario(group: Three) -> None:
        one, other = group.followers
        assert (await group.ask(one, "POST", "/nodes/register", NODE)).status_code == 200
        await group.ask(other, "POST", "/deployments", WEB)
        await eventually(lambda: len(one.store.tables.pods_of_node("n1")) == 2)
        for _ in range(int(2.5 * LEASE_S / 0.2)):
            assert (await group.ask(one, "POST", "/nodes/n1/heartbeat", BEAT)).status_code == 200
            await asyncio.sleep(0.2)
            assert one.store.tables.nodes["n1"].status == "ready"
        await eventually(lambda: other.store.tables.nodes["n1"].status == "unknown", seconds=LEASE_S + 1.5)
        lost = other.store.tables.pods_of_node("n1")
        assert {(pod.status, pod.reason) for pod in lost} == {("terminating", "NodeLost")}
        await eventually(lambda: len([pod for pod in other.store.tables.pods.values() if pod.live]) == 2)
        assert (await group.ask(other, "POST", "/nodes/n1/heartbeat", BEAT)).status_code == 200
        await eventually(lambda: one.store.tables.nodes["n1"].status == "ready")

    play(tmp_path, scenario)


def test_a_leader_that_stops_leaves_everything_as_it_was(tmp_path: Path) -> None:
    async def scenario(group: Three) -> None:
        leader = group.leader
        await group.ask(leader, "POST", "/nodes/register", NODE)
        await group.ask(leader, "POST", "/deployments", WEB)
        survivor = group.followers[0]
        await eventually(lambda: len(survivor.store.tables.pods_of_node("n1")) == 2)
        pods = set(survivor.store.tables.pods)
        async with group.http.stream("GET", f"{leader.url}/deployments?watch=true") as watch:
            lines = watch.aiter_lines()
            events = [json.loads(await anext(lines)), json.loads(await anext(lines))]
            assert [event["type"] for event in events] == ["put", "synced"]
            stopped = asyncio.create_task(group.stop(leader))
            async for line in lines:
                events.append(json.loads(line))
        await stopped
        assert events[-1]["type"] == "error"
        index = events[1]["index"]
        written = await group.ask(survivor, "PUT", "/deployments/web", {"labels": {"a": "b"}})
        assert written.status_code == 200, "within the two seconds a write waits for a leader"
        async with group.http.stream("GET", f"{group.servers[-1].url}/deployments?watch=true&index={index}") as watch:
            async for line in watch.aiter_lines():
                event = json.loads(line)
                if event["type"] == "put" and event["object"]["labels"] == {"a": "b"}:
                    break
        for _ in range(int(1.5 * LEASE_S / 0.2)):
            await group.ask(survivor, "POST", "/nodes/n1/heartbeat", BEAT)
            await asyncio.sleep(0.2)
        assert set(survivor.store.tables.pods) >= pods and survivor.store.tables.nodes["n1"].status == "ready"
        assert {survivor.store.tables.pods[id].desired for id in pods} <= {"running", "stopped"}
        assert survivor.store.tables.cluster.epoch > 1

    play(tmp_path, scenario)


def test_two_of_three_gone_leaves_stale_reads_and_honest_refusals(tmp_path: Path) -> None:
    async def scenario(group: Three) -> None:
        await group.ask(group.leader, "POST", "/deployments", WEB)
        last = group.followers[0]
        await eventually(lambda: "web" in last.store.tables.deployments)
        for server in [server for server in group.servers if server is not last]:
            await group.stop(server)
        await asyncio.sleep(1.5)
        refused = await group.ask(last, "PUT", "/deployments/web", {"replicas": 5})
        assert refused.status_code == 503 and refused.json()["type"] in ("urn:kago:problem:no-leader", "urn:kago:problem:outcome-unknown")
        assert "retry-after" in refused.headers
        assert (await group.ask(last, "GET", "/deployments/web")).status_code == 503
        assert (await group.ask(last, "GET", "/deployments/web?stale=true")).json()["replicas"] == 2
        assert (await group.ask(last, "GET", "/ready")).status_code == 503
        assert (await group.ask(last, "GET", "/health")).status_code == 200

    play(tmp_path, scenario)
