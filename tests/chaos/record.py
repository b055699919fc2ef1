"""The record of calls as a history, for the checkers of linearizability."""

from collections.abc import Sequence

from tests import linearizability
from tests.chaos.load import Call, Load
from tests.chaos.verdicts import Findings
from tests.linearizability import Kind, check_by_index, check_general


def check_record(load: Load, findings: Findings) -> int:
    """Whether the record is linearizable, by its indexes and by search; how many keys one of the two could not decide."""
    wrong = check_by_index(_as_history(load.calls, by_index=True)) + check_general(_as_history(load.calls, by_index=False))
    findings.other += [line for line in wrong if not line.startswith("undecided")]
    return sum(line.startswith("undecided") for line in wrong)


def _as_history(calls: Sequence[Call], *, by_index: bool) -> list[linearizability.Call]:
    """What was refused was not done and is left out. A write whose place in the log was not told is of unknown outcome to the first."""
    kinds = {"read": Kind.READ, "write": Kind.UPDATE, "create": Kind.CREATE}
    history: list[linearizability.Call] = []
    for call in calls:
        known = call.returned_at is not None and (call.index is not None or not by_index)
        if not call.refused:
            history.append(
                linearizability.Call(
                    client=f"{call.client} at {call.server}",
                    key=call.key,
                    kind=kinds[call.kind],
                    argument=None if call.kind == "read" else call.value,
                    result=(call.value if call.kind == "read" else True) if known else None,
                    called_at=call.called_at,
                    returned_at=call.returned_at if known else None,
                    index=call.index,
                )
            )
    return history
