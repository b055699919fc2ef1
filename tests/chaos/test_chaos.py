"""The campaign's short form: a handful of faults, once each, and every promise kept."""

import pytest

from tests.chaos.__main__ import FAULTS, SHORT, chosen, inject
from tests.chaos.campaign import Injected
from tests.chaos.cluster import Box
from tests.chaos.failpoints import ALL, SERVER
from tests.chaos.kills import Parcel, report
from tests.chaos.load import Call, longest_gap
from tests.chaos.report import as_table, rows
from tests.chaos.verdicts import Findings, findings_of_register, two_of_a_pod
from tests.e2e.netns import why_none


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.skipif(bool(why_none()), reason=f"no faults can be made: {why_none()}")
def test_the_short_campaign() -> None:
    done = inject(chosen(",".join(SHORT), docker=False), rounds=1, minutes=2.0, docker=False, seed=7, out=None)
    assert [one.findings for one in done if one.findings.total()] == []
    assert sorted(one.fault for one in done) == sorted(SHORT)
    assert all(one.acknowledged > 50 for one in done)


def test_names() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    with pytest.raises(ValueError, match="no such fault: flood; there are kill-leader"):
        chosen("flood", docker=False)


# -- the judges judge ------------------------------------------------------------------------------------------------


def write(value: str, *, returned_at: float | None = 1.0, refused: bool = False) -> Call:
    return Call(client=0, server="s1", kind="write", key="r", value=value, called_at=0.0, returned_at=returned_at, refused=refused)


@pytest.mark.parametrize(
    ("revision", "lost", "doubled"),
    [(1, 1, 0), (2, 1, 0), (3, 0, 0), (4, 0, 0), (5, 0, 1)],
    ids=["both lost", "one lost", "the unknown one not done", "all done", "one done twice"],
)
def test_revisions_tell_lost_and_doubled_writes(revision: int, lost: int, doubled: int) -> None:
    calls = [write("1"), write("2"), write("3", returned_at=None), write("4", refused=True)]
    findings = Findings()
    findings_of_register(calls, "r", {"revision": revision}, findings)
    assert (len(findings.lost), len(findings.doubled)) == (lost, doubled)


def test_two_containers_of_one_pod_are_seen() -> None:
    boxes = [Box(pod_id=pod, pod_name=pod, node=node, start=node) for pod, node in (("a", "n1"), ("b", "n1"), ("a", "n2"))]
    assert two_of_a_pod(boxes) == ["pod a has 2 containers"]


def test_the_gap_begins_with_the_last_write_before() -> None:
    calls = [write(str(n), returned_at=moment) for n, moment in enumerate((1.0, 2.0, 5.5, 6.0))]
    calls.append(write("refused", returned_at=4.0, refused=True))
    assert longest_gap(calls, since=2.5, until=6.0) == 3.5
    assert longest_gap([], since=2.5, until=6.0) == 3.5


def test_the_table() -> None:
    def one(fault: str, gap_s: float, findings: Findings) -> Injected:
        return Injected(fault=fault, at=0, calls=10, acknowledged=9, unknown=1, gap_s=gap_s, healed_s=1, findings=findings)

    lines = rows([one("a", 1.0, Findings()), one("b", 2.0, Findings(lost=["x", "y"])), one("a", 3.0, Findings(other=["z"]))])
    assert lines[0] == ("a", "2", "20", "2.00 s", "3.00 s", "3.00 s", "1.00 s", "0", "0", "0", "0", "1")
    assert lines[2][:3] == ("all", "3", "30") and lines[2][7] == "2"
    assert as_table(lines).splitlines()[2].startswith("b      1")


def test_the_table_of_kills() -> None:
    """A point that nothing died at counts as much as the others."""
    deaths = [dict.fromkeys(ALL, 1), {point: 2 for point in ALL if point != SERVER[0]}]
    lines = report([Parcel(at=0, deaths=one, calls=10, acknowledged=9, unknown=1, findings=Findings(lost=["x"])) for one in deaths])
    assert f"| server | {len(SERVER)} | {3 * len(SERVER) - 2} | 1 | 3 |" in lines.splitlines()
    assert lines.endswith("20 calls, 18 acknowledged, 2 writes of unknown outcome\nlost 2, doubled 0, restarted 0, orphaned 0, other 0")
