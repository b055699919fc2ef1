"""Watches as clients meet them: listed, followed, gone on from, and ended where that is not possible."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from kago.core.state.changes import Thing
from kago.server import answers, watches
from kago.server.app import Server
from tests.integration.test_api import WEB, assert_problem, eventually, lines_of, play


def test_a_watch_lists_follows_and_resumes(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/deployments", json=WEB | {"replicas": 0})
        async with client.stream("GET", "/deployments?watch=true") as watch:
            assert watch.headers["content-type"] == "application/x-ndjson" and "x-kago-leader" in watch.headers
            await asyncio.sleep(0)
            lines = asyncio.create_task(lines_of(watch, 4))
            await asyncio.sleep(0.05)
            await client.put("/deployments/web", json={"image": "nginx:1.28"})
            await client.delete("/deployments/web")
            events = await lines
        assert [event["type"] for event in events] == ["put", "synced", "put", "removed"]
        assert events[0]["object"]["image"] == "nginx:1.27" and events[2]["object"]["image"] == "nginx:1.28"
        synced = events[1]["index"]
        assert events[1]["epoch"] == 1
        async with client.stream("GET", f"/deployments?watch=true&index={synced}") as watch:
            resumed = await lines_of(watch, 2)
        assert resumed == events[2:], "the same events, from the ring"
        async with client.stream("GET", f"/deployments?watch=true&index={synced}", headers={"accept": "text/event-stream"}) as watch:
            assert watch.headers["content-type"] == "text/event-stream"
            text = [line async for line in _first(watch.aiter_lines(), 2)]
        assert text[0] == f"id: {resumed[0]['index']}" and json.loads(text[1].removeprefix("data: ")) == resumed[0]

        async def nobody_watches() -> bool:
            return server.store.feed.watchers == 0

        await eventually(nobody_watches)

    play(tmp_path, scenario)


async def _first(lines: AsyncIterator[str], count: int) -> AsyncIterator[str]:
    async with asyncio.timeout(5):
        async for line in lines:
            yield line
            count -= 1
            if not count:
                return


def test_a_watch_ends_loudly_where_it_cannot_go_on(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/deployments", json=WEB)
        async with client.stream("GET", "/pods?watch=true") as watch:
            lines = asyncio.create_task(lines_of(watch, 1000))
            await asyncio.sleep(0.1)
            server.store.feed.restored(server.store.tables.index)
            last = (await lines)[-1]
        assert last["type"] == "error" and last["object"]["status"] == 410
        assert_problem(await client.get("/pods?watch=true&index=0"), 410, "index-too-old")

    play(tmp_path, scenario)


def test_a_watch_that_lost_changes_names_no_index_to_go_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watches, "HEARTBEAT_S", 0.0)

    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        sse = {"accept": "text/event-stream"}
        async with client.stream("GET", "/pods?watch=true") as watch, client.stream("GET", "/pods?watch=true", headers=sse) as page:
            lines = [asyncio.create_task(_all(stream.aiter_lines())) for stream in (watch, page)]
            await asyncio.sleep(0.05)
            reached = server.store.tables.index
            server.store.tables.index += 5  # as a snapshot does whose changes nobody was told
            server.store.feed.restored(reached + 5)
            events, page_lines = [json.loads(line) for line in await lines[0]], await lines[1]
        assert events[-1]["type"] == "error" and {event["index"] for event in events[:-1]} == {reached}
        assert {line for line in page_lines if line.startswith("id:")} == {f"id: {reached}"}

    play(tmp_path, scenario)


def test_a_long_list_is_sent_in_slices_and_is_of_one_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "SLICE", 10)

    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/deployments", json=WEB | {"replicas": 95})

        async def made() -> bool:
            return len(server.store.tables.pods) == 95

        await eventually(made)
        names, turns = sorted(pod.name for pod in server.store.tables.pods.values()), 0

        def in_between() -> None:
            """Between the slices everybody else has a turn: to take pods away, for instance."""
            nonlocal turns
            turns += 1
            if turns == 2:
                server.store.tables.pods.clear()

        encoded = server.store.encoded

        def watched(thing: Thing) -> bytes:
            asyncio.get_running_loop().call_soon(in_between)
            return encoded(thing)

        monkeypatch.setattr(server.store, "encoded", watched)
        pods = dict(server.store.tables.pods)
        for _ in range(2):  # whether or not it was asked before
            answer, turns = await client.get("/pods"), 0
            assert answer.headers["transfer-encoding"] == "chunked" and [pod["name"] for pod in answer.json()] == names
            server.store.tables.pods.update(pods)
        async with client.stream("GET", "/pods?watch=true") as watch:
            events = await lines_of(watch, 96)
        assert [event["object"]["name"] for event in events[:-1]] == names and events[-1]["type"] == "synced"
        assert {event["index"] for event in events} == {events[-1]["index"]}
        assert len(server.store.encodings._known) <= 96, "what is no longer so is not kept"
        server.store.tables.pods.update(pods)

    play(tmp_path, scenario)


async def _all(lines: AsyncIterator[str]) -> list[str]:
    async with asyncio.timeout(5):
        return [line async for line in lines if line]
