"""The description of the API, made from the same structs that are its wire format, and a page to read it without the network."""

from typing import Any

import msgspec

from kago.core.model.cluster import LeaderReply, LeaderRequest, MemberReply, MemberRequest
from kago.core.model.deployment import READ_ONLY_FIELDS, Deployment, DeploymentPatch, DeploymentSpec
from kago.core.model.history import ChangeRecord
from kago.core.model.node import Node
from kago.core.model.pod import Pod
from kago.core.model.report import Heartbeat, HeartbeatReply, Registration, RegistrationReply, WatchEvent
from kago.core.model.token import JoinReply, JoinRequest, NewToken, RenewReply, RenewRequest, TokenView

_TYPES = (
    Deployment, DeploymentSpec, DeploymentPatch, Pod, Node, Registration, RegistrationReply, Heartbeat, HeartbeatReply, WatchEvent,
    ChangeRecord, MemberRequest, MemberReply, LeaderRequest, LeaderReply,
)
_SECURED_TYPES = (NewToken, TokenView, JoinRequest, JoinReply, RenewRequest, RenewReply)
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "error"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "error": {"type": "string", "description": "Equal to detail."},
        "errors": {
            "type": "array",
            "items": {"type": "object", "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}}},
        },
    },
}
_READ = (
    ("stale", "boolean", "Answer from this server's own state at once, quorum or none."),
    ("min_index", "integer", "Answer once this server has applied this index."),
)
_WATCH = (
    ("watch", "boolean", "Stream changes as NDJSON (or server-sent events, if asked by Accept)."),
    ("index", "integer", "With watch: go on after this index instead of listing first."),
    ("selector", "string", "key=value,… of labels."),
)
_PODS = (
    ("deployment_name", "string", "Only pods of this deployment."),
    ("node_name", "string", "Only pods of this node."),
    ("status", "string", "Only pods in this status."),
)
_SCHEMES = {
    "securitySchemes": {
        "token": {"type": "http", "scheme": "bearer", "description": "A user's token: kago1.…"},
        "certificate": {"type": "mutualTLS", "description": "Of a server or an agent of this cluster."},
    }
}
_DRY = ("dry_run", "boolean", "Say what would happen; change nothing.")


def document(version: str, *, secured: bool = False) -> bytes:
    """OpenAPI 3.1, as JSON; of a secured server with what only such a one has."""
    types = (*_TYPES, *_SECURED_TYPES) if secured else _TYPES
    _, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    for name in READ_ONLY_FIELDS:
        components["Deployment"]["properties"][name]["readOnly"] = True
    return msgspec.json.format(
        msgspec.json.encode(
            {
                "openapi": "3.1.0",
                "info": {"title": "Kago", "version": version, "license": {"name": "MIT", "identifier": "MIT"}},
                "paths": {**_paths(), **_secured_paths()} if secured else _paths(),
                "components": {"schemas": {**components, "Problem": _PROBLEM}, **(_SCHEMES if secured else {})},
                **({"security": [{"token": []}, {"certificate": []}]} if secured else {}),
            }
        ),
        indent=1,
    )


def _paths() -> dict[str, Any]:
    name = ("name", "string", "Its name.")
    return {
        "/deployments": {
            "get": _operation("List deployments", "Deployment", many=True, query=(*_READ, *_WATCH)),
            "post": _operation("Create a deployment", "Deployment", body="DeploymentSpec", status="201", query=(_DRY,)),
        },
        "/deployments/{name}": {
            "get": _operation("Get a deployment", "Deployment", path=name, query=_READ),
            "put": _operation("Change what the body names", "Deployment", path=name, body="DeploymentPatch", query=(_DRY,)),
            "delete": _operation("Delete it; its pods wind down", "Deployment", path=name, query=(_DRY,)),
        },
        "/pods": {"get": _operation("List pods", "Pod", many=True, query=(*_READ, *_WATCH, *_PODS))},
        "/pods/{name}": {
            "get": _operation("Get a pod by id or name", "Pod", path=name, query=_READ),
            "delete": _operation("Stop it; its deployment makes another", "Pod", path=name, query=(_DRY,)),
        },
        "/nodes": {"get": _operation("List nodes", "Node", many=True, query=(*_READ, *_WATCH))},
        "/nodes/{name}": {
            "get": _operation("Get a node", "Node", path=name, query=_READ),
            "delete": _operation(
                "Forget a node and its pods", "Node", path=name, query=(_DRY, ("force", "boolean", "Even while it is ready."))
            ),
        },
        "/nodes/register": {"post": _operation("An agent announces its node", "RegistrationReply", body="Registration")},
        "/nodes/{name}/heartbeat": {"post": _operation("An agent lives, and reports", "HeartbeatReply", path=name, body="Heartbeat")},
        "/changes": {
            "get": _operation(
                "Who changed what and when", "ChangeRecord", many=True,
                query=(*_READ, *_WATCH[:2], ("since", "integer", "Only after this index."), ("name", "string", "Only of this TYPE/NAME.")),
            )
        },
        "/cluster": {"get": _operation("Who leads and how far every server is", None)},
        "/cluster/members": {"post": _operation("Add a server", "MemberReply", body="MemberRequest", status="201")},
        "/cluster/members/{id}": {"delete": _operation("Remove a server", "MemberReply", path=("id", "string", "Its id."))},
        "/cluster/leader": {"post": _operation("Let another server lead", "LeaderReply", body="LeaderRequest")},
        "/snapshot": {
            "get": _operation("A backup of the whole state for kago snapshot", None, query=_READ, kind="application/vnd.kago.backup")
        },
        "/checks": {"get": _operation("What this server finds when it looks at itself: disk, room, limits, clock", None)},
        "/health": {"get": _operation("This process lives", None)},
        "/ready": {"get": _operation("A leader is known and this server has caught up", None)},
        "/metrics": {"get": _operation("Prometheus metrics", None, kind="text/plain")},
    }


