"""What the agent does next, case by case."""

import msgspec
import pytest

from kago.agent.plan import MAX_DELAY_S, Record, Remove, Sight, Start, after_failure, after_sight, delay_s, plan, uncounted_end
from kago.core.model.deployment import Runtime
from tests.unit.agent.things import NOW, a_pod, created, ended, running, sight, stopped

LATER = NOW + 8


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        pytest.param(sight(a_pod()), ["start p1"], id="a new pod is started"),
        pytest.param(sight(a_pod(), seen=(running(),)), [], id="a running one is left alone (and so adopted)"),
        pytest.param(sight(a_pod(), seen=(running(healthy=False),)), [], id="an unhealthy one too"),
        pytest.param(sight(a_pod(), seen=(ended(),)), ["start p1"], id="one that ended is started again"),
        pytest.param(sight(a_pod(), seen=(created(),)), ["start p1"], id="one created and not started is started"),
        pytest.param(sight(a_pod(), seen=(ended(),), records={"p1": Record(not_before=LATER)}), ["wake 8"], id="but not before its delay"),
        pytest.param(sight(a_pod(), records={"p1": Record(not_before=LATER)}), ["wake 8"], id="nor is a failed first start tried before"),
        pytest.param(
            sight(a_pod(), records={"p1": Record(not_before=NOW + 9e6)}), ["start p1"], id="a clock set back does not stop it for ever"
        ),
        pytest.param(sight(stopped(), seen=(running(),)), ["remove c-p1 5"], id="one told to stop is removed with its grace"),
        pytest.param(sight(stopped(), seen=(ended(),)), ["remove c-p1 5"], id="ended or not"),
        pytest.param(sight(stopped()), [], id="told to stop and nothing there: nothing to do"),
        pytest.param(sight(seen=(running(grace_s=3.0),)), ["remove c-p1 3"], id="unwanted: removed with the grace it carries"),
        pytest.param(sight(seen=(running(),), trusted=False), [], id="unwanted by a view that may be old: left alone"),
        pytest.param(
            sight(a_pod(), stopped("p2"), seen=(running("p2"),), trusted=False), ["start p1", "remove c-p2 5"], id="what disk says holds"
        ),
        pytest.param(sight(a_pod(), blind=frozenset({Runtime.DOCKER})), [], id="an engine that does not answer: nothing is started"),
        pytest.param(sight(stopped(), seen=(running(),), blind=frozenset({Runtime.DOCKER})), [], id="nor removed"),
        pytest.param(
            sight(a_pod(), a_pod("p2", runtime=Runtime.PROCESS), blind=frozenset({Runtime.DOCKER})),
            ["start p2"],
            id="the other runtime goes on",
        ),
        pytest.param(sight(a_pod(), offered=frozenset({Runtime.PROCESS})), [], id="a runtime this node does not have"),
        pytest.param(sight(a_pod(), seen=(ended(ref="c2"), running())), ["remove c2 5"], id="of two the running one is kept"),
        pytest.param(
            sight(a_pod(), seen=(running(ref="young", started_at=NOW), running(ref="old"))),
            ["remove young 5"],
            id="of two running ones the older",
        ),
    ],
)
def test_next_steps(given: Sight, wanted: list[str]) -> None:
    assert words(given) == wanted


def test_a_pod_with_work_under_way_is_left_out() -> None:
    given = sight(a_pod(), stopped("p2"), seen=(running("p2"), running("p3")))
    assert plan(given, busy={"p1", "p2", "p3"}, now=NOW).actions == ()


def words(given: Sight) -> list[str]:
    result = plan(given, busy=(), now=NOW)
    said = [
        f"start {action.pod.id}" if isinstance(action, Start) else f"remove {action.observed.ref} {action.grace_s:g}"
        for action in result.actions
        if isinstance(action, Start | Remove)
    ]
    return said + ([f"wake {result.wake_at - NOW:g}"] if result.wake_at is not None else [])


def test_delays_double_from_1_s_to_60_s() -> None:
    assert [delay_s(n) for n in range(9)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert delay_s(10_000) == MAX_DELAY_S


def test_a_crash_loop_slows_down_and_a_healthy_run_begins_anew() -> None:
    record = Record()
    seen = []
    for number in range(1, 9):
        record = after_sight(record, ended(run=f"r{number}", exit_code=3), "last words", now=NOW)
        seen.append((record.restarts, record.not_before - NOW, record.reason))
    assert seen[:3] == [(0, 1, "Error"), (1, 2, "CrashLoopBackOff"), (2, 4, "CrashLoopBackOff")]
    assert seen[-1] == (7, 60, "CrashLoopBackOff")
    assert record.message == "exit code 3 after 2 s; next start 60 s later\nlast words"
    assert after_sight(record, ended(run="r9", ran_s=119), "", now=NOW).failures == 9, "60 s is not healthy when the delay was 60 s"
    healed = after_sight(record, ended(run="r9", ran_s=121), "", now=NOW)
    assert (healed.failures, healed.not_before - NOW, healed.restarts) == (1, 1, 8)


def test_an_end_is_counted_once_whoever_counts() -> None:
    once = after_sight(Record(), ended(), "", now=NOW)
    from_disk = msgspec.json.decode(msgspec.json.encode(once), type=Record)
    assert not uncounted_end(from_disk, ended())
    assert after_sight(from_disk, ended(), "", now=NOW + 5) == once


def test_an_end_long_ago_is_not_waited_for_again() -> None:
    record = after_sight(Record(), ended(finished_at=NOW - 3600), "", now=NOW)
    assert record.not_before == NOW + 1
    assert after_sight(Record(), ended(finished_at=NOW - 0.5), "", now=NOW).not_before == NOW + 0.5


def test_a_new_run_clears_the_reason_and_counts_as_restart() -> None:
    record = after_sight(after_sight(Record(), ended(), "", now=NOW), running(run="r2"), "", now=NOW)
    assert (record.restarts, record.reason, record.message, record.exit_code, record.failures) == (1, "", "", 1, 1)
    assert after_sight(record, running(run="r2"), "", now=NOW) == record


@pytest.mark.parametrize(
    ("observed", "reason", "begins"),
    [
        (ended(exit_code=0), "Completed", "exit code 0 after"),
        (ended(exit_code=137, oom_killed=True), "OOMKilled", "OOMKilled (over its memory limit), exit code 137"),
        (ended(exit_code=None), "Error", "exit code unknown"),
        (ended(detail="device gone"), "Error", "exit code 1 (device gone)"),
    ],
)
def test_what_an_end_is_called(observed: object, reason: str, begins: str) -> None:
    record = after_sight(Record(), observed, "", now=NOW)  # type: ignore[arg-type]
    assert record.reason == reason and record.message.startswith(begins)


def test_failed_starts_back_off_too() -> None:
    once = after_failure(Record(), "ErrImagePull", "no such image", now=NOW)
    assert (once.reason, once.not_before, once.message) == ("ErrImagePull", NOW + 1, "no such image; next try 1 s later")
    twice = after_failure(once, "ErrImagePull", "no such image", now=NOW)
    assert (twice.reason, twice.not_before, twice.run) == ("ImagePullBackOff", NOW + 2, "")
    assert after_failure(twice, "StartError", "no", now=NOW).reason == "StartError"
