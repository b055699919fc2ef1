"""The log's simulation with members that come, go, move and hand leadership about in the midst of every other fault.

Servers are made as they are asked for and retire once they were removed; everything else is as in `simulation.py`, and so is what is
checked, except that a majority is one of the configuration in force (`rolls.py`).
"""

from collections.abc import Callable
from typing import Any

from msgspec import structs

from raft.configuration import first_configuration
from raft.contract import ChangeKind, Invitation, RaftConfig, Seat
from raft.errors import ChangeRefused, LogError, StartRefused
from raft.replica import Replica

from .checkers import Books
from .faults import Fault, Nemesis, Victim
from .network import Network
from .process import Pace, Process
from .rolls import Rolls, Witness
from .simulation import PORT, Simulation
from .workload import Server
from .world import World

MOST = 6
"""Servers at a time."""
LEAST = 2
ASKED_S = (1.0, 4.0)
STOPS_S = 3.0
"""A removed server that is up and reaches another one knows of it within this."""
FINAL_S = 8.0


class MemberProcess(Process):
    def __init__(self, world: World, network: Network, books: Books, config: RaftConfig, pace: Pace, rolls: Rolls) -> None:
        super().__init__(world, network, books, config, pace)
        self.address = config.me
        self.retired = False
        self.removals = 0
        """Removals of it that were asked for and not refused."""
        self._rolls = rolls
        self.on_retired: Callable[[], None] = lambda: None

    @property
    def is_learner(self) -> bool:
        """Of those that lost their disk, which here none does; what the configuration says the rolls know."""
        return False

    def start(self) -> None:
        if not self.retired:
            self._network.places[self.address] = self.name
            self._config = structs.replace(self._config, me=self.address)
            super().start()

    def _opened(self, replica: Replica) -> None:
        replica.journal.watcher = Witness(replica.membership, self._rolls, self.name)
        inner, rolls, name = replica.configured, self._rolls, self.name

        def configured(index: int) -> None:
            rolls.applied(name, index, replica.journal[index - replica.engine.first_index][0])
            inner(index)

        replica.configured = configured  # type: ignore[method-assign]

    def change(self, kind: ChangeKind, subject: str, timeout_s: float, on_outcome: Callable[[str | LogError], None]) -> None:
        deadline = self._world.now + timeout_s
        self.post(lambda: self._replica().ask_change(kind, subject, deadline, on_outcome))

    def knows(self, rolls: Rolls) -> bool:
        return self.serving and self.replica is not None and self.replica.membership.latest == rolls.committed

    def move(self, address: str) -> None:
        """Its next life is reached there."""
        self._network.places[self.address] = ""
        self.address = address

    def _excused(self, error: Exception) -> bool:
        if isinstance(error, StartRefused) and "removed from the cluster" in str(error) and self.removals:
            self.retired = True
            self._world.log("retired", self.name)
            self._world.counts["retired"] += 1
            self.on_retired()
            return True
        return super()._excused(error)


class Operator(Nemesis):
    """Asks for changes of the members as people would, at any server, and believes only what it is told."""

    def run_with(self, roster: "Roster") -> None:
        self._roster = roster
        self._kinds |= {"add": self._add, "remove": self._remove, "move": self._move, "lead": self._lead}
        roster.resting = lambda: self.resting

    def _cause(self, fault: Fault) -> None:
        if fault.victim in self._victims and (len(self._victims) > 1 or fault.kind == "add"):
            super()._cause(fault)

    def _asked(self) -> MemberProcess | None:
        process = self._roster.active[self._chance.choice(sorted(self._roster.active))]
        return process if process.serving else None

    def _add(self, _: Victim) -> None:
        roster, via = self._roster, self._asked()
        if via is None or len(roster.active) >= MOST:
            return
        address = roster.next_address()

        def outcome(answer: str | LogError) -> None:
            if isinstance(answer, str):
                self._world.counts["added"] += 1
                roster.join(answer, address)

        via.change(ChangeKind.ADD, address, self._chance.choice(ASKED_S), outcome)

    def _remove(self, victim: Victim) -> None:
        via = self._asked()
        if via is None or len(self._roster.active) <= LEAST:
            return
        leaving = self._roster.active[victim.name]
        leaving.removals += 1

        def outcome(answer: str | LogError) -> None:
            if isinstance(answer, ChangeRefused):
                leaving.removals -= 1
                self._world.counts["removals-refused"] += 1
            elif isinstance(answer, str):
                self._world.counts["removed"] += 1
                self._roster.leaving(leaving)

        via.change(ChangeKind.REMOVE, victim.name, self._chance.choice(ASKED_S), outcome)

    def _move(self, victim: Victim) -> None:
        """One that knows where the others are, and while they know where everybody is: two that move at once would not meet again."""
        roster, leaving = self._roster, self._roster.active[victim.name]
        seats = [seat for seat in roster.rolls.committed.seats if seat.id in roster.active]
        if not leaving.knows(roster.rolls) or any(roster.active[seat.id].address != seat.address for seat in seats):
            return
        victim.die(power=False)
        leaving.move(roster.next_address())
        self._come_back(victim, 2.0)

    def _lead(self, victim: Victim) -> None:
        via = self._asked()
        if via is not None:
            via.change(ChangeKind.LEAD, victim.name, 2.0, lambda answer: None)


