"""GET /snapshot: a backup of the whole state, at one index, while everything goes on."""

import asyncio

from sanic import Blueprint, HTTPResponse, Request

from kago.server.answers import make_readable
from kago.server.backup import take
from kago.server.problems import Refused
from kago.server.store import Store

CONTENT_TYPE = "application/vnd.kago.backup"
MAX_AT_ONCE = 2
"""Each holds on to the state of its moment until it is sent."""


def blueprint(store: Store, version: str) -> Blueprint:
    routes = Blueprint("backup")
    under_way = 0

    @routes.get("/snapshot")
    async def snapshot(request: Request) -> HTTPResponse | None:
        nonlocal under_way
        if under_way >= MAX_AT_ONCE:
            detail = f"{MAX_AT_ONCE} backups are being taken from this server; try again, or ask another one"
            raise Refused(429, "rate-limited", detail, headers={"retry-after": "5"})
        await make_readable(store, request)
        if request.head.startswith(b"HEAD "):
            await request.respond(content_type=CONTENT_TYPE)
            return None
        under_way += 1
        try:
            header, pieces = take(store, version=version)
            name = f"kago-{header.index}.backup"
            response = await request.respond(content_type=CONTENT_TYPE, headers={"content-disposition": f'attachment; filename="{name}"'})
            if response is None:
                return None
            # Encoded on a thread, a page at a time, so that the loop that carries the log never waits for it.
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                await response.send(piece)
            await response.eof()
        finally:
            under_way -= 1
        return None

    return routes
