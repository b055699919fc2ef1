"""The checkers checked: histories that must pass, histories that must fail, a register with known faults, and brute force."""

from collections.abc import Callable, Sequence
from itertools import chain, combinations, permutations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.linearizability import Call, Kind, Value, check_by_index, check_general, step

Row = tuple[str, Value | tuple[Value, Value], Value | bool, float, float | None, int | None]


def _history(*rows: Row) -> list[Call]:
    """Rows of (kind, argument, result, called at, returned at, index), all of one key, each of a client of its own."""
    return [
        Call(client=f"c{n}", key="web", kind=Kind(kind), argument=given, result=result, called_at=called, returned_at=returned, index=index)
        for n, (kind, given, result, called, returned, index) in enumerate(rows)
    ]


GOOD: dict[str, list[Call]] = {
    "nothing": [],
    "a life": _history(
        ("read", None, None, 0, 1, 3), ("create", 1, True, 2, 3, 4), ("create", 2, False, 4, 5, 5), ("update", 3, True, 6, 7, 6),
        ("read", None, 3, 8, 9, 6), ("delete", None, True, 10, 11, 7), ("delete", None, False, 12, 13, 7), ("update", 4, False, 14, 15, 7),
    ),
    "a read during a write may see either": _history(
        ("write", 1, True, 0, 1, 1), ("write", 2, True, 2, 9, 2), ("read", None, 1, 3, 4, 1), ("read", None, 2, 5, 6, 2)
    ),
    "concurrent writes in the order of their indexes, not of their calls": _history(
        ("write", 1, True, 0, 9, 2), ("write", 2, True, 1, 8, 1), ("read", None, 1, 10, 11, 2)
    ),
    "compare and set": _history(
        ("write", 1, True, 0, 1, 1), ("compare-and-set", (1, 2), True, 2, 5, 2), ("compare-and-set", (1, 3), False, 2, 5, 3),
        ("read", None, 2, 6, 7, 3),
    ),
    "an unknown write never seen": _history(("write", 1, True, 0, 1, 1), ("write", 2, None, 2, None, None), ("read", None, 1, 8, 9, 1)),
    "an unknown write seen late": _history(
        ("write", 1, True, 0, 1, 1), ("write", 2, None, 2, None, None), ("read", None, 1, 3, 4, 1), ("read", None, 2, 8, 9, 5)
    ),
    "unknown writes in either order": _history(
        ("write", 2, None, 0, None, None), ("write", 3, None, 0, None, None), ("read", None, 3, 1, 2, 4), ("read", None, 2, 3, 4, 6)
    ),
    "two unknown ones, one upon the other": _history(
        ("create", 1, None, 0, None, None), ("compare-and-set", (1, 2), None, 0, None, None), ("read", None, 2, 5, 6, 2)
    ),
    "an unknown delete before a create": _history(
        ("create", 1, True, 0, 1, 1), ("delete", None, None, 2, None, None), ("create", 2, True, 3, 4, 3), ("read", None, 2, 5, 6, 3)
    ),
    "an unknown write whose place the log told": _history(
        ("write", 1, True, 0, 1, 1), ("write", 2, None, 2, None, 2), ("read", None, 2, 8, 9, 2)
    ),
    "the same value twice": _history(
        ("write", 1, True, 0, 1, 1), ("write", 2, True, 2, 3, 2), ("write", 1, None, 4, None, None), ("read", None, 1, 5, 6, 3),
        ("read", None, 1, 7, 8, 3),
    ),
}

