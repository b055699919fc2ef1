"""The state machine as the log drives it: whatever comes, every replica ends in the same state and every law holds on the way."""

import string
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kago.core.model.deployment import DeploymentPatch, DeploymentSpec
from kago.core.model.node import NodeStatus
from kago.core.model.pod import PHASE_ORDER, Pod, PodStatus
from kago.core.model.report import PodReport
from kago.core.model.resources import Resources
from kago.core.state import commands as c
from kago.core.state.changes import Change, Put, Removed
from kago.core.state.handlers.pods import _suffix
from kago.core.state.invariants import check
from kago.core.state.machine import Machine, decide, decode_reply, encode_entry
from kago.core.state.rejections import Accepted, Refusal, Rejection
from kago.core.state.tables import Tables
from tests.unit.core.stage import Stage, registration

NAMES = ("web", "api")
NODES = ("n1", "n2", "n3")
Roll = tuple[int, int, int, int]


def some_pod(tables: Tables, n: int) -> str:
    ids = sorted(tables.pods)
    return ids[n % len(ids)] if ids else "nobody"


def user_command(tables: Tables, kind: int, a: int, b: int, d: int) -> c.AnyCommand:
    name = NAMES[a % len(NAMES)]
    match kind:
        case 0:
            resources = Resources(cpu_millis=100 + 100 * (d % 5), memory_mb=128)
            return c.CreateDeployment(spec=DeploymentSpec(name=name, image="nginx", replicas=b % 7, resources=resources))
        case 1:
            return c.UpdateDeployment(name=name, patch=DeploymentPatch(replicas=b % 7))
        case 2:
            return c.UpdateDeployment(name=name, patch=DeploymentPatch(image=f"nginx:{b % 3}"))
        case 3:
            return c.DeleteDeployment(name=name)
        case 4:
            return c.DeletePod(id=some_pod(tables, b))
        case _:
            return c.DeleteNode(name=NODES[a % len(NODES)], force=b % 2 == 0)


def agent_command(tables: Tables, kind: int, a: int, b: int, d: int) -> c.AnyCommand:
    name = NODES[a % len(NODES)]
    node = tables.nodes.get(name)
    if kind == 0 or node is None:
        identity = f"id-{name}" if d % 5 else f"id-{NODES[b % len(NODES)]}"
        return c.RegisterNode(registration=registration(name, id=identity, incarnation=b % 4, cpu=1000))
    statuses = tuple(PodStatus)
    pods = tuple(
        PodReport(pod_id=some_pod(tables, b + n), status=statuses[(d + n) % len(statuses)], ready=d % 2 == 0, restarts=d % 3)
        for n in range(4)
    )
    report = c.NodeReport(node_name=name, node_id=node.id, incarnation=node.incarnation - int(b % 9 == 0), pods=pods)
    return c.ReportPods(reports=(report,))


def leader_command(tables: Tables, kind: int, a: int, b: int, d: int) -> c.AnyCommand:
    epoch = tables.cluster.epoch - int(a % 11 == 10)
    ids = tuple(some_pod(tables, b + n) for n in range(d % 4))
    name, node = NAMES[a % len(NAMES)], tables.nodes.get(NODES[a % len(NODES)])
    deployment = tables.deployments.get(name)
    match kind:
        case 0:
            return c.ClaimLeadership(server=f"s{a % 3}", term=tables.cluster.epoch + b % 3, cluster_id="other")
        case 1 | 2 | 9 if deployment is not None:
            revision, total = deployment.revision - int(d % 7 == 6), deployment.total_replicas
            return c.CreatePods(epoch=epoch, deployment_name=name, revision=revision, total_replicas=total, count=1 + b % 4)
        case 3 | 4 | 10 | 11:
            unplaced = sorted(tables.unplaced_ids)[:5] + list(ids)
            assignments = tuple(c.Assignment(pod_id=id, node_name=NODES[(a + n) % len(NODES)]) for n, id in enumerate(unplaced))
            return c.AssignPods(epoch=epoch, assignments=assignments)
        case 5:
            return c.StopPods(epoch=epoch, ids=ids, reason="ScaledDown")
        case 6:
            return c.RemovePods(epoch=epoch, ids=ids)
        case 7 if node is not None:
            verdict = c.NodeVerdict(name=node.name, id=node.id, incarnation=node.incarnation, status=tuple(NodeStatus)[b % 3])
            return c.MarkNodes(epoch=epoch, verdicts=(verdict,))
        case _:
            return c.ExplainPods(epoch=epoch, pods=tuple(c.Unplaced(pod_id=id, reason="Unschedulable", message=str(b)) for id in ids))


def command_of(tables: Tables, roll: Roll) -> c.AnyCommand:
    """A command that is about what there is, more often than not."""
    kind, *rest = roll
    if kind < 6:
        return user_command(tables, kind, *rest)
    return agent_command(tables, (kind - 6) % 3, *rest) if kind < 12 else leader_command(tables, kind - 12, *rest)


def watch(tables: Tables, changes: tuple[Change, ...], minted: set[str]) -> None:
    """What no single state shows: how things may move. `tables` is the state before."""
    things = [change.after if isinstance(change, Put) else change.before for change in changes]
    keys = [(type(thing).__name__, getattr(thing, "name", "")) for thing in things]
    assert len(set(keys)) == len(keys), "one change a thing"
    for change in changes:
        if isinstance(change, Removed) or not isinstance(change.after, Pod):
            continue
        after, before = change.after, change.before
        assert after.version == tables.index + 1
        if before is None:
            assert after.id not in minted and after.name not in minted
            minted |= {after.id, after.name}
            continue
        assert isinstance(before, Pod) and before == tables.pods[after.id]
        assert before.node_name in (None, after.node_name), "bound once"
        assert before.live or not after.live, "stopped for good"
        assert PHASE_ORDER[before.status] <= PHASE_ORDER[after.status]
        assert before.restarts <= after.restarts


