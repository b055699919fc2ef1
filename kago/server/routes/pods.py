"""/pods: what runs, or should."""

from collections.abc import Sequence

from sanic import Blueprint, HTTPResponse, Request

from kago.core.model.pod import Pod
from kago.core.state.changes import Thing
from kago.core.state.commands import DeletePod
from kago.server.answers import make_readable, read_many, read_one, thing_answer
from kago.server.problems import not_found
from kago.server.requests import everything, parameter, require_match, selected
from kago.server.routes.writes import delete_missing, write
from kago.server.store import Store


def blueprint(store: Store) -> Blueprint:
    routes = Blueprint("pods", url_prefix="/pods")

    @routes.get("/")
    async def list_all(request: Request) -> HTTPResponse | None:
        wanted, node, deployment = selected(request), parameter(request, "node_name"), parameter(request, "deployment_name")

        def found() -> Sequence[Thing]:
            candidates = _candidates(store, node, deployment)
            return candidates if wanted is everything else [pod for pod in candidates if wanted(pod)]

        return await read_many(store, request, "pods", found)

    @routes.get("/<name:str>")
    async def get_one(request: Request, name: str) -> HTTPResponse:
        return await read_one(store, request, lambda: _find(store, name))

    @routes.delete("/<name:str>")
    async def delete(request: Request, name: str) -> HTTPResponse:
        await make_readable(store, request)
        if store.tables.pod_id(name) is None:
            return await delete_missing(store, request, DeletePod(id=name), Pod, name)
        pod = _find(store, name)
        require_match(request, pod)
        after, _ = await write(store, request, DeletePod(id=pod.id), Pod, pod.id)
        return thing_answer(store, request, after if after is not None else pod)

    return routes


def _candidates(store: Store, node: str | None, deployment: str | None) -> list[Pod]:
    """Sorted by name; only those of one node or deployment where that is asked for."""
    if node:
        return store.tables.pods_of_node(node)
    if deployment:
        return store.tables.pods_of_deployment(deployment)
    return store.tables.pods_by_name()


def _find(store: Store, name: str) -> Pod:
    id = store.tables.pod_id(name)
    if id is None:
        raise not_found("pod", name)
    return store.tables.pods[id]
