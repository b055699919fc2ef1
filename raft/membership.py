"""Which configuration is in force here, and what follows from it for everybody who counts, sends or dials.

It is the newest one in this member's log, committed or not (`added`, `cut`), else the one its snapshot carries, else the one the
data directory began with. PySyncObj's own membership is never used: its guard against two changes at once is dead code, and what it
appended before a restart is not in force after it (RAFT.md 1.5).
"""

import logging
from collections.abc import Callable, Iterable, Set

from raft.addresses import is_address
from raft.configuration import CONFIGURATION, Configuration, Seat, decode_configuration
from raft.contract import RaftConfig
from raft.errors import Corrupt, StartRefused
from raft.identity import Identity
from raft.messages import LogEntry

_logger = logging.getLogger(__name__)
_MAX_MET = 32
"""Ids that are in no configuration known here, and yet belong to the cluster by their hello."""


class Membership:
    """The journal's `Watcher`; `on_change` is called whenever who votes, who is sent to or who is dialled may be others."""

    def __init__(self, config: RaftConfig, identity: Identity) -> None:
        self.me = identity.id
        self.on_change: Callable[[], None] = _nothing
        self._identity = identity
        self._in_force_on_append = "onappend" not in config.ablate
        self._stays_out = "removed" not in config.ablate
        self._learners_count = "learner" in config.ablate
        self._history: list[tuple[int, Configuration]] = [(0, identity.first)]
        """Where in the log each stands; the first is of the snapshot or of the beginning."""
        self._base = self._history[0]
        self._applied = 0
        self._met: dict[str, str] = {}
        self._settle()

    # -- what is in force ------------------------------------------------------------------------------------------

    @property
    def latest(self) -> Configuration:
        return self._history[-1][1]

    @property
    def latest_index(self) -> int:
        """Log index of `latest`; 0 while the log has none."""
        return self._history[-1][0]

    def at(self, index: int) -> tuple[int, Configuration]:
        """The configuration in force once the log reached `index`, and where it stands."""
        return next(item for item in reversed(self._history) if item[0] <= index or item is self._history[0])

    def carried_by(self, index: int) -> tuple[int, Configuration] | None:
        """What a snapshot at `index` must carry: never one that may still be cut off. None: the log has none up to there."""
        found = self.at(index)
        return found if found[0] > 0 else None

    def address_of(self, id: str) -> str:
        if id == self.me:
            return self._identity.address
        seat = self.latest.seat(id)
        return self._identity.addresses.get(id) or (seat.address if seat else self._met.get(id, id))

    # -- Watcher: what happens to the log --------------------------------------------------------------------------

    def open(self, base: tuple[int, Configuration] | None, entries: Iterable[LogEntry]) -> None:
        """Found again after a start: what the newest snapshot carries, and the log behind it. Corrupt."""
        self.based_on(base)
        for command, index, _ in entries:
            if command[:1] == CONFIGURATION and index > self._history[0][0]:
                self._history.append((index, _decoded(command, index)))
        self._settle()

    def based_on(self, base: tuple[int, Configuration] | None) -> None:
        """A snapshot with this configuration is the latest from now on."""
        self._base = base or (0, self._identity.first)
        if self._base[0] >= self._history[0][0]:
            self._history = [self._base, *(item for item in self._history if item[0] > self._base[0])]

    def added(self, command: bytes, index: int) -> None:
        """An entry stands in the log from now on."""
        if command[:1] == CONFIGURATION and index > self.latest_index:
            self._history.append((index, _decoded(command, index)))
            self._settle()

    def cut(self, index: int) -> None:
        """The log was cut off before `index`: what was appended there is not in force any more."""
        kept = [item for item in self._history if item[0] < index or item[0] == 0] or [self._base]
        if len(kept) < len(self._history):
            self._history = kept
            self._settle()

    def cleared(self) -> None:
        """A snapshot took the place of the log."""
        self._history = [self._base]
        self._applied = max(self._applied, self._base[0])
        self._settle()

    def applied(self, index: int) -> None:
        """The configuration at `index` is committed."""
        self._applied = index
        for seat in self.at(index)[1].seats:
            if self._identity.addresses.get(seat.id) == seat.address:
                self._identity.moved(seat.id, None)
        self._settle()

    # -- what follows ----------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        in_force = self.latest if self._in_force_on_append else self.at(self._applied)[1]
        self.seats = in_force.seats
        self.voters = in_force.voters
        self.other_voters = self.voters - {self.me}
        self.audience = frozenset(seat.id for seat in in_force.seats if seat.id != self.me)
        """Whom a leader sends the log."""
        self.counted = self.voters | self.audience if self._learners_count else self.voters
        """Whose votes and echoes are worth anything."""
        settled = self.at(self._applied)
        later = [configuration for index, configuration in self._history if index >= settled[0]]
        ids = {seat.id for configuration in later for seat in configuration.seats} | set(self._met)
        removed = frozenset(settled[1].removed) if self._stays_out else frozenset()
        self.moves = [(seat.id, address) for seat in self.latest.seats if (address := self.address_of(seat.id)) != seat.address]
        """Members that are reached elsewhere than the configuration says: (id, address)."""
        self.peers = {id: self.address_of(id) for id in sorted(ids - removed - {self.me})}
        """Whom to talk with: until a removal is committed, also whom it is about. id -> address."""
        self._identity.known, self._identity.removed = frozenset(ids), removed
        self.on_change()

    @property
    def is_voter(self) -> bool:
        return self.me in self.voters

    def is_majority(self, some: Set[str]) -> bool:
        return 2 * len(some & self.counted) > len(self.voters)

    # -- people ----------------------------------------------------------------------------------------------------

    def met(self, id: str, address: str) -> None:
        """A member introduced itself: perhaps of a configuration that has not come here yet, perhaps from a new address."""
        if id not in self.peers:
            if len(self._met) >= _MAX_MET:
                raise ValueError(f"{_MAX_MET} servers that are no members have been here already")
            self._met[id] = address
            self._settle()
        elif address != self.address_of(id):
            _logger.info("server %s is reached at %s now", id, address)
            seat = self.latest.seat(id)
            self._identity.moved(id, None if seat is not None and seat.address == address else address)
            if id in self._met:
                self._met[id] = address
            self._settle()

    def vouched(self, id: str) -> None:
        """A member passes on what one says that was never met here: of a configuration that has not come here yet, and perhaps it knows as
        little where to find this one, which has moved meanwhile. An id is the address its member began with."""
        address = id.partition("#")[0]
        if id not in self.peers and id not in self._identity.removed and len(self._met) < _MAX_MET and is_address(address):
            self.met(id, address)

    def check_start(self, config: RaftConfig) -> None:
        """Whether what the operator said fits what the data directory says; a new own address is remembered. StartRefused."""
        addresses = {self.address_of(seat.id): seat.id for seat in self.latest.seats}
        if config.guessed or config.invitation is not None:
            return
        owner = addresses.get(config.me) or next((seat.id for seat in self.latest.seats if seat.id == config.me), self.me)
        if owner != self.me:
            raise StartRefused(
                f"the data directory belongs to server {self.me}, and {config.me} is the address of server {owner}: start it with its own "
                "--address, or name its own data directory"
            )
        if len(config.members) > 1:
            known = {*addresses, *(seat.id for seat in self.latest.seats), *(seat.id for seat in self._identity.first.seats)}
            if not known & set(config.members):
                raise StartRefused(
                    f"the data directory belongs to the servers {', '.join(sorted(addresses))}, but the peers given are "
                    f"{', '.join(sorted(config.members))}, none of them: start it without --peers (it knows its own), or name another "
                    "data directory"
                )
            if set(config.members) != set(addresses) | ({config.me} if config.me != self._identity.address else set()):
                _logger.info(
                    "the peers given, %s, are not the members any more; by the data directory they are %s, and that holds",
                    ", ".join(sorted(config.members)),
                    ", ".join(sorted(addresses)),
                )
        if config.me != self._identity.address:
            _logger.info("server %s is reached at %s from now on", self.me, config.me)
            self._identity.move(config.me)


def _decoded(command: bytes, index: int) -> Configuration:
    try:
        return decode_configuration(command[1:])
    except ValueError as error:
        raise Corrupt(f"log entry {index}: {error}") from error


def _nothing() -> None:
    """Nobody is to be told."""


__all__ = ["Membership", "Seat"]
