"""GET /changes and `kago changes`: who changed what, filtered, since an index, and followed; and changes asked for twice."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from kago.cli import history
from kago.cli.get import Output
from kago.client.client import Client
from kago.server.app import Server
from tests.integration.test_api import NODE, WEB, assert_problem, eventually, lines_of, play


async def changed(client: httpx.AsyncClient) -> None:
    await client.post("/deployments", json=WEB)
    await client.put("/deployments/web", json={"replicas": 4})
    await client.put("/deployments/web", json={"replicas": 4})
    await client.post("/deployments?dry_run=true", json=WEB | {"name": "other"})
    await client.delete("/deployments/web")


def test_every_change_is_told_once(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await changed(client)
        told = (await client.get("/changes")).json()
        assert [(one["verb"], one["name"], one["summary"]) for one in told] == [
            ("created", "deployment/web", "image nginx:1.27, replicas 2"),
            ("scaled", "deployment/web", "replicas 2 -> 4"),
            ("deleted", "deployment/web", ""),
        ]
        assert {(one["actor"], one["source"]) for one in told} == {("anybody", "127.0.0.1")}
        assert (await client.get(f"/changes?since={told[0]['index']}")).json() == told[1:]
        assert (await client.get("/changes?name=deployment/none")).json() == []
        assert_problem(await client.get("/changes?since=-1"), 400, "bad-request")
        assert_problem(await client.post("/changes"), 405, "method-not-allowed")

    play(tmp_path, scenario)


def test_changes_are_followed(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/deployments", json=WEB)
        async with client.stream("GET", "/changes?watch=true") as watch:
            following = asyncio.create_task(lines_of(watch, 3))
            await asyncio.sleep(0.05)
            await client.put("/deployments/web", json={"replicas": 0})
            lines = await following
        assert [line["type"] for line in lines] == ["put", "synced", "put"]
        assert lines[2]["object"]["summary"] == "replicas 2 -> 0"

    play(tmp_path, scenario)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await changed(client)
        async with Client([server.url]) as kago:
            await history.changes(kago, "", since=0, output=Output.WIDE, watch=False)
            out = capsys.readouterr().out.splitlines()
            assert out[0].split() == ["NAME", "WHAT", "INDEX", "WHO", "AGE", "FROM", "CHANGES"] and len(out) == 4
            assert out[2].endswith("127.0.0.1   replicas 2 -> 4") and "anybody" in out[2]
            await history.changes(kago, "deploy/web", since=0, output=Output.JSON, watch=False)
            first, second, _ = json.loads(capsys.readouterr().out)
            await history.changes(kago, "", since=second["index"], output=Output.NAME, watch=False)
            assert capsys.readouterr().out == "deployment/web\n"
            await history.changes(kago, "deploy/none", since=0, output=Output.TABLE, watch=False)
            assert capsys.readouterr().err == "No changes found.\n"
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await history.changes(kago, "", since=first["index"], output=Output.TABLE, watch=True)
            assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["WHAT", "scaled", "deleted"]

    play(tmp_path, scenario)


def test_a_deletion_sent_twice_under_one_key_is_done_both_times(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/deployments", json=WEB)

        async def made() -> bool:
            return len((await client.get("/pods")).json()) == 2

        await eventually(made)
        await client.post("/nodes/register", json=NODE | {"runtimes": []})  # takes no pods: one that is deleted is gone at once
        pod = (await client.get("/pods")).json()[0]
        for path in (f"/pods/{pod['name']}", "/nodes/n1?force=true"):
            key = {"idempotency-key": "once"}
            assert [(await client.delete(path, headers=key)).status_code for _ in range(2)] == [200, 200], path
            assert_problem(await client.delete(path), 404, "not-found")
            assert_problem(await client.delete(path, headers={"idempotency-key": "another"}), 404, "not-found")

    play(tmp_path, scenario)


def test_an_update_that_was_done_is_never_called_not_found(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/deployments", json=WEB)
        key = {"idempotency-key": "once"}
        assert (await client.put("/deployments/web", json={"replicas": 5}, headers=key)).json()["replicas"] == 5
        await client.delete("/deployments/web")
        again = await client.put("/deployments/web", json={"replicas": 5}, headers=key)
        assert (again.status_code, again.json()["replicas"]) == (200, 5), "as it was"
        server.store.feed.restored(server.store.feed.index)
        assert_problem(await client.put("/deployments/web", json={"replicas": 5}, headers=key), 503, "outcome-unknown")
        assert_problem(await client.put("/deployments/web", json={"replicas": 5}), 404, "not-found")

    play(tmp_path, scenario)
