"""/deployments: what users want."""

from sanic import Blueprint, HTTPResponse, Request

from kago.core.model.deployment import (
    READ_ONLY_FIELDS,
    SPEC_FIELDS,
    Deployment,
    DeploymentPatch,
    DeploymentSpec,
)
from kago.core.model.validation import check_spec
from kago.core.state.changes import Thing
from kago.core.state.commands import CreateDeployment, DeleteDeployment, UpdateDeployment
from kago.core.state.rejections import Refusal
from kago.server.answers import make_readable, read_many, read_one, struct_answer, thing_answer
from kago.server.problems import Refused, not_found, unavailable
from kago.server.requests import convert, flag, if_match, read_json, selected, spec_version
from kago.server.routes.writes import write
from kago.server.store import Store


def blueprint(store: Store) -> Blueprint:
    routes = Blueprint("deployments", url_prefix="/deployments")

    @routes.get("/")
    async def list_all(request: Request) -> HTTPResponse | None:
        wanted = selected(request)

        def found() -> list[Thing]:
            return [thing for _, thing in sorted(store.tables.deployments.items()) if wanted(thing)]

        return await read_many(store, request, "deployments", found)

    @routes.get("/<name:str>")
    async def get_one(request: Request, name: str) -> HTTPResponse:
        return await read_one(store, request, lambda: _find(store, name))

    @routes.post("/")
    async def create(request: Request) -> HTTPResponse:
        spec = convert(_without_read_only(read_json(request)), DeploymentSpec)
        _check(spec)
        only_if_new = request.headers.get("if-none-match") == "*"
        dry_run = flag(request, "dry_run")
        try:
            made, reply = await write(store, request, CreateDeployment(spec=spec), Deployment, spec.name)
        except Refused as refused:
            if only_if_new and refused.name == Refusal.ALREADY_EXISTS:
                raise Refused(412, "precondition-failed", refused.detail) from None
            raise
        headers = {} if dry_run else {"location": f"/deployments/{spec.name}"}
        if made is None or reply.fingerprint:
            # As it was made, however often it was asked for under its key, and whatever has become of it since.
            wanted = {name: getattr(spec, name) for name in SPEC_FIELDS}
            made = Deployment(**wanted, created_at=reply.at, spec_version=reply.version, version=reply.version)
        return thing_answer(store, request, made, status=200 if dry_run else 201, headers=headers)

    @routes.put("/<name:str>")
    async def update(request: Request, name: str) -> HTTPResponse:
        body = _without_read_only(read_json(request))
        if body.pop("name", name) != name:
            raise Refused(422, "validation", f"/name: the path says {name!r}; a deployment cannot be renamed")
        command = UpdateDeployment(name=name, patch=convert(body, DeploymentPatch), if_match=if_match(request, spec_version))
        made, reply = await write(store, request, command, Deployment, name)
        # It was there and is as asked for, also where a deletion came between that and this answer.
        answer = made or store.feed.at_version(reply.version, ("Deployment", name))
        if answer is None:
            # This server caught up by a snapshot meanwhile. "Not found" would say that nothing was done.
            detail = f"deployment {name} was updated, at version {reply.version}, and deleted since; what it was is not known here"
            raise unavailable("outcome-unknown", detail)
        return thing_answer(store, request, answer, headers={"x-kago-changed": "true" if reply.changed else "false"})

    @routes.delete("/<name:str>")
    async def delete(request: Request, name: str) -> HTTPResponse:
        if name not in store.tables.deployments:
            await make_readable(store, request)  # perhaps made a moment ago through another server
        before = store.tables.deployments.get(name)
        command = DeleteDeployment(name=name, if_match=if_match(request, spec_version))
        _, reply = await write(store, request, command, Deployment, name)
        return thing_answer(store, request, before) if before is not None else struct_answer({"name": name, "version": reply.version})

    return routes


def _find(store: Store, name: str) -> Deployment:
    found = store.tables.deployments.get(name)
    if found is None:
        raise not_found("deployment", name)
    return found


def _check(spec: DeploymentSpec) -> None:
    errors = check_spec(spec)
    if errors:
        raise Refused(422, "validation", "; ".join(f"{error.pointer}: {error.detail}" for error in errors), errors=errors)


def _without_read_only(body: dict[str, object]) -> dict[str, object]:
    """So that what was read, edited and sent back is understood."""
    return {name: value for name, value in body.items() if name not in READ_ONLY_FIELDS}
