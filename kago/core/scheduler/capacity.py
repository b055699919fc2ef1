"""What every node has free, and for each shape of pod the nodes in the order of their scores, kept from round to round.

Scoring every node for every pod would cost pods x nodes. Here a placement or a changed node is one line in a journal; a ranking
reads the lines it has not seen before it answers, so that pods cost what changed since the last ones of their shape. Pods that are
alike are asked for at once.
"""

from collections.abc import Iterator
from heapq import heappop, heappush, heapreplace

from kago.core.model.node import Node
from kago.core.scheduler.filters import Offers, Room, Shape
from kago.core.scheduler.scores import SCORES, SPREADING

MAX_RANKED = 500_000
"""Scores kept over all rankings, which bounds the memory they take."""
MIN_RANKINGS = 8
MAX_RANKINGS = 1000
MAX_JOURNAL = 100_000


class Capacity:
    """The nodes, what is free on them and how many pods of each deployment they hold."""

    def __init__(self) -> None:
        self.rooms: dict[str, Room] = {}
        self.grown = False
        """A node may take a pod now that it did not take before. Whoever looks again at refused pods sets it back."""
        self.journal: list[str] = []
        """Names of changed nodes, in order, since the rankings were last dropped."""
        self._held: dict[str, dict[str, int]] = {}
        self._offers: dict[tuple[object, ...], Offers] = {}
        self._rankings: dict[Shape, Ranking] = {}

    def put(self, name: str, node: Node | None) -> None:
        """Take over what a node is now; None: it is gone."""
        before = self.rooms.get(name)
        if node is None:
            self.rooms.pop(name, None)
        else:
            room = Room(node, before.offers if before is not None and before.offers.are_of(node) else self._offers_of(node))
            self.rooms[name] = room
            if before is not None and room.is_like(before):
                # As it was planned to be: rankings know it already.
                return
            self.grown = self.grown or before is None or _more(before, room)
        self.journal.append(name)

    def held(self, deployment_name: str) -> dict[str, int]:
        """Pods of the deployment by node, those of the present plan among them; a node that is not there has none."""
        return self._held.setdefault(deployment_name, {})

    def hold(self, name: str, deployment_name: str) -> None:
        """One more pod of the deployment on the node."""
        held = self.held(deployment_name)
        held[name] = held.get(name, 0) + 1

    def release(self, name: str, deployment_name: str) -> None:
        """One less. Rankings find out by themselves where a node holds more than they knew, but not where it holds less."""
        held = self.held(deployment_name)
        held[name] -= 1
        if not held[name]:
            del held[name]
        self.tidy(deployment_name)
        self.journal.append(name)

    def tidy(self, deployment_name: str) -> None:
        """Keep nothing of a deployment without pods."""
        if not self._held[deployment_name]:
            del self._held[deployment_name]

    def by_name(self) -> Iterator[Room]:
        return (self.rooms[name] for name in sorted(self.rooms))

    def ranking(self, shape: Shape) -> "Ranking":
        """The nodes for pods of this shape; those least recently asked for make room for it."""
        ranking = self._rankings.pop(shape, None)
        if ranking is None:
            ranking = Ranking(self, shape)
            ranked = ranking.entries + sum(other.entries for other in self._rankings.values())
            while len(self._rankings) >= MIN_RANKINGS and (ranked > MAX_RANKED or len(self._rankings) >= MAX_RANKINGS):
                ranked -= self._rankings.pop(next(iter(self._rankings))).entries
        self._rankings[shape] = ranking
        return ranking

    def begin(self) -> None:
        """Begin a round. A journal that has grown long is forgotten, with the rankings that read it and what no node offers any more."""
        if len(self.journal) > MAX_JOURNAL:
            self.journal.clear()
            self._rankings.clear()
            self._offers.clear()
            for room in self.rooms.values():
                room.offers = self._offers_of(room.node)

    def _offers_of(self, node: Node) -> Offers:
        return self._offers.setdefault((node.runtimes, *sorted(node.labels.items())), Offers(node))


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
        self._suits: dict[Offers, bool] = {}
        self._build()

    def takes_any(self) -> bool:
        """Whether some node takes a pod of this shape."""
        self._catch_up()
        return bool(self._scores)

    def take(self, count: int, deployment_name: str) -> list[str]:
        """The nodes for the next `count` pods of this shape and deployment, which take their room; fewer: no node takes the rest."""
        if self._deployment_name != deployment_name:
            self._deployment_name = deployment_name
            self._begin()
        self._catch_up()
        capacity, shape, held = self._capacity, self._shape, self._capacity.held(deployment_name)
        taken: list[str] = []
        while len(taken) < count and (name := self._best(held)) is not None:
            room = capacity.rooms[name]
            # Where nodes are filled, the one that was the best stays it until it is full.
            most = 1 if self._spreading else min(count - len(taken), _fitting(room, shape))
            room.free_cpu -= most * shape.cpu_millis
            room.free_memory -= most * shape.memory_mb
            held[name] = held.get(name, 0) + most
            taken += [name] * most
            capacity.journal.append(name)
            self._move(room, held[name])
        self._seen = len(capacity.journal)
        capacity.tidy(deployment_name)
        return taken

    def _begin(self) -> None:
        """Another deployment's pods come next: what was passed over until now counts as any other node again."""
        for score, passed in self._later.items():
            for _, name in passed:
                self._push(score, name)
        self._later.clear()

    def _best(self, held: dict[str, int]) -> str | None:
        levels, tied, scores = self._levels, self._tied, self._scores
        while levels:
            score = levels[0]
            names = tied[score]
            while names:
                name = names[0]
                if scores.get(name) != score:
                    heappop(names)
                elif self._spreading and name in held:
                    heappop(names)
                    heappush(self._later.setdefault(score, []), (held[name], name))
                else:
                    return name
            if (later := self._least_held(score, held)) is not None:
                return later
            heappop(levels)
            del tied[score]
        return None

    def _least_held(self, score: int, held: dict[str, int]) -> str | None:
        passed = self._later.get(score, [])
        while passed:
            count, name = passed[0]
            if self._scores.get(name) != score:
                heappop(passed)
            elif (now := held.get(name, 0)) != count:
                heapreplace(passed, (now, name))
            else:
                return name
        self._later.pop(score, None)
        return None

    def _build(self) -> None:
        self._seen = len(self._capacity.journal)
        self._scores = {room.name: self._score(room, self._shape) for room in self._capacity.rooms.values() if self._accepts(room)}
        self._later: dict[int, list[tuple[int, str]]] = {}
        self._tied: dict[int, list[str]] = {}
        for name, value in self._scores.items():
            self._tied.setdefault(value, []).append(name)
        for names in self._tied.values():
            names.sort()
        self._levels = sorted(self._tied)
        self.entries = len(self._scores)

    def _catch_up(self) -> None:
        journal, rooms = self._capacity.journal, self._capacity.rooms
        if self._seen == len(journal):
            return
        changed = dict.fromkeys(journal[self._seen :])
        if self.entries + len(changed) > 4 * len(rooms) + 1000:
            self._build()
            return
        self._seen = len(journal)
        for name in changed:
            room = rooms.get(name)
            if room is None or not self._accepts(room):
                self._scores.pop(name, None)
            elif (score := self._score(room, self._shape)) != self._scores.get(name) or self._later:
                self._scores[name] = score
                self._push(score, name)

    def _accepts(self, room: Room) -> bool:
        """As `accepts`, but what nodes offer is looked at once for all that offer the same."""
        shape = self._shape
        if not room.ready or shape.cpu_millis > room.free_cpu or shape.memory_mb > room.free_memory:
            return False
        suit = self._suits.get(room.offers)
        if suit is None:
            suit = self._suits[room.offers] = room.offers.suit(shape)
        return suit

    def _move(self, room: Room, held: int) -> None:
        """To where it belongs now that it took a pod of the deployment at hand, of which it holds so many."""
        name, shape = room.name, self._shape
        if shape.cpu_millis > room.free_cpu or shape.memory_mb > room.free_memory:
            del self._scores[name]
        elif (score := self._score(room, shape)) != self._scores[name]:
            self._scores[name] = score
            self._push(score, name, held)

    def _push(self, score: int, name: str, held: int = 0) -> None:
        names = self._tied.get(score)
        if names is None:
            names = self._tied[score] = []
            heappush(self._levels, score)
        if held and self._spreading:
            heappush(self._later.setdefault(score, []), (held, name))
        else:
            heappush(names, name)
        self.entries += 1


def _fitting(room: Room, shape: Shape) -> int:
    """How many pods of the shape go into a room that takes at least one."""
    return max(1, min(room.free_cpu // max(shape.cpu_millis, 1), room.free_memory // max(shape.memory_mb, 1)))


def _more(before: Room, after: Room) -> bool:
    """Whether `after` may take a pod that `before` refused."""
    if not after.ready:
        return False
    more = after.free_cpu > before.free_cpu or after.free_memory > before.free_memory
    return more or not before.ready or before.offers is not after.offers