BAD: dict[str, list[Call]] = {
    "stale read": _history(("write", 1, True, 0, 1, 1), ("write", 2, True, 2, 3, 2), ("read", None, 1, 4, 5, 1)),
    "stale read under a new index": _history(("write", 1, True, 0, 1, 1), ("write", 2, True, 2, 3, 2), ("read", None, 1, 4, 5, 2)),
    "lost write": _history(("write", 1, True, 0, 1, 1), ("read", None, None, 2, 3, 1)),
    "write applied twice": _history(
        ("write", 1, True, 0, 1, 1), ("write", 2, True, 2, 3, 2), ("read", None, 2, 4, 5, 2), ("read", None, 1, 6, 7, 3)
    ),
    "unknown write applied twice": _history(
        ("write", 1, None, 0, None, None), ("read", None, 1, 1, 2, 1), ("write", 2, True, 3, 4, 2), ("read", None, 1, 5, 6, 3),
        ("write", 3, True, 7, 8, 4), ("read", None, 1, 9, 10, 5),
    ),
    "read from the future": _history(("read", None, 1, 0, 1, 1), ("write", 1, True, 2, 3, 1)),
    "unknown write read before it was called": _history(("read", None, 1, 0, 1, 1), ("write", 1, None, 2, None, None)),
    "unknown write seen and then unseen": _history(
        ("write", 1, True, 0, 1, 1), ("write", 2, None, 2, None, None), ("read", None, 2, 3, 4, 2), ("read", None, 1, 5, 6, 3)
    ),
    "one read new, a later one old": _history(
        ("write", 1, True, 0, 1, 1), ("write", 2, True, 2, 20, 2), ("read", None, 2, 3, 4, 2), ("read", None, 1, 5, 6, 1)
    ),
    "nobody's value": _history(("write", 1, True, 0, 1, 1), ("read", None, 7, 2, 3, 1)),
    "two creators": _history(("create", 1, True, 0, 5, 1), ("create", 2, True, 0, 5, 2)),
    "two compare-and-sets win": _history(
        ("write", 1, True, 0, 1, 1), ("compare-and-set", (1, 2), True, 2, 5, 2), ("compare-and-set", (1, 3), True, 2, 5, 3)
    ),
    "deleted and still there": _history(("create", 1, True, 0, 1, 1), ("delete", None, True, 2, 3, 2), ("read", None, 1, 4, 5, 2)),
    "there and not there at one index": _history(
        ("write", 1, None, 0, None, None), ("create", 1, False, 0, 0.5, 1), ("update", 1, False, 1, 2, 1)
    ),
    "gone without a delete": _history(("create", 1, True, 0, 1, 1), ("update", 2, False, 2, 3, 2)),
}

