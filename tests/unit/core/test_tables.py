"""Tables, their indexes, and snapshots of them."""

from collections.abc import Iterator

import msgspec
import pytest
from msgspec.structs import replace

from kago.core.model.node import Node
from kago.core.model.pod import Desired, Pod
from kago.core.model.resources import NOTHING
from kago.core.state.changes import Change, Put, Removed
from kago.core.state.invariants import check
from kago.core.state.machine import Machine
from kago.core.state.snapshot import PAGE_BYTES, PAGE_THINGS, Snapshot, read_snapshot
from kago.core.state.tables import Tables
from tests.unit.core.stage import Stage


def pod(n: int, *, node: str | None = None, deployment: str = "web", env: dict[str, str] | None = None) -> Pod:
    name = f"{deployment}-{n:05}"
    return Pod(id=f"id-{n:05}", name=name, deployment_name=deployment, revision=1, node_name=node, env=env or {}, version=1)


def a_node(name: str, id: str = "") -> Node:
    return Node(name=name, id=id or name, address="127.0.0.1", port=1, capacity=NOTHING, allocatable=NOTHING, available=NOTHING, version=1)


def tables_of(*pods: Pod) -> Tables:
    tables = Tables()
    tables.absorb(1, [Put(each) for each in pods])
    return tables


def test_pods_are_found_and_sorted_by_name() -> None:
    tables = tables_of(pod(3), pod(1, node="n1"), pod(2, deployment="api"), pod(4, node="n1"))
    assert [each.id for each in tables.pods_by_name()] == ["id-00002", "id-00001", "id-00003", "id-00004"]
    assert [each.id for each in tables.pods_of_deployment("web")] == ["id-00001", "id-00003", "id-00004"]
    assert [each.id for each in tables.pods_of_node("n1")] == ["id-00001", "id-00004"]
    tables.absorb(1, [Put(pod(0))])
    copy = tables.copy()
    assert [each.name for each in copy.pods_by_name()] == ["api-00002", "web-00000", "web-00001", "web-00003", "web-00004"]
    tables.absorb(1, [Removed(pod(0))])
    assert [each.name for each in tables.pods_by_name()] == ["api-00002", "web-00001", "web-00003", "web-00004"]
    tables.absorb(2, [Put(replace(pod(4, node="n1"), desired=Desired.STOPPED))])
    assert [each.id for each in tables.live_pods("web")] == ["id-00003", "id-00001"]
    assert list(tables.unplaced_ids) == ["id-00003", "id-00002"]
    assert tables.pod_id("web-00003") == tables.pod_id("id-00003") == "id-00003"
    assert tables.pod_id("web-9") is None
    assert tables.pods_of_deployment("nobody") == tables.pods_of_node("nobody") == []


def test_nothing_is_left_of_what_was_removed() -> None:
    tables = tables_of(pod(1), pod(2, node="n1"))
    tables.absorb(1, [Put(a_node("n1"))])
    tables.absorb(2, [Removed(pod(1)), Removed(pod(2, node="n1")), Removed(a_node("n1"))])
    assert tables.pods_by_name() == []
    empty = Tables()
    empty.index = 2
    assert {name: value for name, value in vars(tables).items() if value} == {name: value for name, value in vars(empty).items() if value}


def test_a_node_is_found_by_its_id_also_when_that_goes_to_another_name() -> None:
    moves: list[list[Change]] = [
        [Removed(a_node("n1", "x")), Put(a_node("n2", "x"))],
        [Put(a_node("n2", "x")), Removed(a_node("n1", "x"))],
        [Put(a_node("n2", "x")), Put(a_node("n1", "y"))],
    ]
    for changes in moves:
        tables = Tables()
        tables.absorb(1, [Put(a_node("n1", "x"))])
        assert (tables.node_name("x"), tables.node_name("y")) == ("n1", None)
        tables.absorb(2, changes)
        assert tables.node_name("x") == "n2"
        assert tables.node_name("y") == ("n1" if "n1" in tables.nodes else None)
        assert not check(tables)
        assert tables.copy().node_name("x") == "n2"