class Roster:
    """Who is a server by now: how one becomes one, and ceases to be one."""

    def __init__(
        self, world: World, network: Network, names: list[str], processes: dict[str, Any], make: Callable[[str, RaftConfig], MemberProcess]
    ) -> None:
        """`processes` is everyone there ever was, `names` the same in order; both grow. `make` makes another one, of this id."""
        self._world = world
        self._network = network
        self._names = names
        self._processes = processes
        self._make = make
        self._next = len(names)
        self.rolls = Rolls(world, first_configuration(names))
        self.active: dict[str, MemberProcess] = {}
        """Those that were not removed, by id."""
        self.resting: Callable[[], bool] = lambda: False
        """Whether all is being healed."""
        self.faults_until = 0.0

    def enrol(self, process: MemberProcess) -> None:
        self._processes[process.name] = self.active[process.name] = process
        process.on_retired = lambda: self.active.__delitem__(process.name)

    def next_address(self) -> str:
        self._next += 1
        return f"s{self._next}:{PORT}"

    def join(self, id: str, address: str) -> None:
        """A new server is started, with what some running one says of the cluster; where none knows of it yet, a little later."""
        if not self._joined(id, address) and not self.resting():
            self._world.after(0.2, lambda: self.join(id, address))

    def _joined(self, id: str, address: str) -> bool:
        if id in self._processes:
            return True
        told = [p.replica.status() for _, p in sorted(self.active.items()) if p.serving and p.replica is not None]
        known = next((status for status in told if any(member.id == id for member in status.members)), None)
        if known is None:
            return False
        seats = tuple(Seat(member.id, member.address, member.voter) for member in known.members)
        self._names.append(id)
        process = self._make(id, RaftConfig(me=address, members=(), invitation=Invitation(cluster=known.cluster, id=id, seats=seats)))
        self.enrol(process)
        process.start()
        return True

    def leaving(self, process: MemberProcess) -> None:
        """It was removed, as somebody was told: it must know soon once nothing is in its way."""

        def look() -> None:
            if self.resting() and process.alive and not process.retired and self._hears_of_it(process):
                self._world.violate("removed-still-runs", f"{process.name} was removed and has not stopped")

        self._world.at(max(self._world.now, self.faults_until) + STOPS_S, look)

    def _hears_of_it(self, process: MemberProcess) -> bool:
        """One that was away while all the others moved or were replaced knows nobody who could tell it, and nobody calls it any more."""
        known = process.replica.membership.peers if process.replica is not None else {}
        return any(id in self.active and self._network.places.get(address, address) == id for id, address in known.items())

    def members(self) -> list[str]:
        return [seat.id for seat in self.rolls.committed.seats]

    def settle(self) -> None:
        """After the faults, and whatever was asked for until then: those that were added and never started are, and everybody votes."""
        world = self._world
        world.run_until(world.now + ASKED_S[1])
        until = world.now + FINAL_S
        while world.now < until:
            for seat in self.rolls.committed.seats:
                self._joined(seat.id, seat.address)
            world.run_until(world.now + 0.5)
            if not self._missing() and self._is_settled():
                return
        if missing := self._missing():
            world.violate("stuck", f"{missing} were added and do not vote")

    def _is_settled(self) -> bool:
        """A change that a leader has in its log may be committed later."""
        return all(process.knows(self.rolls) for process in self.active.values() if process.serving)

    def _missing(self) -> list[str]:
        return [seat.id for seat in self.rolls.committed.seats if seat.id not in self._processes or not seat.voter]


class MemberSimulation(Simulation):
    def _process(self, config: RaftConfig, pace: Pace) -> MemberProcess:
        if not self.processes:
            self.roster = Roster(self.world, self.network, self.names, self.processes, self._newcomer)
            self.roster.faults_until = self.options.seconds
            self.books.is_majority = self.roster.rolls.is_majority
        process = MemberProcess(self.world, self.network, self.books, config, pace, self.roster.rolls)
        self.roster.enrol(process)
        return process

    def _newcomer(self, id: str, told: RaftConfig) -> MemberProcess:
        config, pace = self.template
        config = structs.replace(config, me=told.me, members=(), invitation=told.invitation)
        process = MemberProcess(self.world, self.network, self.books, config, pace, self.roster.rolls)
        process.on_snapshot_renamed = self.nemesis.snapshot_renamed
        return process

    def _nemesis(self) -> Nemesis:
        options = self.options
        victims: dict[str, Victim] = self.roster.active  # type: ignore[assignment]
        operator = Operator(self.world, self.network, victims, options.profile, options.fault_every_s, only=options.only)
        operator.run_with(self.roster)
        return operator

    def _serving(self) -> dict[str, Server]:
        return self.roster.active  # type: ignore[return-value]

    def members(self) -> list[str]:
        return self.roster.members()

    def _heal(self) -> None:
        self.nemesis.heal()
        self.roster.settle()
        super()._heal()
