"""The two ports that are not the API's, with more strangers at them than they have room for."""

import asyncio
import json
import random
import socket
import struct
import time

from kago.agent import port as agent_port
from kago.agent.port import Health, serve_port
from raft.transport import AsyncioWire

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Clock:
    def monotonic(self) -> float:
        return time.monotonic()


class _Listener:
    """Wire events of a member that knows one peer."""

    id = "z:1"

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def connected(self, peer: str) -> None: ...
    def disconnected(self, peer: str, *, by_peer: bool) -> None: ...
    def handshake_refused(self, peer: str, reason: str) -> None: ...
    def received(self, peer: str, frame: bytes) -> None:
        self.frames.append(frame)

    def introduce(self, peer: str) -> bytes:
        return b"z:1"

    def welcome(self, hello: bytes, certified: str | None = None) -> str:
        if hello != b"a:1":
            raise ValueError("unknown")
        return "a:1"


def _framed(frame: bytes) -> bytes:
    return struct.pack(">I", len(frame)) + frame


def test_strangers_do_not_keep_members_out_of_the_raft_port() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        events = _Listener()
        wire = AsyncioWire(clock=_Clock(), random=random.Random(1))
        wire.set_peers({"a:1": "127.0.0.1:1"})
        await wire.listen(address)
        wire.start(events)
        await asyncio.sleep(0)  # it begins to listen in a task
        try:
            strangers = [await _dial(address) for _ in range(100)]
            reader, writer = await _dial(address)
            writer.write(_framed(b"Ha:1"))
            async with asyncio.timeout(5):
                assert await reader.readexactly(8) == _framed(b"Hz:1")
                writer.write(_framed(b"news"))
                while events.frames != [b"news"]:
                    await asyncio.sleep(0.01)
                # The first ones had to go; the last ones may still introduce themselves.
                assert await _end(strangers[0][0]) == b""
            assert len(wire._strangers) <= 17
            for _, stranger in [*strangers, (reader, writer)]:
                stranger.close()
        finally:
            wire.close()

    asyncio.run(scenario())


async def _dial(address: str) -> Stream:
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def _end(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


def test_the_agents_port_tells_who_is_too_many() -> None:
    async def scenario() -> None:
        health = Health(node="n1", node_id="1", incarnation=1, cluster_id="c", master_heard=True)
        server = await serve_port("127.0.0.1", 0, lambda: health, tuple)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            idle = [await _dial(address) for _ in range(agent_port.MAX_CONNECTIONS)]
            reader, writer = await _dial(address)
            writer.write(b"GET /health HTTP/1.1\r\n\r\n")
            async with asyncio.timeout(5):
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            assert b" 503 " in head and "come back" in json.loads(body)["error"]
            for _, stream in [*idle, (reader, writer)]:
                stream.close()
            async with asyncio.timeout(5):
                while b" 200 " not in await _asked(address):
                    await asyncio.sleep(0.01)
        finally:
            server.close()

    asyncio.run(scenario())


async def _asked(address: str) -> bytes:
    reader, writer = await _dial(address)
    writer.write(b"GET /health HTTP/1.1\r\n\r\n")
    try:
        return await _end(reader)
    finally:
        writer.close()
