"""The user's machine: a thread that lives in its network namespace, and the plainest HTTP client there is.

Nothing is tried again and nothing is guessed: what a call came to is what its one request came to, since that is what is judged.
"""

import asyncio
import ctypes
import fcntl
import json
import os
import socket
import ssl
import struct
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from msgspec import Struct

Result = TypeVar("Result")
_CLONE_NEWNET = 0x40000000
_SIOCETHTOOL = 0x8946
_OFFLOADS = (0x17, 0x1F, 0x24, 0x2C)
"""ethtool's numbers for setting tx checksums, TCP segmentation, generic segmentation and generic receive offload."""


def enter(space: str) -> None:
    """Move the calling thread into a network namespace made by `ip netns`; OSError."""
    descriptor = os.open(f"/var/run/netns/{space}", os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), space)
    finally:
        os.close(descriptor)


def send_whole_packets(device: str) -> None:
    """Let the device's packets leave with checksums and no longer than the MTU, so that a program may carry them on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        for number in _OFFLOADS:
            wanted = ctypes.create_string_buffer(struct.pack("II", number, 0))
            request = struct.pack("16sP8x", device.encode(), ctypes.addressof(wanted))
            fcntl.ioctl(handle, _SIOCETHTOOL, request)


class NotSent(Exception):
    """No connection came about, so the server never saw the request."""


class NoAnswer(Exception):
    """It may have been done: the connection broke, or the time ran out."""


class Answer(Struct, frozen=True, kw_only=True):
    status: int
    index: int
    """X-Kago-Index; 0 where there was none."""
    at: float
    """By the server's clock, in seconds since the epoch."""
    body: Any

    @property
    def problem(self) -> str:
        """The last word of a problem's type; empty for an answer that is none."""
        kind = self.body.get("type", "") if isinstance(self.body, dict) else ""
        return str(kind).rpartition(":")[2] if self.status >= 400 else ""


class Way(Struct, frozen=True, kw_only=True):
    """How a server is reached; with a token over TLS, its certificate unlooked at: that is not what is judged here."""

    host: str
    port: int
    token: str = ""


class Connection:
    """To one server; opened when needed, and anew after whatever went wrong."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._tls: ssl.SSLContext | None = None
        if way.token:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: object = None, *, timeout_s: float = 4.0) -> Answer:
        """NotSent, NoAnswer."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._ask(method, path, body)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            self.close()
            raise NoAnswer(str(error) or "timed out") from error
        except BaseException:
            self.close()
            raise

    async def _ask(self, method: str, path: str, body: object) -> Answer:
        if self._streams is None:
            try:
                async with asyncio.timeout(1.0):
                    self._streams = await asyncio.open_connection(self._way.host, self._way.port, ssl=self._tls)
            except (OSError, TimeoutError) as error:
                raise NotSent(str(error) or "no connection in time") from error
        reader, writer = self._streams
        content = b"" if body is None else json.dumps(body).encode()
        said = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n" if content else ""
        who = f"Authorization: Bearer {self._way.token}\r\n" if self._way.token else ""
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: {self._way.host}\r\n{who}{said}\r\n".encode() + content)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        chunked = fields.get("transfer-encoding", "") == "chunked"
        content = await chunked_body(reader) if chunked else await reader.readexactly(int(fields.get("content-length", "0")))
        if fields.get("connection", "").lower() == "close":
            self.close()
        return Answer(
            status=int(head[0].split()[1]),
            index=int(fields.get("x-kago-index") or 0),
            at=parsedate_to_datetime(fields["date"]).timestamp() if "date" in fields else 0.0,
            body=json.loads(content) if content else None,
        )

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


async def chunked_body(reader: asyncio.StreamReader) -> bytes:
    """A body that comes in pieces, as that of a long list does."""
    content = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        content += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return content


class User:
    """An event loop in a thread of its own, inside a namespace."""

    def __init__(self, space: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._space = space
        self._thread = threading.Thread(target=self._live, name=f"user in {space}", daemon=True)
        self._thread.start()

    def begin(self, work: Coroutine[Any, Any, Result]) -> "Future[Result]":
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def do(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.begin(work).result()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)

    def _live(self) -> None:
        enter(self._space)
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
