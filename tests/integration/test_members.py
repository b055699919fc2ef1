"""Members through the API of any server: over the real log, in one process."""

import asyncio
import json
from pathlib import Path

from kago.config import ServeConfig
from kago.core.model.cluster import advice
from kago.server.app import Server
from tests.integration.test_servers import Three, eventually, free_ports, play


async def _added(group: Three, base: Path, through: Server) -> Server:
    """A new server, added through another; it was started before anybody knew of it."""
    raft, api = free_ports(2)
    config = ServeConfig(
        port=api,
        me=f"127.0.0.1:{raft}",
        members=(),
        join=tuple(server.url for server in group.servers),
        api_url=f"http://127.0.0.1:{api}",
        data_dir=base / str(api),
    )
    server = Server(config)
    starting = asyncio.create_task(server.start())
    await asyncio.sleep(0.2)
    assert not starting.done(), "it waits until it is a member"
    answer = await group.ask(through, "POST", "/cluster/members", {"address": config.me})
    assert (answer.status_code, answer.json()) == (201, {"id": config.me, "address": config.me})
    await starting
    group.servers.append(server)
    return server


def test_a_server_comes_and_another_goes_and_everybody_hears_of_it(tmp_path: Path) -> None:
    async def scenario(group: Three) -> None:
        through = group.followers[0]
        new = await _added(group, tmp_path, through)
        await eventually(lambda: all(len(server.store.tables.servers) == 4 for server in group.servers))
        members = (await group.ask(new, "GET", "/cluster")).json()["members"]
        assert [member["voter"] for member in members].count(True) >= 3
        gone = group.leader
        answer = await group.ask(through, "DELETE", f"/cluster/members/{gone.store.status().me}")
        assert answer.status_code == 200, answer.text
        await asyncio.wait_for(gone.fatal, 5.0)
        await group.stop(gone)
        await eventually(lambda: all(len(server.store.tables.servers) == 3 for server in group.servers))
        told = [(one["verb"], one["name"]) for one in (await group.ask(new, "GET", "/changes")).json()]
        assert told == [("added", f"server/{new.config.me}"), ("removed", f"server/{gone.config.me}")]
        answer = await group.ask(new, "GET", "/deployments")
        assert sorted(answer.headers["x-kago-servers"].split(",")) == sorted(server.config.api_url for server in group.servers)

    play(tmp_path, scenario)


def test_one_server_grows_to_three_and_the_first_may_go(tmp_path: Path) -> None:
    async def scenario() -> None:
        raft, api = free_ports(2)
        me = f"127.0.0.1:{raft}"
        first = Server(ServeConfig(port=api, me=me, members=(me,), api_url=f"http://127.0.0.1:{api}", data_dir=tmp_path / "first"))
        group = Three([first])
        try:
            await first.start()
            await eventually(lambda: first.store.tables.cluster.leader == me)
            assert (await group.ask(first, "POST", "/deployments", {"name": "web", "image": "nginx"})).status_code == 201
            answer = await group.ask(first, "POST", "/cluster/members", {"address": "10.9.9.9:7080"})
            assert answer.status_code == 409 and "no other machine reaches" in answer.text
            for _ in range(2):
                await _added(group, tmp_path, group.servers[-1])
            await eventually(lambda: sum(member.voter for member in group.servers[-1].store.status().members) == 3)
            await group.stop(first)
            assert (await group.ask(group.servers[0], "GET", "/deployments/web")).status_code == 200
            assert (await group.ask(group.servers[1], "PUT", "/deployments/web", {"replicas": 2})).status_code == 200
        finally:
            await group.http.aclose()
            await asyncio.gather(*(server.stop() for server in group.servers))

    asyncio.run(scenario())


def test_refusals_say_why(tmp_path: Path) -> None:
    async def scenario(group: Three) -> None:
        server = group.followers[0]
        for method, path, body, status, words in [
            ("POST", "/cluster/members", {"address": "nonsense"}, 422, "is not host:port"),
            ("POST", "/cluster/members", {"adress": "a:1"}, 422, "there is no field"),
            ("DELETE", "/cluster/members/z:1", None, 404, "there is no server 'z:1'"),
            ("POST", "/cluster/leader", {"id": "z:1"}, 404, "there is no server 'z:1'"),
        ]:
            answer = await group.ask(server, method, path, body)
            assert answer.status_code == status, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert words in json.loads(answer.text)["detail"]
        target = group.followers[-1].store.status().me
        answer = await group.ask(server, "POST", "/cluster/leader", {"id": target})
        assert (answer.status_code, answer.json()) == (200, {"leader": target})

    play(tmp_path, scenario)


def test_numbers_that_are_not_good_ones_are_said() -> None:
    assert [bool(advice(n)) for n in range(1, 8)] == [False, True, False, True, False, True, False]
