"""The history of what users did: what is remembered, of what, how long, and that it is the same on every server."""

from kago.core.model.deployment import DeploymentPatch, DeploymentSpec, RollingUpdate
from kago.core.model.resources import Resources
from kago.core.model.token import NewToken, TokenRole
from kago.core.state.commands import (
    AnyCommand,
    ClaimLeadership,
    CreateDeployment,
    CreateToken,
    DeleteNode,
    RegisterNode,
    RevokeToken,
    UpdateDeployment,
)
from kago.core.state.handlers.history import MAX_RECORDS, MAX_SUMMARY
from kago.core.state.invariants import check
from kago.core.state.machine import Machine, encode_entry
from tests.unit.core.stage import registration

WEB = DeploymentSpec(name="web", image="nginx:1.27", replicas=0)


def _machine(schema: int = 2) -> Machine:
    machine = Machine()
    _do(machine, ClaimLeadership(server="s1:7080", term=1, cluster_id="c", schema=schema))
    return machine


def _do(machine: Machine, command: AnyCommand, *, actor: str = "token/abc", source: str = "10.0.0.9") -> None:
    index = machine.tables.index + 1
    machine.apply(index, encode_entry(command, 1000.0 + index, actor=actor, source=source))


def _update(machine: Machine, **patch: object) -> str:
    """What is remembered of a change of web."""
    _do(machine, UpdateDeployment(name="web", patch=DeploymentPatch(**patch)))  # type: ignore[arg-type]
    newest = list(machine.tables.history.values())[-1]
    return f"{newest.verb}: {newest.summary}"


def test_says_who_from_where_when_and_what() -> None:
    machine = _machine()
    _do(machine, CreateDeployment(spec=WEB))
    (record,) = machine.tables.history.values()
    assert (record.actor, record.source, record.at, record.index, record.version) == ("token/abc", "10.0.0.9", 1002.0, 2, 2)
    assert (record.verb, record.name, record.summary) == ("created", "deployment/web", "image nginx:1.27, replicas 0")


def test_tells_values_but_no_secrets() -> None:
    machine = _machine()
    _do(machine, CreateDeployment(spec=WEB))
    assert _update(machine, replicas=3) == "scaled: replicas 0 -> 3"
    assert _update(machine, replicas=0, env={"PASSWORD": "hunter2"}) == "updated: env changed, replicas 3 -> 0"
    assert _update(machine, command=("sh", "-c", "token=hunter2"), labels={"a": "hunter2"}).count("changed") == 2
    told = _update(machine, resources=Resources(cpu_millis=200, memory_mb=64), rolling_update=RollingUpdate(max_surge=2))
    assert "resources {cpu_millis: 100, memory_mb: 128} -> {cpu_millis: 200, memory_mb: 64}" in told
    assert "hunter2" not in str(machine.tables.history)
    assert len(_update(machine, image="x/" * 200 + "x:1")) < MAX_SUMMARY + 20


def test_tokens_and_nodes() -> None:
    machine = _machine()
    _do(machine, CreateToken(token=NewToken(id="abcdefgh", role=TokenRole.READ, digest="0" * 64)))
    _do(machine, RevokeToken(id="abcdefgh"))
    told = [(record.verb, record.name, record.summary) for record in machine.tables.history.values()]
    assert told == [("created", "token/abcdefgh", "role read"), ("revoked", "token/abcdefgh", "")]
    assert "000000" not in str(machine.tables.history)
    _do(machine, DeleteNode(name="n1", force=True))
    assert len(machine.tables.history) == 2, "what was refused did not happen"
    _do(machine, RegisterNode(registration=registration("n1")))
    _do(machine, DeleteNode(name="n1", force=True))
    last = list(machine.tables.history.values())[2]
    assert (last.verb, last.name, last.summary) == ("deleted", "node/n1", "by force")


def test_only_so_many_are_kept_and_the_oldest_go() -> None:
    machine = _machine()
    _do(machine, CreateDeployment(spec=WEB))
    for n in range(MAX_RECORDS + 3):
        _do(machine, UpdateDeployment(name="web", patch=DeploymentPatch(replicas=1 + n % 2)), actor="a" * 1000)
    history = machine.tables.history
    assert list(history) == list(range(machine.tables.index - MAX_RECORDS + 1, machine.tables.index + 1))
    assert check(machine.tables) == [] and max(len(record.actor) for record in history.values()) == 200


def test_survives_a_snapshot_in_order() -> None:
    machine, again = _machine(), Machine()
    _do(machine, CreateDeployment(spec=WEB))
    for n in range(12):
        _do(machine, UpdateDeployment(name="web", patch=DeploymentPatch(replicas=1 + n % 2)))
    again.restore(machine.tables.index, list(machine.snapshot()()))
    assert again.tables.history == machine.tables.history and list(again.tables.history) == list(machine.tables.history)
    for either in (machine, again):
        _do(either, UpdateDeployment(name="web", patch=DeploymentPatch(replicas=9)))
    assert machine.digest == again.digest


def test_nothing_is_kept_while_a_server_of_the_first_release_may_be_there() -> None:
    machine = _machine(schema=1)
    _do(machine, CreateDeployment(spec=WEB))
    assert machine.tables.history == {}