def _secured_paths() -> dict[str, Any]:
    """Whoever joins has no token of a user's yet: the first two are open to all."""
    name = ("name", "string", "Its id.")
    paths: dict[str, Any] = {
        "/ca": {"get": _operation("The CA's certificate; a token holds its hash", None, kind="application/x-pem-file")},
        "/join": {"post": _operation("Get a certificate for a token", "JoinReply", body="JoinRequest")},
        "/renew": {"post": _operation("An agent's next certificate, for the one it shows", "RenewReply", body="RenewRequest")},
        "/tokens": {"get": _operation("List tokens, never their secrets", "TokenView", many=True, query=_READ)},
        "/tokens/{name}": {
            "put": _operation("Make a token of which only the hash is told", "TokenView", path=name, body="NewToken"),
            "delete": _operation("Revoke it", "TokenView", path=name),
        },
    }
    for path, verb in (("/ca", "get"), ("/join", "post")):
        paths[path][verb]["security"] = []
    return paths


def _operation(
    summary: str,
    answer: str | None,
    *,
    many: bool = False,
    body: str | None = None,
    status: str = "200",
    path: tuple[str, str, str] | None = None,
    query: tuple[tuple[str, str, str], ...] = (),
    kind: str = "application/json",
) -> dict[str, Any]:
    schema: dict[str, Any] = {} if answer is None else {"$ref": f"#/components/schemas/{answer}"}
    schema = {"type": "array", "items": schema} if many else schema
    parameters = [{"name": n, "in": "query", "required": False, "schema": {"type": t}, "description": d} for n, t, d in query]
    if path is not None:
        parameters.insert(0, {"name": path[0], "in": "path", "required": True, "schema": {"type": path[1]}, "description": path[2]})
    operation: dict[str, Any] = {
        "summary": summary,
        "parameters": parameters,
        "responses": {
            status: {"description": "Done", "content": {kind: {"schema": schema}}},
            "default": {
                "description": "Why not",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        },
    }
    if body is not None:
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{body}"}}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Kago API</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
code,pre{font-family:ui-monospace,monospace;font-size:.9em}summary{cursor:pointer;padding:.3rem 0}
b.m{display:inline-block;width:4.5rem}table{border-collapse:collapse}td{padding:.1rem .8rem .1rem 0;vertical-align:top}
pre{background:#f5f5f5;padding:.6rem;overflow:auto}</style>
<h1>Kago API</h1><p>Machine-readable: <a href="/openapi.json">/openapi.json</a></p>
<div id="paths"></div><h2>Schemas</h2><div id="schemas"></div>
<script>
const el=(t,c,...k)=>{const e=document.createElement(t);if(c)e.className=c;e.append(...k);return e};
const name=s=>!s?"":s.$ref?s.$ref.split("/").pop():s.type==="array"?name(s.items)+"[]":s.anyOf?s.anyOf.map(name).join(" | "):s.type||"";
fetch("/openapi.json").then(r=>r.json()).then(d=>{
 for(const[p,ops]of Object.entries(d.paths))for(const[m,o]of Object.entries(ops)){
  const box=el("details","",el("summary","",el("b","m",m.toUpperCase()),el("code","",p)," "+o.summary));
  const t=el("table"),code=x=>el("code","",x),cells=x=>x.map(y=>el("td","",y));
  for(const q of o.parameters)t.append(el("tr","",...cells([code(q.name),q.schema.type,q.description])));
  box.append(t);
  const b=o.requestBody&&o.requestBody.content["application/json"].schema;
  if(b)box.append(el("p","","Body: ",code(name(b))));
  for(const[s,r]of Object.entries(o.responses)){
   const c=r.content&&Object.values(r.content)[0];
   box.append(el("p","",s+": ",code(name(c&&c.schema))))}
  document.getElementById("paths").append(box)}
 for(const[n,s]of Object.entries(d.components.schemas))
  document.getElementById("schemas").append(el("details","",el("summary","",el("code","",n)),el("pre","",JSON.stringify(s,null,1))));
});
</script></html>"""
