"""Backups of a running server over its API, and a server that begins again from one."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from kago.cli.failures import VerbFailed
from kago.cli.upkeep import snapshot_inspect
from kago.client.client import Client
from kago.client.errors import Problem
from kago.config import ServeConfig
from kago.core.state.backup import INDEX_LEAP, TERM_LEAP, decode
from kago.server.app import Server
from kago.server.backup import restore
from tests.integration.test_servers import NODE, WEB, free_ports


@asynccontextmanager
async def running(directory: Path, me: str) -> AsyncIterator[tuple[Server, httpx.AsyncClient]]:
    async with Server(ServeConfig(port=0, me=me, members=(me,), data_dir=directory)) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=5) as client:
            async with asyncio.timeout(5):
                while not server.store.tables.servers:
                    await asyncio.sleep(0.01)
            yield server, client


def test_saved_while_it_serves_and_begun_again_from_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        me, data = f"127.0.0.1:{free_ports(1)[0]}", bytearray()
        async with running(tmp_path / "old", me) as (server, http):
            assert (await http.post("/nodes/register", json=NODE)).status_code == 200
            assert (await http.post("/deployments", json=WEB)).status_code == 201
            async with Client([server.url]) as client:
                assert await client.backup(data.extend) == server.url
            pods = (await http.get("/pods")).json()
            assert (await http.delete("/deployments/web")).status_code == 200
            (cluster, late) = (await http.get("/cluster")).json(), server.store.tables.index
        backup = decode(bytes(data))
        assert backup.header.cluster_id == cluster["cluster_id"]
        assert sorted(backup.tables.pods) == sorted(pod["id"] for pod in pods)
        index = restore(backup, tmp_path / "new", me=me)
        with pytest.raises(ValueError, match="is not empty"):
            restore(backup, tmp_path / "new", me=me)
        async with running(tmp_path / "new", me) as (server, http):
            now = (await http.get("/cluster")).json()
            assert now["cluster_id"] == cluster["cluster_id"]
            assert now["epoch"] > cluster["epoch"] + TERM_LEAP - 1
            assert now["index"] >= index > late + INDEX_LEAP // 2
            assert [pod["id"] for pod in (await http.get("/pods")).json()] == [pod["id"] for pod in pods]
            gone = await http.get(f"/pods?watch=true&index={late}")  # what the lost time called an index is told to list again
            assert gone.status_code == 410
            assert (await http.put("/deployments/web", json={"replicas": 1})).status_code == 200

    asyncio.run(scenario())


def test_a_backup_of_a_large_state_leaves_the_server_responsive_and_a_third_at_once_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, f"127.0.0.1:{free_ports(1)[0]}") as (server, http):
            env = {"A": "x" * 60_000}
            for n in range(100):
                made = await http.post("/deployments", json={**WEB, "name": f"web-{n}", "replicas": 0, "env": env})
                assert made.status_code == 201, made.text
            readers = [_asks_and_never_reads(server.url) for _ in range(2)]
            async with Client([server.url]) as client:
                size = 0

                def count(piece: bytes) -> None:
                    nonlocal size
                    size += len(piece)

                await asyncio.sleep(0.5)
                with pytest.raises(Problem) as refused:
                    await client.backup(count)
                assert (refused.value.status, size) == (429, 0)
                assert (await http.put("/deployments/web-0", json={"replicas": 0, "args": ["-x"]})).status_code == 200
                for reader in readers:
                    reader.close()
                async with asyncio.timeout(5):
                    while size == 0:
                        with suppress(Problem):
                            await client.backup(count)
                        await asyncio.sleep(0.05)
                assert size > 100 * 60_000

    asyncio.run(scenario())


def _asks_and_never_reads(url: str) -> socket.socket:
    end = socket.socket()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    address = urlsplit(url)
    end.connect((address.hostname, address.port))
    end.sendall(b"GET /snapshot HTTP/1.1\r\nHost: x\r\n\r\n")
    return end


def test_what_is_no_backup_is_refused_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"KAGOSNP1 of another kind")
    with pytest.raises(VerbFailed, match=r"x: this is not a backup"):
        snapshot_inspect(file)
