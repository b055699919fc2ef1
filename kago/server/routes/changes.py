"""/changes: who changed what and when, as far back as the history reaches."""

from sanic import Blueprint, HTTPResponse, Request

from kago.core.state.changes import Thing
from kago.server.answers import read_many
from kago.server.requests import number, selected
from kago.server.store import Store


def blueprint(store: Store) -> Blueprint:
    routes = Blueprint("changes", url_prefix="/changes")

    @routes.get("/")
    async def list_all(request: Request) -> HTTPResponse | None:
        wanted, since = selected(request), number(request, "since") or 0

        def found() -> list[Thing]:
            return [record for record in store.tables.history.values() if record.index > since and wanted(record)]

        return await read_many(store, request, "changes", found)

    return routes
