"""What may be wrong though it works: each fact that should be said is said, with what to do, and a healthy cluster gets no advice."""

import pytest
from msgspec.structs import replace

from kago.core.checks import (
    DAY_S,
    MIN_FREE_BYTES,
    Finding,
    Level,
    MemberFacts,
    NodeFacts,
    ServerFacts,
    check_members,
    check_nodes,
    check_server,
    check_size,
)

WELL = ServerFacts(
    id="s1", version="1.0", schema=2, now=100.0, sync_s=0.001, election_min_s=0.3, free_bytes=50 * 1024**3, open_files=65_536
)  # fmt: skip


def member(n: int, **changes: object) -> MemberFacts:
    facts = replace(WELL, id=f"s{n}")
    return replace(MemberFacts(id=f"s{n}", role="leader" if n == 1 else "follower", facts=facts), **changes)


def said(findings: list[Finding]) -> list[str]:
    assert all(finding.remedy and finding.problem for finding in findings)
    return [f"{finding.level} {finding.subject}: {finding.problem}" for finding in findings]


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_a_healthy_cluster_gets_no_advice(size: int) -> None:
    assert list(check_members([member(n + 1) for n in range(size)], schema=2)) == []


@pytest.mark.parametrize(("size", "words"), [(2, "less reliable than one"), (4, "survive the loss of 1, no more than 3 do")])
def test_an_even_number(size: int, words: str) -> None:
    [finding] = check_size(size)
    assert words in finding.problem
    assert finding.level is Level.WARNING


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ({"sync_s": None}, "error", "cannot be written"),
        ({"sync_s": 0.045}, "warning", "takes 45 ms"),
        ({"free_bytes": MIN_FREE_BYTES - 1}, "error", "takes no changes below 64 MiB"),
        ({"free_bytes": 70 * 1024**2, "read_only": True}, "error", "only 70 MiB are free"),
        ({"free_bytes": 512 * 1024**2}, "warning", "only 512 MiB are free"),
        ({"open_files": 1024}, "warning", "1024 files"),
    ],
)
def test_a_server_in_need(change: dict[str, object], level: str, words: str) -> None:
    [finding] = check_server(replace(WELL, **change))
    assert (finding.level, words in finding.problem) == (level, True), finding


def test_a_member_down_and_the_last_that_may_be() -> None:
    members = [member(1), member(2), member(3, role="down", facts=None, silent="refused")]
    assert said(list(check_members(members, schema=2))) == ["error s3: the other servers do not hear it; no further one may fail"]
    members[1] = member(2, role="down", facts=None, silent="refused")
    assert said(list(check_members(members, schema=2)))[0] == (
        "error cluster: 1 of 3 servers are up and 2 are needed: nothing can be changed"
    )


def test_one_that_cannot_be_asked_from_here() -> None:
    [finding] = check_members([member(1), member(2), member(3, facts=None, silent="no connection in time")], schema=2)
    assert (finding.level, "no connection in time" in finding.problem) == (Level.WARNING, True)


@pytest.mark.parametrize(("off_s", "words"), [(90.0, "90 s ahead of"), (-7.4, "7 s behind")])
def test_a_clock_far_off(off_s: float, words: str) -> None:
    [finding] = check_members([member(1, clock_off_s=off_s)], schema=2)
    assert words in finding.problem
    assert list(check_members([member(1, clock_off_s=1.5)], schema=2)) == []


def test_an_agents_clock_far_off() -> None:
    told = replace(WELL, agent_clocks_off_s={"n1": -3600.0})
    [finding] = check_members([member(1, facts=told), member(2), member(3)], schema=2)
    assert said([finding]) == ["warning node/n1: its clock is 3600 s behind the servers'"]


def test_certificates_that_should_have_been_renewed() -> None:
    fresh = replace(WELL, certificate_left_s=16 * DAY_S, ca_left_s=3000 * DAY_S)
    assert list(check_members([member(1, facts=fresh)], schema=2)) == []
    late = replace(fresh, certificate_left_s=3 * DAY_S, ca_left_s=100 * DAY_S, agent_certificates_left_s={"n1": -2 * DAY_S, "n2": DAY_S})
    assert said(list(check_members([member(1, facts=late)], schema=2))) == [
        "warning cluster: its CA runs out in 100 days, and with it every certificate",
        "warning s1: its certificate runs out in 3.0 days and was not renewed",
        "error node/n1: its certificate ran out 2.0 days ago",
        "warning node/n2: its certificate runs out in 1.0 days and was not renewed",
    ]
    elsewhere = replace(fresh, id="s2", agent_certificates_left_s={"n1": 6 * DAY_S})
    both = said(list(check_members([member(1, facts=late), member(2, facts=elsewhere), member(3, facts=fresh)], schema=2)))
    assert "warning node/n1: its certificate runs out in 6.0 days and was not renewed" in both, "what was heard last counts"
    over = replace(fresh, certificate_left_s=-DAY_S, ca_left_s=-DAY_S)
    assert [finding.level for finding in check_members([member(1, facts=over)], schema=2)] == [Level.ERROR, Level.ERROR]


def test_mixed_versions_and_a_schema_left_behind() -> None:
    old = member(2, facts=replace(WELL, id="s2", version="0.9", schema=1))
    [mixed] = check_members([member(1), old, member(3)], schema=1)
    assert mixed.problem == "versions are mixed: s2 runs 0.9, s1 runs 1.0, s3 runs 1.0"
    [behind] = check_members([member(1), member(2), member(3)], schema=1)
    assert "its schema is 1" in behind.problem


def test_an_agent_that_is_silent() -> None:
    nodes = [
        NodeFacts(name="n1", status="ready", status_since=0.0),
        NodeFacts(name="n2", status="unknown", status_since=40.0, pods=3),
        NodeFacts(name="n3", status="notready", status_since=99.0, reason="its agent was stopped"),
    ]
    assert said(list(check_nodes(nodes, now=100.0))) == [
        "error node/n2: it is unknown for 60 s; 3 pods are bound to it",
        "warning node/n3: it is notready for 1 s (its agent was stopped); 0 pods are bound to it",
    ]
