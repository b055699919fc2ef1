"""GET /checks: what this server finds when it looks at itself, for `kago doctor`."""

from sanic import Blueprint, HTTPResponse, Request

from kago.server.answers import struct_answer
from kago.server.checks import Checks
from kago.server.reports import Reports
from kago.server.store import Store


def blueprint(store: Store, checks: Checks, reports: Reports, version: str) -> Blueprint:
    routes = Blueprint("checks")

    @routes.get("/checks")
    async def look(request: Request) -> HTTPResponse:
        return struct_answer(await checks.facts(store.status().me, version=version, reports=reports))

    return routes