def test_a_copy_stays_as_it_is() -> None:
    tables = tables_of(pod(1), pod(2))
    copy = tables.copy()
    tables.absorb(2, [Put(pod(1, node="n1"), pod(1)), Removed(pod(2)), Put(pod(3))])
    assert copy.index == 1
    assert [each.id for each in copy.pods_of_deployment("web")] == list(copy.unplaced_ids) == ["id-00001", "id-00002"]
    assert copy.pods_of_node("n1") == []


def test_a_snapshot_does_not_depend_on_history() -> None:
    there = tables_of(pod(1, env={"A": "1", "B": "2"}), pod(2))
    here = tables_of(pod(2), pod(1, env={"B": "2", "A": "1"}))
    assert list(Snapshot(there, b"d").chunks()) == list(Snapshot(here, b"d").chunks())


def test_pods_of_one_template_share_it_after_a_restore_too() -> None:
    template = {"PASSWORD": "long"}
    # The last is of a deployment of the same name that was deleted.
    pods = [pod(n, node="n1", env=template) for n in range(3)] + [pod(3, node="n1", env={"PASSWORD": "other"})]
    restored, _ = read_snapshot(1, Snapshot(tables_of(*pods), b"d").chunks())
    assert list(restored.pods.values()) == pods
    one, two, three, other = restored.pods.values()
    assert one.env is two.env is three.env
    assert one.node_name is two.node_name is three.node_name
    assert other.env == {"PASSWORD": "other"}


def test_a_snapshot_stays_as_it_was_captured() -> None:
    tables = tables_of(pod(1))
    before = list(Snapshot(tables, b"d").chunks())
    captured = Snapshot(tables, b"d")
    tables.absorb(2, [Put(pod(2)), Removed(pod(1))])
    assert list(captured.chunks()) == before


@pytest.mark.parametrize("pods", [0, 1, PAGE_THINGS, PAGE_THINGS + 1])
def test_a_snapshot_read_again(pods: int) -> None:
    tables = tables_of(*(pod(n) for n in range(pods)))
    chunks = list(Snapshot(tables, b"digest").chunks())
    restored, digest = read_snapshot(1, chunks)
    assert digest == b"digest"
    assert restored.pods == tables.pods
    assert restored.unplaced_ids == tables.unplaced_ids


def test_pages_are_small() -> None:
    tables = tables_of(*(pod(n, env={"A": "x" * 30_000}) for n in range(40)))
    chunks = list(Snapshot(tables, b"d").chunks())
    assert len(chunks) == 1 + 5
    assert max(map(len, chunks)) < PAGE_BYTES + 1000


def damaged() -> Iterator[tuple[str, list[bytes]]]:
    header, page = Snapshot(tables_of(pod(1), pod(2)), b"d").chunks()
    fields = msgspec.msgpack.decode(header)
    yield "cannot be read", []
    yield "cannot be read", [b""]
    yield "cannot be read", [header[:-1], page]
    yield "cannot be read", [header, page[:-1]]
    yield "instead of 2", [header]
    yield "instead of 2", [header, page, page]
    yield "unknown kind", [header, msgspec.msgpack.encode(["Volume", [{}]])]
    yield "has format 3", [msgspec.msgpack.encode({**fields, "format": 3})]
    later = {**fields, "format": 2, "cluster": {**fields["cluster"], "schema": 99}}
    yield "of schema 99", [msgspec.msgpack.encode(later), page]
    yield "of index 7", [msgspec.msgpack.encode({**fields, "index": 7}), page]


@pytest.mark.parametrize(("words", "chunks"), list(damaged()))
def test_a_damaged_snapshot_changes_nothing(words: str, chunks: list[bytes]) -> None:
    machine = Machine()
    tables = machine.tables
    with pytest.raises(ValueError, match=words):
        machine.restore(1, chunks)
    assert machine.tables is tables


def test_invariants_see_what_is_wrong() -> None:
    stage = Stage()
    stage.node("n1")
    [first, _] = stage.deployment(replicas=2)
    stage.assign("n1", first)
    tables = stage.machine.tables
    assert check(tables) == []
    bound = stage.pod(first.id)
    tables.absorb(tables.index, [Removed(bound)])
    assert len(check(tables)) == 2  # the deployment's count and the node's use
    tables.absorb(tables.index, [Put(bound), Removed(tables.nodes["n1"])])
    assert check(tables) == [f"pod {bound.name} is bound to n1, which is not a node"]
