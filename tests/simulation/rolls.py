"""Who votes, read from the entries that stand in the logs: what a majority is, judged apart from the code that counts."""

from collections.abc import Set

from raft.configuration import CONFIGURATION, Configuration, decode_configuration, is_majority
from raft.journal import Watcher

from .world import World


class Rolls:
    """Every configuration that was ever appended anywhere, and those that were applied."""

    def __init__(self, world: World, first: Configuration) -> None:
        self._world = world
        self._applied: dict[int, bytes] = {}
        self._open: dict[tuple[int, bytes], Configuration] = {}
        self._index = 0
        self.committed = first

    def appended(self, name: str, index: int, command: bytes) -> None:
        """An entry of this kind came to stand in somebody's log."""
        if command[:1] == CONFIGURATION and index > self._index and (index, command) not in self._open:
            self._open[(index, command)] = decode_configuration(command[1:])
            self._world.log("configuration", name, index, _words(self._open[(index, command)]))

    def applied(self, name: str, index: int, command: bytes) -> None:
        """Somebody takes it for committed."""
        world = self._world
        if self._applied.setdefault(index, command) != command:
            world.violate("configurations-differ", f"{name} applied another configuration at log index {index} than an other")
        if index <= self._index:
            return
        after = decode_configuration(command[1:])
        if len(after.voters ^ self.committed.voters) > 1:
            world.violate("two-steps-at-once", f"{_words(self.committed)} became {_words(after)} at log index {index}")
        back = set(self.committed.removed) & {seat.id for seat in after.seats}
        if back or set(self.committed.removed) - set(after.removed):
            world.violate("removed-came-back", f"{sorted(back)} at log index {index}")
        world.log("members", name, index, _words(after))
        world.counts["configurations"] += 1
        self.committed, self._index = after, index
        self._open = {key: value for key, value in self._open.items() if key[0] > index}

    def is_majority(self, holders: Set[str]) -> bool:
        """Of the configuration that is committed, or of one that a leader may have in force."""
        return any(is_majority(holders, each.voters) for each in (self.committed, *self._open.values()))


class Witness:
    """Stands before a journal's watcher and reports to the rolls."""

    def __init__(self, inner: Watcher, rolls: Rolls, name: str) -> None:
        self._inner, self._rolls, self._name = inner, rolls, name

    def added(self, command: bytes, index: int) -> None:
        self._rolls.appended(self._name, index, command)
        self._inner.added(command, index)

    def cut(self, index: int) -> None:
        self._inner.cut(index)

    def cleared(self) -> None:
        self._inner.cleared()


def _words(configuration: Configuration) -> str:
    seats = ",".join(f"{seat.id}{'' if seat.voter else '(learner)'}@{seat.address}" for seat in configuration.seats)
    return f"{seats} without {','.join(configuration.removed)}"
