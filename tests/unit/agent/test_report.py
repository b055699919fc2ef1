"""What the agent says of a pod, case by case."""

from typing import Any

import pytest

from kago.agent.plan import Record, Sight
from kago.agent.report import MAX_REPORTS, Work, reports, unheard
from kago.core.model.deployment import Runtime
from kago.core.model.pod import PodStatus
from kago.core.model.report import PodReport
from tests.unit.agent.things import a_pod, created, ended, running, sight, stopped

CRASHED = Record(run="r1", ended=True, restarts=2, exit_code=3, reason="CrashLoopBackOff", message="exit code 3")
NO_IMAGE = Record(failures=2, reason="ImagePullBackOff", message="no such image")


@pytest.mark.parametrize(
    ("given", "work", "wanted"),
    [
        pytest.param(sight(a_pod()), None, ("creating", "", False), id="nothing done yet"),
        pytest.param(sight(a_pod()), Work(reason="Pulling", message="3 of 9 MB"), ("creating", "Pulling", False), id="progress"),
        pytest.param(sight(a_pod(), records={"p1": NO_IMAGE}), None, ("creating", "ImagePullBackOff", False), id="no image"),
        pytest.param(sight(a_pod(), records={"p1": NO_IMAGE}), Work(), ("creating", "ImagePullBackOff", False), id="tried again"),
        pytest.param(sight(a_pod(), seen=(created(),)), None, ("creating", "", False), id="created, not started"),
        pytest.param(sight(a_pod(), seen=(running(),)), None, ("running", "", True), id="runs"),
        pytest.param(
            sight(a_pod(), seen=(running(healthy=False, detail="x"),)), None, ("running", "Unhealthy", False), id="fails its health check"
        ),
        pytest.param(sight(a_pod(), seen=(ended(),), records={"p1": CRASHED}), None, ("running", "CrashLoopBackOff", False), id="crashed"),
        pytest.param(sight(a_pod(), records={"p1": Record(run="r1")}), None, ("running", "ContainerGone", False), id="removed by a person"),
        pytest.param(sight(stopped(), seen=(running(),)), Work(), ("terminating", "", False), id="is stopped"),
        pytest.param(
            sight(stopped(), seen=(running(),)), Work(reason="StopError"), ("terminating", "StopError", False), id="cannot be stopped"
        ),
        pytest.param(sight(stopped()), Work(), ("terminating", "", False), id="a start may still be under way"),
        pytest.param(sight(stopped(), records={"p1": CRASHED}), None, ("terminated", "", False), id="gone for certain"),
        pytest.param(sight(stopped(), offered=frozenset()), None, ("terminated", "", False), id="never had a runtime here"),
        pytest.param(
            sight(a_pod(), offered=frozenset({Runtime.PROCESS})), None, ("creating", "RuntimeMissing", False), id="no such runtime"
        ),
        pytest.param(
            sight(a_pod(), blind=frozenset(Runtime)), None, ("creating", "EngineUnavailable", False), id="engine away, nothing known"
        ),
        pytest.param(
            sight(stopped(), blind=frozenset(Runtime)), None, ("terminating", "EngineUnavailable", False), id="engine away, not known gone"
        ),
    ],
)
def test_one_pod(given: Sight, work: Work | None, wanted: tuple[str, str, bool]) -> None:
    said = reports(given, {"p1": work} if work is not None else {}, {})["p1"]
    assert (said.status, said.reason, said.ready) == wanted


def test_facts_are_passed_on() -> None:
    said = reports(sight(a_pod(), seen=(running(),), records={"p1": Record(run="r1", restarts=2, exit_code=9)}), {}, {})["p1"]
    assert (said.restarts, said.exit_code, said.container_id, said.started_at) == (2, 9, "c-p1", running().started_at)


def test_the_first_word_on_a_pod_waits_for_what_may_be_over_in_a_moment() -> None:
    young = {"p1": Work(young=True)}
    assert reports(sight(a_pod()), young, {}) == {}
    known = reports(sight(a_pod()), {}, {})
    assert reports(sight(a_pod()), young, known) == known


def test_an_engine_that_does_not_answer_changes_no_report() -> None:
    before = reports(sight(a_pod(), seen=(running(),)), {}, {})
    assert reports(sight(a_pod(), seen=(running(),), blind=frozenset(Runtime)), {}, before) == before


def test_containers_nobody_wants_are_not_reported() -> None:
    assert reports(sight(seen=(running(),)), {}, {}) == {}


def test_only_what_was_not_heard_is_sent_and_not_too_much_at_once() -> None:
    def report(number: int, **fields: Any) -> PodReport:
        return PodReport(pod_id=f"p{number:04}", status=PodStatus.RUNNING, **fields)

    said = {one.pod_id: one for one in (report(number, ready=True) for number in range(MAX_REPORTS + 10))}
    assert unheard(said, said) == ()
    assert len(unheard(said, {})) == MAX_REPORTS
    assert unheard(said, {**said, "p0003": report(3)}) == (report(3, ready=True),)