dice = st.tuples(st.integers(0, 23), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))


@settings(max_examples=100, deadline=None)
@given(st.lists(dice, min_size=20, max_size=80), st.integers(0, 79))
def test_laws_hold_and_replicas_agree(rolls: list[Roll], restored_at: int) -> None:
    machine, replica = Machine(), Machine()
    minted: set[str] = set()
    first: list[c.AnyCommand] = [c.ClaimLeadership(server="s0", term=1, cluster_id="id")]
    first += [c.RegisterNode(registration=registration(name)) for name in NODES]
    first += [c.CreateDeployment(spec=DeploymentSpec(name=name, image="nginx", replicas=4)) for name in NAMES]
    for n, roll in enumerate([None] * len(first) + list(rolls)):
        command = first[n] if roll is None else command_of(machine.tables, roll)
        entry, index = encode_entry(command, 1000.0 + n), n + 1
        changes, _ = decide(machine.tables, command, at=1000.0 + n, index=index)
        watch(machine.tables, changes, minted)
        result = machine.apply(index, entry)
        assert check(machine.tables) == []
        assert all(node.available.cpu_millis >= 0 and node.available.memory_mb >= 0 for node in machine.tables.nodes.values())
        assert replica.apply(index, entry) == result
        if n == restored_at:
            replica = copied(replica)
    assert replica.digest == machine.digest
    assert list(replica.snapshot()()) == list(machine.snapshot()())


def copied(machine: Machine) -> Machine:
    """Another machine that knows only a snapshot."""
    other = Machine()
    other.restore(machine.tables.index, machine.snapshot()())
    return other


JUNK = [
    b"", b"\x00", b"\xc1", b"junk", b"\x93" * 5000, msgspec.msgpack.encode(None),
    msgspec.msgpack.encode({"command": {"type": "Nonsense"}, "at": 1.0}),
    msgspec.msgpack.encode({"command": {"type": "DeletePod", "id": 5}, "at": 1.0}),
    msgspec.msgpack.encode({"command": {"type": "DeletePod", "id": "x"}}),
    b"\x82\xa7command\x82\xa4type\xa9DeletePod\xa2id\xa2\xff\xfe\xa2at\x01",
    b"\x83\xa7command\x82\xa4type\xa9DeletePod\xa2id\xa1a\xa2at\x01\xa1x" + b"\x91" * 100_000 + b"\x01",
]


@pytest.mark.parametrize("entry", JUNK, ids=range(len(JUNK)))
def test_what_cannot_be_read_is_refused_and_counts(entry: bytes) -> None:
    machine, other = Machine(), Machine()
    results = [each.apply(1, entry) for each in (machine, other)]
    reply = decode_reply(results[0])
    assert isinstance(reply, Rejection) and reply.refusal is Refusal.UNKNOWN_COMMAND
    assert machine.tables.index == 1
    assert results[0] == results[1] and machine.digest == other.digest != Machine().digest


def test_a_field_of_a_later_version_is_passed_over() -> None:
    entry = msgspec.msgpack.decode(encode_entry(c.RegisterServer(id="s1", api="http://s1"), 1.0))
    entry["command"]["colour"] = "red"
    reply = decode_reply(Machine().apply(1, msgspec.msgpack.encode({**entry, "later": [1]})))
    assert isinstance(reply, Accepted)


def test_an_index_is_applied_once() -> None:
    stage = Stage()
    with pytest.raises(AssertionError):
        stage.machine.apply(1, encode_entry(c.DeletePod(id="x"), 1.0))


def test_listeners_hear_every_entry_and_every_restore() -> None:
    machine = Machine()
    heard: list[tuple[int, int]] = []
    restored: list[int] = []
    machine.on_changes = lambda index, changes: heard.append((index, len(changes)))
    machine.on_restored = restored.append
    machine.apply(1, encode_entry(c.ClaimLeadership(server="s1", term=1, cluster_id="x"), 1.0))
    machine.apply(2, encode_entry(c.DeletePod(id="nobody"), 1.0))
    machine.restore(2, list(machine.snapshot()()))
    assert heard == [(1, 1), (2, 0)]
    assert restored == [2]


def test_a_dry_run_changes_nothing() -> None:
    stage = Stage()
    before = list(stage.machine.snapshot()())
    changes, reply = decide(stage.machine.tables, c.CreateDeployment(spec=DeploymentSpec(name="web", image="nginx")), at=1.0, index=2)
    assert isinstance(reply, Accepted) and len(changes) == 1
    assert list(stage.machine.snapshot()()) == before


@given(st.sets(st.integers(0, 10**12), min_size=2))
def test_suffixes_are_unique(numbers: set[int]) -> None:
    suffixes = {_suffix(number) for number in numbers}
    assert len(suffixes) == len(numbers)
    assert all(set(suffix) <= set(string.ascii_lowercase + string.digits) and len(suffix) >= 5 for suffix in suffixes)


def test_neighbours_suffixes_differ_at_first_sight() -> None:
    suffixes = [_suffix(number) for number in range(2_000_000, 2_000_500)]
    assert len(set(suffixes)) == 500
    assert all(one[0] != other[0] for one, other in pairwise(suffixes))


def test_the_digest_covers_replies() -> None:
    machine, other = Machine(), Machine()
    machine.apply(1, encode_entry(c.DeletePod(id="nobody"), 1.0))
    other.apply(1, encode_entry(c.DeleteNode(name="nobody"), 1.0))
    assert machine.digest != other.digest
