"""Who belongs to the log: a configuration as a value, the log entry that carries it, and what may be made of it.

Pure. A configuration is in force from the moment its entry stands in a member's log, committed or not, and until the entry is cut
off again; only one voter comes or goes from one to the next, so that any majority of the one meets any majority of the other.
"""

from collections.abc import Iterable, Set
from typing import Annotated

import msgspec
from msgspec import Meta, Struct, structs

CONFIGURATION = b"\x10"
"""First byte of a log entry that holds a configuration; far from PySyncObj's own kinds."""
MAX_MEMBERS = 9
"""Seats, learners included: each more makes every write dearer, and nine survive the loss of four."""
MAX_REMOVED = 1000
"""Removed ids remembered; the oldest is forgotten beyond."""

Name = Annotated[str, Meta(min_length=1, max_length=300)]


class Seat(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    id: Name
    """For ever: the address it was first known by, with `#2` and so on where that is the id of one that was removed."""
    address: Name
    """`host:port` where it is reached now."""
    voter: bool
    """False: a learner. It receives everything and is counted in nothing."""


class Configuration(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: Annotated[int, Meta(ge=1, le=1)]
    seats: Annotated[tuple[Seat, ...], Meta(max_length=2 * MAX_MEMBERS)]
    """By id."""
    removed: Annotated[tuple[Name, ...], Meta(max_length=MAX_REMOVED)] = ()
    """Ids that never come back, oldest first."""

    @property
    def voters(self) -> frozenset[str]:
        return frozenset(seat.id for seat in self.seats if seat.voter)

    def seat(self, id: str) -> Seat | None:
        return next((seat for seat in self.seats if seat.id == id), None)

    def at_address(self, address: str) -> Seat | None:
        return next((seat for seat in self.seats if seat.address == address), None)

    def free_id(self, address: str) -> str:
        """The id of a new member at `address`."""
        used = {seat.id for seat in self.seats} | set(self.removed)
        return next(id for n in range(1, len(used) + 2) if (id := address if n == 1 else f"{address}#{n}") not in used)

    def adding(self, address: str) -> "Configuration":
        """With one more learner."""
        return self._with(Seat(self.free_id(address), address, voter=False))

    def promoting(self, id: str) -> "Configuration":
        """With a learner as a voter."""
        return self._with(structs.replace(self._present(id), voter=True))

    def moving(self, id: str, address: str) -> "Configuration":
        """With a member at another address."""
        return self._with(structs.replace(self._present(id), address=address))

    def removing(self, id: str) -> "Configuration":
        """Without a member, for good."""
        self._present(id)
        seats = tuple(seat for seat in self.seats if seat.id != id)
        return structs.replace(self, seats=seats, removed=(*self.removed, id)[-MAX_REMOVED:])

    def _with(self, seat: Seat) -> "Configuration":
        others = (other for other in self.seats if other.id != seat.id)
        return structs.replace(self, seats=tuple(sorted((*others, seat), key=lambda each: each.id)))

    def _present(self, id: str) -> Seat:
        seat = self.seat(id)
        assert seat is not None, f"{id} is no member"
        return seat


def first_configuration(members: Iterable[str]) -> Configuration:
    """Of a cluster that begins with these addresses: every id is its address, all vote."""
    return Configuration(1, tuple(Seat(member, member, voter=True) for member in sorted(members)))


def is_majority(some: Set[str], voters: Set[str]) -> bool:
    return 2 * len(some & voters) > len(voters)


_decoder = msgspec.msgpack.Decoder(Configuration)


def encode_configuration(configuration: Configuration) -> bytes:
    return msgspec.msgpack.encode(configuration)


def decode_configuration(payload: bytes) -> Configuration:
    """ValueError for anything else."""
    try:
        return _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not a configuration: {error}") from error