BAD_BY_INDEX_ONLY: dict[str, tuple[list[Call], str]] = {
    "no index": (_history(("write", 1, True, 0, 1, None)), "no index"),
    "two writes at one index": (_history(("write", 1, True, 0, 5, 1), ("write", 2, True, 0, 5, 1)), "at one index"),
    "index behind what was known": (_history(("write", 1, True, 0, 1, 7), ("write", 2, True, 2, 3, 6)), "must be 8 at least"),
    "a refusal at an index before what was known": (
        _history(("create", 1, True, 0, 1, 4), ("delete", None, True, 2, 3, 6), ("update", 2, False, 4, 5, 3)), "must be 6"
    ),
    "no room for the unknown write": (
        _history(("write", 1, True, 0, 1, 1), ("write", 2, None, 2, None, None), ("read", None, 2, 3, 4, 1)), "gives 1"
    ),
    "the unknown write is elsewhere in the log": (
        _history(("write", 1, True, 0, 1, 1), ("write", 2, None, 2, None, 5), ("read", None, 2, 3, 4, 3)), "gives 1"
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_passes(name: str) -> None:
    assert check_by_index(GOOD[name]) == []
    assert check_general(GOOD[name]) == []


@pytest.mark.parametrize("name", BAD)
def test_fails(name: str) -> None:
    assert len(check_general(BAD[name])) == 1
    assert check_by_index(BAD[name])


@pytest.mark.parametrize("name", BAD_BY_INDEX_ONLY)
def test_fails_for_its_index(name: str) -> None:
    calls, words = BAD_BY_INDEX_ONLY[name]
    assert check_general(calls) == []
    found = check_by_index(calls)
    assert len(found) == 1 and words in found[0]


def test_says_who_when_and_what() -> None:
    (line,) = check_by_index(BAD["nobody's value"])
    assert line == "c1's read web -> 7 at index 1 (2.000000–3.000000): the log up to its index gives 1"


def test_one_mistake_is_told_once() -> None:
    first = _history(("write", 1, True, 0, 1, 1), ("read", None, 7, 2, 3, 1), ("read", None, 7, 4, 5, 1), ("write", 2, True, 6, 7, 2))
    assert len(check_by_index([*first, *_history(("read", None, 2, 8, 9, 2))])) == 1


def test_keys_are_apart() -> None:
    other = [replace(call, key="other", index=(call.index or 0) + 100, called_at=call.called_at + 100) for call in BAD["lost write"]]
    calls = [*GOOD["a life"], *[replace(call, returned_at=call.called_at + 1) for call in other]]
    assert ["key other" in line for line in check_general(calls)] == [True]
    assert ["read other" in line for line in check_by_index(calls)] == [True]


def test_too_much_is_undecided_and_says_so() -> None:
    """Compare-and-sets of unknown outcome in a ring can be ordered in very many ways."""
    ring = [("compare-and-set", (a, b), None, 1, None, None) for a in range(8) for b in range(8) if a != b]
    calls = _history(("write", 0, True, 0, 0.5, 1), *ring, ("read", None, 99, 8, 9, 90))
    assert [line.split(":")[0] for line in check_general(calls, max_steps=2000)] == ["undecided"]
    assert [line.split(":")[0] for line in check_by_index(calls, max_steps=2000)] == ["undecided"]


def test_many_unknown_writes_are_decided() -> None:
    lost: list[Row] = [("write", n, None, n, None, None) for n in range(100, 300)]
    seen: list[Row] = [("read", None, n, 1000 + at, 1000.5 + at, 1000 + at) for at, n in enumerate(range(299, 99, -3))]
    assert check_by_index(_history(*lost, *seen)) == []
    assert check_general(_history(*lost, *seen)) == []
    again: Row = ("read", None, 299, 5000, 5001, 5000)
    assert len(check_by_index(_history(*lost, *seen, again))) == len(check_general(_history(*lost, *seen, again))) == 1


def test_a_long_history_is_quick() -> None:
    calls = _served(Random(1), clients=20, calls=3000, keys=20, values=1_000_000)
    assert check_by_index(calls) == []
    assert check_general(calls) == []


# -- a register with random delays, and faults put into its histories ------------------------------------------------


def _served(chance: Random, *, clients: int, calls: int, keys: int, values: int = 5, unknown: float = 0.1) -> list[Call]:
    """A history of a real register: every call takes effect at one moment between its beginning and its end, in log order."""
    drafts: list[tuple[float, float, float, str, str, Kind, Value | tuple[Value, Value], bool]] = []
    for client in range(clients):
        now = chance.random()
        for _ in range(calls // clients):
            kind = chance.choice(list(Kind))
            argument: Value | tuple[Value, Value] = None if kind in (Kind.READ, Kind.DELETE) else chance.randrange(values)
            if kind is Kind.COMPARE_AND_SET:
                argument = (chance.choice((None, chance.randrange(values))), chance.randrange(values))
            end = now + chance.expovariate(1.0)
            lost = chance.random() < unknown
            # What was lost on the way may arrive long after its client has given up, or never.
            effect = end + chance.expovariate(0.1) if lost else chance.uniform(now, end)
            drafts.append((effect, now, end, f"c{client}", f"k{chance.randrange(keys)}", kind, argument, lost))
            now = end + chance.expovariate(2.0)
    registers: dict[str, Value] = {}
    index, served = 0, []
    for _, called, returned, client_name, key, kind, argument, lost in sorted(drafts, key=lambda draft: draft[0]):
        call = Call(client=client_name, key=key, kind=kind, argument=argument, called_at=called)
        if not lost or chance.random() < 0.5:
            if kind is not Kind.READ:
                index += chance.choice((1, 1, 3))
            result, registers[key] = step(registers.get(key), call)
            call = call if lost else replace(call, result=result, returned_at=returned, index=index)
        served.append(call)
    return served


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(1, 3), st.sampled_from((3, 1000)))
def test_a_real_register_passes(seed: int, clients: int, keys: int, values: int) -> None:
    calls = _served(Random(seed), clients=clients, calls=60, keys=keys, values=values)
    Random(seed).shuffle(calls)
    assert check_by_index(calls) == []
    assert check_general(calls) == []


def _lost_write(calls: list[Call], index: int, at: float) -> list[Call]:
    return [_write(901, index, at), _read(-1, index, at + 2)]


def _stale_read(calls: list[Call], index: int, at: float) -> list[Call]:
    return [_write(901, index, at), _write(902, index + 1, at + 2), _read(901, index + 1, at + 4)]


def _old_index(calls: list[Call], index: int, at: float) -> list[Call]:
    return [_write(901, index, at), _write(902, index + 1, at + 2), _read(901, index, at + 4)]


def _twice(calls: list[Call], index: int, at: float) -> list[Call]:
    return [_write(901, index, at), _write(902, index + 1, at + 2), _read(902, index + 1, at + 4), _read(901, index + 2, at + 6)]


def _future(calls: list[Call], index: int, at: float) -> list[Call]:
    return [_read(901, index, at), _write(901, index, at + 2)]


def _unseen_again(calls: list[Call], index: int, at: float) -> list[Call]:
    unknown = replace(_write(902, 0, at), result=None, returned_at=None, index=None)
    return [_write(901, index, at - 2), unknown, _read(902, index + 2, at + 2), _read(901, index + 3, at + 4)]


def _write(value: int, index: int, at: float) -> Call:
    return Call(client="x", key="k0", kind=Kind.WRITE, argument=f"x{value}", result=True, called_at=at, returned_at=at + 1, index=index)


def _read(value: int, index: int, at: float) -> Call:
    return Call(client="y", key="k0", kind=Kind.READ, result=f"x{value}", called_at=at, returned_at=at + 1, index=index)


FAULTS = (_lost_write, _stale_read, _old_index, _twice, _future, _unseen_again)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.sampled_from(FAULTS))
def test_a_fault_is_found(seed: int, clients: int, fault: Callable[[list[Call], int, float], list[Call]]) -> None:
    """Whatever else goes on before and meanwhile, with values nobody else writes."""
    chance = Random(seed)
    calls = _served(chance, clients=clients, calls=40, keys=2, unknown=0.05)
    last = max((call.index or 0 for call in calls), default=0)
    end = max(call.returned_at or call.called_at for call in calls)
    calls += fault(calls, last + 10, end + 10)
    chance.shuffle(calls)
    assert check_by_index(calls)
    assert [line.startswith("no order") for line in check_general(calls)] == [True]


# -- the general one against brute force, the one by index against the general one -------------------------------------


def _brute(calls: Sequence[Call]) -> bool:
    """Whether any order of the known calls and of any of the unknown writes, true to real time, gives every answer."""
    known = [call for call in calls if call.returned_at is not None]
    lost = [call for call in calls if call.returned_at is None and call.kind is not Kind.READ]
    some = chain.from_iterable(combinations(lost, size) for size in range(len(lost) + 1))
    return any(_explains(order) for chosen in some for order in permutations([*known, *chosen]))


def _explains(order: Sequence[Call]) -> bool:
    for at, call in enumerate(order):
        if any(later.returned_at is not None and later.returned_at < call.called_at for later in order[at + 1 :]):
            return False
    value: Value = None
    for call in order:
        answer, value = step(value, call)
        if call.returned_at is not None and answer != call.result:
            return False
    return True


_values = st.integers(1, 2)
_moments = st.integers(0, 8)


@st.composite
def _small_calls(draw: st.DrawFn) -> Call:
    kind = draw(st.sampled_from(Kind))
    argument: Value | tuple[Value, Value] = None if kind in (Kind.READ, Kind.DELETE) else draw(_values)
    if kind is Kind.COMPARE_AND_SET:
        argument = (draw(st.none() | _values), draw(_values))
    called = draw(_moments)
    returned = draw(st.none() | st.integers(called, 9))
    result: Value | bool = None
    if returned is not None:
        result = draw(st.none() | _values) if kind is Kind.READ else draw(st.booleans())
    index = None if returned is None else draw(st.integers(0, 6))
    return Call(
        client="c", key="k", kind=kind, argument=argument, result=result, called_at=called, returned_at=returned, index=index
    )


@settings(max_examples=400, deadline=None)
@given(st.lists(_small_calls(), max_size=5))
def test_agrees_with_brute_force(calls: list[Call]) -> None:
    possible = _brute(calls)
    assert (check_general(calls) == []) == possible
    if check_by_index(calls) == []:
        assert possible, "the indexes gave an order that does not exist"


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 3))
def test_a_changed_answer_is_never_worse_for_the_general_one(seed: int, clients: int, changes: int) -> None:
    """What passes by index has an order; what has none fails by index too."""
    chance = Random(seed)
    calls = _served(chance, clients=clients, calls=24, keys=1)
    for _ in range(changes):
        n = chance.randrange(len(calls))
        if calls[n].returned_at is not None:
            other = chance.choice(calls).result
            calls[n] = replace(calls[n], result=other if calls[n].kind is Kind.READ and other not in (True, False) else not calls[n].result)
    if check_general(calls):
        assert check_by_index(calls)
