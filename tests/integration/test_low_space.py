"""What a server finds when it looks at itself; and a disk that runs full: changes are refused while there is room for what must go on."""

import asyncio
from email.utils import formatdate
from pathlib import Path

import httpx

from kago.core.checks import DAY_S, MIN_FREE_BYTES
from kago.security.subject import Role
from kago.server.checks import Checks, measure_sync
from tests.integration.secured import secured
from tests.integration.test_api import NODE, WEB, running


def test_changes_are_refused_below_the_watermark_and_taken_again_above_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (server, http):
            assert (await http.post("/deployments", json=WEB)).status_code == 201
            free = MIN_FREE_BYTES - 1
            server.checks._free = lambda path: free
            refused = await until_status(http, 503)
            assert (refused.json()["type"], refused.headers["retry-after"]) == ("urn:kago:problem:low-space", "5")
            assert "less than 64 MiB left" in refused.json()["detail"]
            assert (await http.delete("/deployments/web")).status_code == 503
            assert (await http.get("/deployments/web")).json()["replicas"] == 2
            # Agents are heard for as long as there is any room.
            assert (await http.post("/nodes/register", json=NODE)).status_code == 200
            beat = {"node_id": "node-1", "incarnation": 1}
            assert (await http.post("/nodes/n1/heartbeat", json=beat)).status_code == 200
            assert (await http.get("/checks")).json()["read_only"] is True
            free = MIN_FREE_BYTES + 1
            await asyncio.sleep(1.2)
            assert (await http.put("/deployments/web", json={"replicas": 3})).status_code == 503, "it must not flutter"
            free = 2 * MIN_FREE_BYTES
            assert (await until_status(http, 200)).json()["replicas"] == 3

    asyncio.run(scenario())


async def until_status(http: httpx.AsyncClient, status: int) -> httpx.Response:
    async with asyncio.timeout(5):
        while (answer := await http.put("/deployments/web", json={"replicas": 2 if status == 503 else 3})).status_code != status:
            await asyncio.sleep(0.05)
    return answer


def test_an_agents_clock_is_compared_with_the_servers(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (server, http):
            assert (await http.post("/nodes/register", json=NODE)).status_code == 200
            beat = {"node_id": "node-1", "incarnation": 1}
            for off_s, told in ((-3600, True), (0, False), (120, True), (None, False)):
                headers = {} if off_s is None else {"date": formatdate(server.clock.now() + off_s, usegmt=True)}
                assert (await http.post("/nodes/n1/heartbeat", json=beat, headers=headers)).status_code == 200
                clocks = (await http.get("/checks")).json()["agent_clocks_off_s"]
                assert ("n1" in clocks) == told
                assert off_s is None or not told or abs(clocks["n1"] - off_s) < 3
            for rubbish in ("yesterday", "Mon, 99 Xyz 0000", ""):
                assert (await http.post("/nodes/n1/heartbeat", json=beat, headers={"date": rubbish})).status_code == 200

    asyncio.run(scenario())


def test_a_disk_that_cannot_be_written_is_a_finding_and_no_crash(tmp_path: Path) -> None:
    assert measure_sync(tmp_path) is not None
    assert list(tmp_path.iterdir()) == []
    assert measure_sync(tmp_path / "gone") is None


def test_room_that_cannot_be_found_out_changes_nothing(tmp_path: Path) -> None:
    def failing(path: Path) -> int:
        raise OSError(5, "input/output error")

    class Still:
        def now(self) -> float:
            return 0.0

        def monotonic(self) -> float:
            return 0.0

    checks = Checks(tmp_path, Still(), free=failing)
    checks.look()
    checks.require_room("POST", "/deployments")


def test_a_server_tells_of_certificates_that_should_have_been_renewed(tmp_path: Path) -> None:
    async def story() -> None:
        async with asyncio.timeout(60), secured(tmp_path) as group:
            late = group.office.pair(Role.AGENT, "n1", ago_s=25 * DAY_S)
            assert (await group.ask("POST", "/nodes/register", NODE, pair=late)).status_code == 200
            beat = {"node_id": "node-1", "incarnation": 1}
            assert (await group.ask("POST", "/nodes/n1/heartbeat", beat, pair=late)).status_code == 200
            facts = (await group.ask("GET", "/checks")).json()
            assert 29 * DAY_S < facts["certificate_left_s"] < 31 * DAY_S < 3600 * DAY_S < facts["ca_left_s"]
            assert 4 * DAY_S < facts["agent_certificates_left_s"]["n1"] <= 5 * DAY_S
            renewed = group.office.pair(Role.AGENT, "n1")
            assert (await group.ask("POST", "/nodes/n1/heartbeat", beat, pair=renewed)).status_code == 200
            assert (await group.ask("GET", "/checks")).json()["agent_certificates_left_s"] == {}

    asyncio.run(story())
