"""Rubbish for the state machine, the client, the API and the command line: entries, answers, bodies and manifests."""

from random import Random

import msgspec

from kago.cli.manifest import ManifestError, Source, read_manifests
from kago.client.errors import Problem
from kago.core.model.deployment import DeploymentPatch, DeploymentSpec
from kago.core.state.commands import SCHEMA_VERSION, AnyCommand
from kago.core.state.invariants import check
from kago.core.state.machine import Machine, TooNew, decode_reply, encode_entry
from kago.core.state.rejections import Rejection
from kago.server.problems import Refused
from kago.server.requests import convert, parse_json
from tests.fuzz.mutations import RUN, WORDS, Case, mutated, nested, packed, shaped
from tests.unit.core.stage import Stage

CHECK_EVERY = 50
"""Entries between two checks of all invariants."""
_LIKELY = {
    "incarnation": (1, 1, 1, 2), "revision": (1, 1, 2), "total_replicas": (0, 1, 2, 4), "term": (1, 2, 3), "count": (1, 2, 500, 501),
    "cpu_millis": (1, 100, 1000), "memory_mb": (1, 100), "image": ("x",), "schema": (1,), "runtimes": (["docker"], ["process"]),
}
"""So that not everything is refused at the first check."""


def entries(chance: Random) -> Case:
    """The state machine under any entry at all: it never raises, what it refuses changes nothing, and every invariant holds."""
    stage, count = peopled(), 0

    def case(chance: Random) -> str:
        nonlocal stage, count
        if count % RUN == 0:
            stage = peopled()
        count += 1
        machine, tables = stage.machine, stage.machine.tables
        alive = [*list(tables.pods)[:6], *list(tables.nodes)[:3], *list(tables.deployments)[:3]] or ["nothing"]
        likely = _LIKELY | {
            "epoch": (tables.cluster.epoch,), "deployment_name": [*tables.deployments][:3] or ("web",), "node_name": ("n1", "n2"),
            "status": ("running", "ready", "failed"), "node_id": ("id-n1", "id-n2"), "id": alive, "ids": (alive[:3],), "pod_id": alive,
        }
        command = shaped(chance, AnyCommand, [*WORDS[:12], *alive * 2], likely if chance.random() < 0.9 else _LIKELY)
        schema = command.get("schema", 1) if isinstance(command, dict) else 1
        entry = packed({"command": command, "schema": schema, "at": chance.choice((0.0, -1.0, 2000.0, 1e308, float("nan")))})
        if chance.random() < 0.2:
            entry = mutated(chance, entry)
        try:
            reply = decode_reply(machine.apply(tables.index + 1, entry))
        except TooNew:
            return "halted"
        if isinstance(reply, Rejection):
            assert not stage.changes and reply.detail, reply
            return "refused"
        if count % CHECK_EVERY == 0:
            wrong = check(machine.tables)
            assert not wrong, wrong
            restored = Machine()
            restored.restore(machine.tables.index, list(machine.snapshot()()))
            assert list(restored.snapshot()()) == list(machine.snapshot()()), "a snapshot is not what it was taken of"
        return "taken"

    return case


def peopled() -> Stage:
    stage = Stage()
    stage.node("n1")
    stage.node("n2")
    pods = stage.deployment("web", replicas=4)
    stage.assign("n1", *pods[:2])
    stage.running("n1", pods[0])
    return stage


def replies(chance: Random) -> Case:
    """Answers of the state machine, and of servers to a client."""
    seeds = [peopled().machine.apply(100, encode_entry_of(chance)) for _ in range(20)]

    def case(chance: Random) -> str:
        data = mutated(chance, chance.choice(seeds), seeds)
        answer = data if chance.random() < 0.5 else mutated(chance, b'{"type":"urn:x","detail":"y","status":4}')
        Problem.decode(chance.choice((400, 409, 503)), answer)
        try:
            decode_reply(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return "refused"
        return "taken"

    return case


def encode_entry_of(chance: Random) -> bytes:
    """Of any command that this version understands."""
    while True:
        try:
            command = msgspec.convert(shaped(chance, AnyCommand), AnyCommand)
        except msgspec.ValidationError:
            continue
        if command.needs() <= SCHEMA_VERSION:
            return encode_entry(command, 1.0)


_MANIFEST = b"""kind: Deployment
spec: &all
  name: web
  image: "nginx:1.27"
  replicas: 3
  resources: {cpu: 100m, memory: 128Mi}
  rolling_update:
    max_surge: 1
  env: {A: "1", B: 'x'}
  command: [sh, -c, "echo"]
---
kind: Deployment
spec: {<<: *all, name: other, labels: {tier: front}, cpu: .inf}
"""
_YAML_PIECES = (
    b"*all", b"&a", b"<<: *a\n", b"!!python/object:os.system ", b"!!binary ", b"? ", b"- - - ", b"{{{", b"%YAML 9.9\n", b"\xef\xbb\xbf",
    b"\xf0\x9f\xa7\xbf", b"\xe2\x80\xa8", b"\x00", b"1e999", b".nan", b"0x7fffffffffffffffff", b"2001-01-01", b"!!set {a}", b"=", b"~",
    b"|+9\n", b"a: &x [*x, *x]\n", b"name: web\n  name: web\n", b"-1", b"1_0", b"0o17", b"yes", b"\t", b"---\n", b"...\n",
)


def manifests(chance: Random) -> Case:
    """YAML: bombs, anchors, duplicates, tags, unicode, and what a slip of the finger makes of a good file."""

    def case(chance: Random) -> str:
        data = mutated(chance, _MANIFEST, _YAML_PIECES)
        if chance.random() < 0.5:
            at = chance.randrange(len(data) + 1)
            data = data[:at] + chance.choice(_YAML_PIECES) + data[at:]
        if chance.random() < 0.001:
            data = nested(chance, b"[", b"]") if chance.random() < 0.5 else _bomb()
        name = "web.yml"
        try:
            read_manifests([Source(name=name, text=data.decode("utf-8", errors="replace"))])
        except ManifestError as error:
            assert str(error) and "Traceback" not in str(error)
            return "refused"
        return "taken"

    return case


def _bomb() -> bytes:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(lines).encode()


def bodies(chance: Random) -> Case:
    """Request bodies as the API reads them."""
    kinds = (DeploymentSpec, DeploymentPatch)
    seeds = [msgspec.json.encode(shaped(chance, DeploymentSpec)) for _ in range(100)]
    extras: tuple[bytes, ...] = (b"1e400", b"NaN", b"-Infinity", b"9" * 400, b'"\\ud800"', b'{"name":1,"name":2}',
                                 b"\xff", b"\\u0000", b"1e-999", b'"\\udfff"')

    def case(chance: Random) -> str:
        body = mutated(chance, chance.choice(seeds), extras)
        if chance.random() < 0.002:
            body = nested(chance, *chance.choice(((b"[", b"]"), (b'{"a":', b"}"))))
        try:
            convert(parse_json(body), chance.choice(kinds))
        except Refused as refused:
            assert 400 <= refused.status < 500 and "Traceback" not in refused.detail
            return "refused"
        return "taken"

    return case
