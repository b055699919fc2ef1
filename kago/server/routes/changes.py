"""/changes: who changed what and when, as far back as the history reaches."""

from sanic import Blueprint, HTTPResponse, Request

from kago.server.answers import list_answer, make_readable, watch_answer
from kago.server.requests import flag, number, selected
from kago.server.store import Store


def blueprint(store: Store) -> Blueprint:
    routes = Blueprint("changes", url_prefix="/changes")

    @routes.get("/")
    async def list_all(request: Request) -> HTTPResponse | None:
        await make_readable(store, request)
        wanted, since = selected(request), number(request, "since") or 0
        things = [record for record in store.tables.history.values() if record.index > since and wanted(record)]
        if flag(request, "watch"):
            await watch_answer(store, request, "changes", things)
            return None
        return list_answer(store, things)

    return routes
