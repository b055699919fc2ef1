"""Whether what clients were told can have come from one register per key, by two checkers that share nothing but the register.

`check_by_index` uses the log index in every answer: real time must agree with it, and a replay in its order must give every answer.
O(n log n), and exact about where it went wrong. `check_general` ignores the index and searches for an order of its own, as Porcupine does
(just-in-time linearization after Lowe, key by key, states remembered); it is slower, may give up, and is the check of the first one.

A call that was certainly not done is left out of a history. Clocks of all clients must be one clock.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import groupby

from msgspec import Struct
from msgspec.structs import replace

MAX_STEPS = 5_000_000
"""States of one key looked at and compared before a checker says that it cannot tell: seconds."""

Value = int | str | None
"""What a key holds; None: the key does not exist."""
UNSEEN = "(some value never seen)"


class Kind(StrEnum):
    READ = "read"
    """GET; the result is what was read, None for a 404."""
    WRITE = "write"
    """Sets it, whatever there is. The result is True, as of everything below that took effect."""
    CREATE = "create"
    """POST; False where the key exists already."""
    UPDATE = "update"
    """PUT; False where there is no such key."""
    DELETE = "delete"
    """False where there is no such key."""
    COMPARE_AND_SET = "compare-and-set"
    """The argument is (expected, new); False where something else was there."""


class Call(Struct, frozen=True, kw_only=True):
    """One call of one client, as the client saw it."""

    client: str
    key: str
    kind: Kind
    argument: Value | tuple[Value, Value] = None
    result: Value | bool = None
    called_at: float
    """Seconds, of the clock that all clients share."""
    returned_at: float | None = None
    """None: the outcome is unknown. Of a write that means absent, or done once at any later time."""
    index: int | None = None
    """The log index that did it, or that a read reflects. Of an unknown write: where the log has it, if anybody looked."""


Possible = tuple[Value, frozenset[int]]
"""A value, and which unknown writes (by number) were spent to get there."""


class _Undecided(Exception):
    """Too many states."""


class _Steps:
    """What may still be spent on one key."""

    def __init__(self, most: int) -> None:
        self._left = most

    def spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise _Undecided


def check_by_index(calls: Iterable[Call], *, max_steps: int = MAX_STEPS) -> list[str]:
    """Everything that contradicts the indexes, in words; empty when the history is linearizable in their order.

    A line that begins with "undecided" is about a key with more unknown writes than could be tried.
    """
    history = [call for _, mine in _by_key(_of_consequence(calls)) for call in mine]
    wrong = [f"{_say(call)}: the answer carries no index" for call in history if call.index is None and call.returned_at is not None]
    placed = [call for call in history if call.index is not None]
    wrong += _check_real_time(placed)
    wrong += _check_one_write_an_index(placed)
    taken = sorted(call.index or 0 for call in placed if _effective(call))
    floors = _floors(history)
    for key, mine in _by_key(history):
        lost = [(call, floor) for call, floor in floors if call.key == key]
        order = sorted((call for call in mine if call.index is not None), key=lambda call: (call.index, not _effective(call)))
        wrong += _replay(key, order, lost, taken, max_steps)
    return wrong


def check_general(calls: Iterable[Call], *, max_steps: int = MAX_STEPS) -> list[str]:
    """One line for every key whose calls no order explains; "undecided: …" for one that took too many steps. Indexes are not looked at."""
    wrong = []
    for key, mine in _by_key(_of_consequence(calls)):
        try:
            stuck = _Search(mine, max_steps).run()
        except _Undecided:
            wrong.append(f"undecided: key {key}: {max_steps} states looked at")
            continue
        if stuck is not None:
            wrong.append(f"no order of the calls of key {key} explains {_say(stuck)}")
    return wrong


def step(value: Value, call: Call) -> tuple[Value | bool, Value]:
    """The register itself: the answer to `call` where `value` is there, and what is there afterwards."""
    argument = call.argument
    match call.kind:
        case Kind.READ:
            return value, value
        case Kind.COMPARE_AND_SET:
            assert isinstance(argument, tuple)
            return (True, argument[1]) if value == argument[0] else (False, value)
        case Kind.DELETE:
            return value is not None, None
    assert not isinstance(argument, tuple)
    if call.kind is (Kind.UPDATE if value is None else Kind.CREATE):
        return False, value
    return True, argument


def _fits(value: Value, call: Call) -> bool:
    return call.returned_at is None or step(value, call)[0] == call.result


def _effective(call: Call) -> bool:
    """Whether it may have changed something."""
    return call.kind is not Kind.READ and (call.returned_at is None or call.result is True)


def _of_consequence(calls: Iterable[Call]) -> list[Call]:
    """A read that was never answered says nothing."""
    return [call for call in calls if call.returned_at is not None or call.kind is not Kind.READ]


def _by_key(calls: Iterable[Call]) -> Iterator[tuple[str, list[Call]]]:
    keys: dict[str, list[Call]] = {}
    for call in calls:
        keys.setdefault(call.key, []).append(call)
    return ((key, list(_blurred(mine))) for key, mine in sorted(keys.items()))


def _blurred(calls: Sequence[Call]) -> Iterator[Call]:
    """Unknown writes of values that nobody saw or asked for are all alike, and there may be many of them."""
    seen = {call.result for call in calls if call.kind is Kind.READ}
    seen |= {call.argument[0] for call in calls if isinstance(call.argument, tuple)}
    for call in calls:
        argument = call.argument
        if call.returned_at is not None or call.kind in (Kind.READ, Kind.DELETE):
            yield call
        elif isinstance(argument, tuple):
            yield call if argument[1] in seen else replace(call, argument=(argument[0], UNSEEN))
        else:
            yield call if argument in seen else replace(call, argument=UNSEEN)


def _say(call: Call) -> str:
    what = f"{call.kind.value} {call.key}" + ("" if call.argument is None else f" {call.argument!r}")
    outcome = "unknown" if call.returned_at is None else repr(call.result)
    ended = "" if call.returned_at is None else f"{call.returned_at:.6f}"
    at = "" if call.index is None else f" at index {call.index}"
    return f"{call.client}'s {what} -> {outcome}{at} ({call.called_at:.6f}–{ended})"


# -- by index ------------------------------------------------------------------------------------------------------


def _with_newest_before(calls: Sequence[Call]) -> Iterator[tuple[Call, Call | None]]:
    """Each call with the one of the highest index among those that had returned when it was called."""
    ended = sorted((call for call in calls if call.returned_at is not None and call.index is not None), key=lambda c: c.returned_at or 0.0)
    newest: Call | None = None
    at = 0
    for call in sorted(calls, key=lambda c: c.called_at):
        while at < len(ended) and (ended[at].returned_at or 0.0) < call.called_at:
            if newest is None or (ended[at].index or 0) > (newest.index or 0):
                newest = ended[at]
            at += 1
        yield call, newest


def _check_real_time(placed: Sequence[Call]) -> Iterator[str]:
    for call, newest in _with_newest_before(placed):
        least = (newest.index or 0) + _effective(call) if newest is not None else 0
        if newest is not None and (call.index or 0) < least:
            yield f"{_say(call)}: called after the end of {_say(newest)}, so its index must be {least} at least"


def _check_one_write_an_index(placed: Sequence[Call]) -> Iterator[str]:
    at: dict[int, Call] = {}
    for call in placed:
        if _effective(call):
            other = at.setdefault(call.index or 0, call)
            if other is not call:
                yield f"{_say(call)} and {_say(other)} are two writes at one index"


def _floors(history: Sequence[Call]) -> list[tuple[Call, int]]:
    """The unknown writes without an index, each with the highest index known before it was called: it is after that, if anywhere."""
    pairs = _with_newest_before(history)
    return [(call, (newest.index or 0) if newest else 0) for call, newest in pairs if call.returned_at is None and call.index is None]


def _replay(key: str, order: Sequence[Call], lost: Sequence[tuple[Call, int]], taken: Sequence[int], max_steps: int) -> Iterator[str]:
    """What `order` is told against what the register gives; `taken` are the indexes of all known writes, where no other can have been."""
    register = _Register(lost, taken, max_steps)
    pinned = 0
    """What the key held at this index is settled."""
    for calls in _steps(order):
        index = calls[0].index or 0
        try:
            if not register.meet(calls, pinned):
                wrong = next((call for call in calls if not register.meet([call], pinned)), calls[-1])
                yield f"{_say(wrong)}: the log up to its index gives {register.describe()}"
                register.believe(wrong)
        except _Undecided:
            yield f"undecided: key {key}: {len(lost)} unknown writes can be ordered in too many ways"
            return
        if any(call.kind is Kind.READ or call.result is True for call in calls):
            pinned = index


def _steps(order: Sequence[Call]) -> Iterator[list[Call]]:
    """Each write alone; all that only looked at one index together, since they saw one state."""
    for (_, looked), calls in groupby(order, key=lambda call: (call.index, not _effective(call))):
        if looked:
            yield list(calls)
        else:
            yield from ([call] for call in calls)


class _Register:
    """All that one key may hold at an index, where some writes may have happened or not.

    An unknown write is spent only when an answer needs one. That loses nothing: in any explanation, one that happened earlier than the
    first answer that needs it can as well happen right before that answer, or was overwritten and need not have happened.
    """

    def __init__(self, lost: Sequence[tuple[Call, int]], taken: Sequence[int], max_steps: int) -> None:
        self._lost = lost
        self._calls = [call for call, _ in lost]
        self._taken = taken
        self._possible: set[Possible] = {(None, frozenset())}
        self._steps = _Steps(max_steps)

    def meet(self, calls: Sequence[Call], pinned: int) -> bool:
        """Go past `calls` (one step), with unknown writes after the index `pinned` only; False where that gives not all answers."""

        def fits(possible: Possible) -> bool:
            return all(_fits(possible[0], call) for call in calls)

        fitting = {possible for possible in self._possible if fits(possible)}
        for possible in sorted(self._possible - fitting, key=repr):
            fitting |= {other for other in self._reach(possible, pinned, calls[0].index or 0) if fits(other)}
        if not fitting:
            return False
        self._possible = _least({(step(value, calls[0])[1], spent) for value, spent in fitting}, self._steps)
        return True

    def believe(self, call: Call) -> None:
        """Go on from what `call` says, so that one mistake is told once."""
        if call.kind is Kind.READ or _effective(call):
            after = call.result if call.kind is Kind.READ else call.argument
            after = after[1] if isinstance(after, tuple) else after
            self._possible = _least({(after, spent) for _, spent in self._possible}, self._steps)

    def describe(self) -> str:
        return " or ".join(sorted({repr(value) for value, _ in self._possible}))

    def _reach(self, start: Possible, pinned: int, index: int) -> set[Possible]:
        """What unknown writes can make of `start`, each way with no write in it that could be left out."""
        usable = [n for n, (_, floor) in enumerate(self._lost) if self._free(max(pinned, floor), index) > 0]
        found: set[Possible] = set()
        edge: dict[Possible, frozenset[int]] = {start: frozenset()}
        for _ in range(self._free(pinned, index)):
            reached: dict[Possible, frozenset[int]] = {}
            for (value, spent), barred in edge.items():
                working = frozenset(_working(value, self._calls, [n for n in usable if n not in spent]))
                for n in sorted(working - barred):
                    reached[step(value, self._calls[n])[1], spent | {n}] = barred | working
            new = _least(found | set(reached), self._steps) - found
            edge = {possible: barred for possible, barred in reached.items() if possible in new}
            found |= new
            if not edge:
                break
        return found

    def _free(self, after: int, last: int) -> int:
        """Indexes from after + 1 to last where no known write was."""
        return last - after - (bisect_right(self._taken, last) - bisect_right(self._taken, after))


def _least(possible: set[Possible], steps: _Steps) -> set[Possible]:
    """Without those that spend more than another one of the same value."""
    kept: dict[Value, list[frozenset[int]]] = {}
    for value, spent in sorted(possible, key=lambda p: (len(p[1]), sorted(p[1]))):
        known = kept.setdefault(value, [])
        steps.spend(1 + len(known))
        if not any(less <= spent for less in known):
            known.append(spent)
    return {(value, spent) for value, ways in kept.items() for spent in ways}


def _working(value: Value, calls: Sequence[Call], unspent: Sequence[int]) -> Iterator[int]:
    """Which of these unknown writes would do something to `value`; of those that are alike, the one called first.

    Two unknown writes upon each other, of which the second would have worked without the first, are one too many. So who follows a way of
    unknown writes bars for its next step what worked at an earlier one.
    """
    alike: set[tuple[Kind, Value | tuple[Value, Value]]] = set()
    for n in unspent:
        what = (calls[n].kind, calls[n].argument)
        if what not in alike and step(value, calls[n])[0] is True:
            alike.add(what)
            yield n


# -- by search -----------------------------------------------------------------------------------------------------

Configuration = tuple[Value, frozenset[int], frozenset[int]]
"""The value, the calls still under way that have taken their effect, and the unknown writes that have."""


class _Search:
    """Goes through one key's calls and returns in time, and at each return makes the returning call take effect if it has not yet."""

    def __init__(self, calls: Sequence[Call], max_steps: int) -> None:
        self._calls = calls
        self._steps = _Steps(max_steps)
        self._open: set[int] = set()
        self._lost: list[int] = []

    def run(self) -> Call | None:
        """The first call that cannot be explained, or None. Raises _Undecided."""
        moments = [(call.called_at, 0, n) for n, call in enumerate(self._calls)]
        moments += [(call.returned_at, 1, n) for n, call in enumerate(self._calls) if call.returned_at is not None]
        now: set[Configuration] = {(None, frozenset(), frozenset())}
        for _, ends, n in sorted(moments):
            if not ends:
                if self._calls[n].returned_at is None:
                    self._lost.append(n)
                else:
                    self._open.add(n)
                continue
            now = _fewest({(v, done - {n}, spent) for start in now for v, done, spent in self._until(n, start)}, self._steps)
            self._open.discard(n)
            if not now:
                return self._calls[n]
        return None

    def _until(self, n: int, start: Configuration) -> set[Configuration]:
        """Every configuration in which `n` has just taken effect, or had already."""
        reached: set[Configuration] = set()
        seen: dict[tuple[Value, frozenset[int]], list[frozenset[int]]] = {}
        queue: deque[tuple[Configuration, frozenset[int]]] = deque([(start, frozenset())])
        while queue:
            configuration, barred = queue.popleft()
            value, done, spent = self._with_watchers(configuration)
            known = seen.setdefault((value, done), [])
            self._steps.spend(1 + len(known))
            if any(less <= spent for less in known):
                continue
            known.append(spent)
            if n in done:
                reached.add((value, done, spent))
                continue
            for m in self._open - done:
                answer, after = step(value, self._calls[m])
                if answer == self._calls[m].result:
                    queue.append(((after, done | {m}, spent), frozenset()))
            working = frozenset(_working(value, self._calls, [m for m in self._lost if m not in spent]))
            for m in sorted(working - barred):
                queue.append(((step(value, self._calls[m])[1], done, spent | {m}), barred | working))
        return reached

    def _with_watchers(self, configuration: Configuration) -> Configuration:
        """Calls that change nothing wherever they are, and whose answer is right here, are here: that takes no choice away."""
        value, done, spent = configuration
        here = {n for n in self._open - done if not _effective(self._calls[n]) and step(value, self._calls[n])[0] == self._calls[n].result}
        return value, done | here, spent


def _fewest(configurations: set[Configuration], steps: _Steps) -> set[Configuration]:
    """Without those that differ from another one only by spending more unknown writes."""
    kept: dict[tuple[Value, frozenset[int]], set[Possible]] = {}
    for value, done, spent in configurations:
        kept.setdefault((value, done), set()).add((value, spent))
    return {(value, done, spent) for (_, done), possible in kept.items() for value, spent in _least(possible, steps)}
