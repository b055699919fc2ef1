"""The agent's own port: GET /health and GET /pods, what this node itself says about the pods on it.

Written on asyncio alone: two fixed answers do not need a web framework beside the one the servers have, and an agent stays small.
"""

import asyncio
from collections.abc import Callable
from ssl import SSLContext

import msgspec

from kago.core.model.report import PodReport

REQUEST_S = 5.0
MAX_HEAD = 16 * 1024
MAX_CONNECTIONS = 128
"""At a time; further ones must be quick and are told to come back, so that the agent's files stay its own."""
HURRY_S = 0.5
REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


class Health(msgspec.Struct, frozen=True, kw_only=True):
    status: str = "healthy"
    node: str
    node_id: str
    incarnation: int
    cluster_id: str
    master_heard: bool
    """Whether the last call reached the control plane. Without it the pods run on."""


async def serve_port(
    host: str, port: int, health: Callable[[], Health], pods: Callable[[], tuple[PodReport, ...]], tls: SSLContext | None = None
) -> asyncio.Server:
    """Listens from when it returns; OSError where the address cannot be had. `tls` decides who may speak at all."""

    under_way = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way
        under_way += 1
        try:
            too_many = under_way > MAX_CONNECTIONS
            async with asyncio.timeout(HURRY_S if too_many else REQUEST_S):
                request = await reader.readuntil(b"\r\n\r\n")
                if too_many:
                    status, body = 503, _error(f"{MAX_CONNECTIONS} connections are open here; come back in a moment")
                else:
                    status, body = _answer(request, health, pods)
                head = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, asyncio.CancelledError):
            pass  # no request, or nobody there any more to tell, or the agent stops: this is a task of its own
        finally:
            under_way -= 1
            writer.close()

    handshake_s = REQUEST_S if tls is not None else None
    return await asyncio.start_server(answer, host, port, limit=MAX_HEAD, ssl=tls, ssl_handshake_timeout=handshake_s)


def _answer(head: bytes, health: Callable[[], Health], pods: Callable[[], tuple[PodReport, ...]]) -> tuple[int, bytes]:
    try:
        method, target, version = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
    except ValueError:
        return 400, _error("not an HTTP request")
    if not version.startswith("HTTP/1."):
        return 400, _error("HTTP/1.1 is spoken here")
    if method != "GET":
        return 405, _error(f"only GET is possible here, not {method}")
    match target.partition("?")[0]:
        case "/health":
            return 200, msgspec.json.encode(health())
        case "/pods":
            return 200, msgspec.json.encode(pods())
        case path:
            return 404, _error(f"no {path} here; there are /health and /pods")


def _error(text: str) -> bytes:
    return msgspec.json.encode({"error": text})
