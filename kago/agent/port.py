"""The agent's own port: GET /health and GET /pods, what this node itself says about the pods on it.

Written on asyncio alone: two fixed answers do not need a web framework beside the one the servers have, and an agent stays small.
"""

import asyncio
from collections.abc import Callable

import msgspec

from kago.core.model.report import PodReport

REQUEST_S = 5.0
MAX_HEAD = 16 * 1024
REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}


class Health(msgspec.Struct, frozen=True, kw_only=True):
    status: str = "healthy"
    node: str
    node_id: str
    incarnation: int
    cluster_id: str
    master_heard: bool
    """Whether the last call reached the control plane. Without it the pods run on."""


async def serve_port(host: str, port: int, health: Callable[[], Health], pods: Callable[[], tuple[PodReport, ...]]) -> asyncio.Server:
    """Listens from when it returns; OSError where the address cannot be had."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_S):
                status, body = _answer(await reader.readuntil(b"\r\n\r\n"), health, pods)
                head = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass  # no request, or nobody there any more to tell
        finally:
            writer.close()

    return await asyncio.start_server(answer, host, port, limit=MAX_HEAD)


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
