"""Versions beside each other: nothing a server of an earlier release would misread reaches it, and what does halts it."""

from typing import get_args

import msgspec
import pytest

from kago.core.model.cluster import Cluster, Server, announced
from kago.core.model.deployment import Deployment
from kago.core.model.node import Node
from kago.core.model.pod import Pod
from kago.core.model.resources import Resources
from kago.core.state import commands as c
from kago.core.state.changes import Thing
from kago.core.state.machine import Machine, TooNew, encode_entry
from kago.core.state.rejections import Accepted, Refusal, Rejection
from kago.core.state.snapshot import Snapshot, read_snapshot
from tests.unit.core.stage import Stage

FIRST_RELEASE = {
    "CreateDeployment", "UpdateDeployment", "DeleteDeployment", "DeletePod", "DeleteNode", "RegisterServer", "RegisterNode", "ReportPods",
    "ClaimLeadership", "CreatePods", "StopPods", "AssignPods", "ExplainPods", "MarkNodes", "RemovePods",
}
SIZE = Resources(cpu_millis=1, memory_mb=1)
TEMPLATE = "image resources runtime command args env network pull_policy stop_grace_s labels node_selector"
FIELDS: list[tuple[Thing | Accepted | Rejection, str]] = [
    (Cluster(), "id epoch leader version"),
    (Server(id="s", api="u"), "id api software_version version kind"),
    (
        Deployment(name="d", image="i"),
        f"{TEMPLATE} name replicas rolling_update scheduler revision ready_replicas updated_replicas total_replicas message created_at "
        "spec_version version kind",
    ),
    (
        Pod(id="p", name="n", deployment_name="d", revision=1, created_at=1.0),
        f"{TEMPLATE} id name deployment_name revision desired node_name status reason message ready ready_at restarts exit_code "
        "container_id created_at started_at version kind",
    ),
    (
        Node(name="n", id="i", address="a", port=1, capacity=SIZE, allocatable=SIZE, available=SIZE),
        "name id address port status reason capacity allocatable used available pods labels runtimes agent_version incarnation created_at "
        "status_since version kind",
    ),
    (Accepted(), "type name version changed count fingerprint at"),
    (Rejection(refusal=Refusal.CONFLICT, detail="d"), "type refusal detail errors fingerprint"),
]
"""What servers of the first release write of a thing that uses nothing newer: their digests are over these fields."""


@pytest.mark.parametrize(("thing", "fields"), FIELDS, ids=lambda value: type(value).__name__)
def test_a_thing_that_uses_nothing_new_looks_as_it_did_in_the_first_release(thing: Thing, fields: str) -> None:
    encoded = msgspec.msgpack.decode(msgspec.msgpack.encode(thing))
    assert set(encoded) == set(fields.split()), "a new field must be UNSET until the cluster's schema is that of the release that brings it"


def test_commands_of_the_first_release_are_understood_by_it_and_no_other_is() -> None:
    for kind in get_args(c.AnyCommand):
        assert (kind.since == 1) == (kind.__name__ in FIRST_RELEASE), kind
        assert kind.since <= c.SCHEMA_VERSION
    assert msgspec.msgpack.decode(encode_entry(c.DeletePod(id="p"), 1.0))["schema"] == 1
    assert msgspec.msgpack.decode(encode_entry(c.RaiseSchema(epoch=1, schema=7), 1.0))["schema"] == 7


@pytest.mark.parametrize("command", [{"type": "Unheard", "of": 1}, {"type": "DeletePod", "id": "p", "gently": True}])
def test_an_entry_of_a_later_schema_halts_and_changes_nothing(command: dict[str, object]) -> None:
    machine = Machine()
    entry = msgspec.msgpack.encode({"command": command, "at": 1.0, "schema": c.SCHEMA_VERSION + 1})
    with pytest.raises(TooNew, match=f"schema {c.SCHEMA_VERSION + 1}.*start this server with"):
        machine.apply(1, entry)
    assert (machine.tables.index, machine.digest) == (0, Machine().digest)


def test_a_snapshot_says_format_1_until_the_schema_is_raised() -> None:
    stage = Stage()
    stage.accepted(c.RegisterServer(id="s1:7080", api="u", software_version=announced("9.9", 2)))
    formats = []
    for _ in range(2):
        tables = stage.machine.tables
        chunks = list(Snapshot(tables, bytes(16)).chunks())
        formats.append(msgspec.msgpack.decode(chunks[0])["format"])
        assert read_snapshot(tables.index, chunks)[0].cluster == tables.cluster
        stage.accepted(c.RaiseSchema(epoch=1, schema=2))
    assert formats == [1, 2]


def test_a_new_cluster_is_born_with_its_founders_schema() -> None:
    stage = Stage(epoch=0)
    stage.accepted(c.ClaimLeadership(server="s1", term=1, cluster_id="new", schema=2))
    assert stage.machine.tables.cluster.schema_version == 2
    stage.accepted(c.ClaimLeadership(server="s2", term=2, cluster_id="new", schema=1))
    assert stage.machine.tables.cluster.schema_version == 2


@pytest.mark.parametrize(
    ("said", "schema", "release"), [("0.2.0", 1, "0.2.0"), ("0.3.0+schema.12", 12, "0.3.0"), ("1+schema.x", 1, "1"), ("", 1, "")]
)
def test_what_a_server_announces(said: str, schema: int, release: str) -> None:
    server = Server(id="s", api="u", software_version=said)
    assert (server.schema, server.release) == (schema, release)
