"""What every node has free, and for each shape of pod the nodes in the order of their scores, kept from round to round.

Scoring every node for every pod would cost pods x nodes. Here a placement or a changed node is one line in a journal; a ranking
reads the lines it has not seen before it answers, so that a pod costs what changed since the last one of its shape.
"""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush, heapreplace

from kago.core.model.node import Node
from kago.core.scheduler.filters import Room, Shape, accepts
from kago.core.scheduler.scores import SCORES, SPREADING

MAX_RANKED = 500_000
"""Scores kept over all rankings, which bounds the memory they take."""
MIN_RANKINGS = 8
MAX_JOURNAL = 100_000


class Capacity:
    """The nodes, what is free on them and how many pods of each deployment they hold."""

    def __init__(self) -> None:
        self.rooms: dict[str, Room] = {}
        self.grown = False
        """A node may take a pod now that it did not take before. Whoever looks again at refused pods sets it back."""
        self.rounds = 0
        self.journal: list[str] = []
        """Names of changed nodes, in order, since the rankings were last dropped."""
        self._held: dict[tuple[str, str], int] = {}
        self._rankings: dict[Shape, Ranking] = {}

    def put(self, name: str, node: Node | None) -> None:
        """Take over what a node is now; None: it is gone."""
        before = self.rooms.pop(name, None)
        if node is not None:
            room = self.rooms[name] = Room(node)
            self.grown = self.grown or before is None or _more(before, room)
        self._note(name)

    def reserve(self, name: str, shape: Shape) -> None:
        room = self.rooms[name]
        room.free_cpu -= shape.cpu_millis
        room.free_memory -= shape.memory_mb
        self._note(name)

    def held(self, name: str, deployment_name: str) -> int:
        """Pods of the deployment on the node."""
        return self._held.get((name, deployment_name), 0)

    def hold(self, name: str, deployment_name: str, count: int) -> None:
        """Add `count` (negative: take away) to what `held` says."""
        key = (name, deployment_name)
        held = self._held.get(key, 0) + count
        if held:
            self._held[key] = held
        else:
            self._held.pop(key, None)

    def by_name(self) -> Iterator[Room]:
        return (self.rooms[name] for name in sorted(self.rooms))

    def ranking(self, shape: Shape) -> "Ranking":
        """The nodes for pods of this shape; those least recently asked for make room for it."""
        ranking = self._rankings.pop(shape, None) or Ranking(self, shape)
        while len(self._rankings) >= max(MIN_RANKINGS, MAX_RANKED // max(len(self.rooms), 1)):
            del self._rankings[next(iter(self._rankings))]
        self._rankings[shape] = ranking
        return ranking

    def begin(self) -> None:
        """Begin a round. A journal that has grown long is forgotten, and with it the rankings that read it."""
        self.rounds += 1
        if len(self.journal) > MAX_JOURNAL:
            self.journal.clear()
            self._rankings.clear()

    def _note(self, name: str) -> None:
        self.journal.append(name)


class Ranking:
    """The nodes that take pods of one shape, best first.

    Nodes of one score stand together, in a heap of names. An entry is taken for true only if `_scores` still says so; the others are
    dropped when they come up. Nodes passed over because they hold pods of the deployment at hand wait in `_later`, fewest pods first.
    """

    def __init__(self, capacity: Capacity, shape: Shape) -> None:
        self._capacity = capacity
        self._shape = shape
        self._score = SCORES[shape.strategy]
        self._spreading = shape.strategy in SPREADING
        self._deployment_name = ""
        self._round = 0
        self._build()

    def _begin(self) -> None:
        """Another deployment's pods come next, or another round: what was passed over until now counts as any other node again."""
        for score, passed in self._later.items():
            for _, name in passed:
                self._push(score, name)
        self._later.clear()

    def best(self, deployment_name: str) -> str | None:
        """The node for the next pod of this shape and deployment; None: no node takes it."""
        if self._deployment_name != deployment_name or self._round != self._capacity.rounds:
            self._deployment_name, self._round = deployment_name, self._capacity.rounds
            self._begin()
        self._catch_up()
        levels, tied, scores = self._levels, self._tied, self._scores
        while levels:
            score = levels[0]
            names = tied[score]
            while names:
                name = names[0]
                if scores.get(name) != score:
                    heappop(names)
                elif self._spreading and (held := self._capacity.held(name, deployment_name)):
                    heappop(names)
                    heappush(self._later.setdefault(score, []), (held, name))
                else:
                    return name
            if (later := self._least_held(score, deployment_name)) is not None:
                return later
            heappop(levels)
            del tied[score]
        return None

    def _least_held(self, score: int, deployment_name: str) -> str | None:
        passed = self._later.get(score, [])
        while passed:
            held, name = passed[0]
            if self._scores.get(name) != score:
                heappop(passed)
            elif (now := self._capacity.held(name, deployment_name)) != held:
                heapreplace(passed, (now, name))
            else:
                return name
        self._later.pop(score, None)
        return None

    def _build(self) -> None:
        score, shape = self._score, self._shape
        self._seen = len(self._capacity.journal)
        self._scores = {room.name: score(room, shape) for room in self._capacity.rooms.values() if accepts(room, shape)}
        self._later: dict[int, list[tuple[int, str]]] = {}
        self._tied: dict[int, list[str]] = {}
        for name, value in self._scores.items():
            self._tied.setdefault(value, []).append(name)
        for names in self._tied.values():
            heapify(names)
        self._levels = list(self._tied)
        heapify(self._levels)
        self._entries = len(self._scores)

    def _catch_up(self) -> None:
        journal, rooms = self._capacity.journal, self._capacity.rooms
        if self._seen == len(journal):
            return
        changed = journal[self._seen :] if len(journal) - self._seen == 1 else list(dict.fromkeys(journal[self._seen :]))
        if self._entries + len(changed) > 4 * len(rooms) + 1000:
            self._build()
            return
        self._seen = len(journal)
        for name in changed:
            room = rooms.get(name)
            if room is None or not accepts(room, self._shape):
                self._scores.pop(name, None)
            elif (score := self._score(room, self._shape)) != self._scores.get(name):
                self._scores[name] = score
                self._push(score, name)

    def _push(self, score: int, name: str) -> None:
        names = self._tied.get(score)
        if names is None:
            names = self._tied[score] = []
            heappush(self._levels, score)
        heappush(names, name)
        self._entries += 1


def _more(before: Room, after: Room) -> bool:
    """Whether `after` may take a pod that `before` refused."""
    if not after.ready:
        return False
    offers = (before.node.runtimes, before.node.labels) != (after.node.runtimes, after.node.labels)
    return not before.ready or offers or after.free_cpu > before.free_cpu or after.free_memory > before.free_memory
