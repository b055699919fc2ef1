"""The log's simulation with members that come, go, move and hand leadership about in the midst of every other fault.

Servers are made as they are asked for and retire once they were removed; everything else is as in `simulation.py`, and so is what is
checked, except that a majority is one of the configuration in force (`rolls.py`).
"""

from collections.abc import Callable

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
from .simulation import PORT, Options, Simulation
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


class MemberNemesis(Nemesis):
    """Asks for changes as an operator would, at any server, and believes only what it is told."""

    def __init__(self, simulation: "MemberSimulation") -> None:
        options = simulation.options
        victims: dict[str, Victim] = simulation.active  # type: ignore[assignment]
        super().__init__(simulation.world, simulation.network, victims, options.profile, options.fault_every_s, only=options.only)
        self._simulation = simulation
        self._kinds |= {"add": self._add, "remove": self._remove, "move": self._move, "lead": self._lead}

    def _cause(self, fault: Fault) -> None:
        if fault.victim in self._victims and (len(self._victims) > 1 or fault.kind == "add"):
            super()._cause(fault)

    def _asked(self) -> MemberProcess | None:
        name = self._chance.choice(sorted(self._simulation.active))
        process = self._simulation.active[name]
        return process if process.serving else None

    def _add(self, _: Victim) -> None:
        simulation, via = self._simulation, self._asked()
        if via is None or len(simulation.active) >= MOST:
            return
        address = simulation.next_address()

        def outcome(answer: str | LogError) -> None:
            if isinstance(answer, str):
                self._world.counts["added"] += 1
                simulation.join(answer, address)

        via.change(ChangeKind.ADD, address, self._chance.choice(ASKED_S), outcome)

    def _remove(self, victim: Victim) -> None:
        via = self._asked()
        if via is None or len(self._simulation.active) <= LEAST:
            return
        leaving = self._simulation.active[victim.name]
        leaving.removals += 1

        def outcome(answer: str | LogError) -> None:
            if isinstance(answer, ChangeRefused):
                leaving.removals -= 1
                self._world.counts["removals-refused"] += 1
            elif isinstance(answer, str):
                self._world.counts["removed"] += 1
                self._simulation.leaving(leaving)

        via.change(ChangeKind.REMOVE, victim.name, self._chance.choice(ASKED_S), outcome)

    def _move(self, victim: Victim) -> None:
        """One that knows where the others are, and while they know where everybody is: two that move at once would not meet again."""
        simulation, leaving = self._simulation, self._simulation.active[victim.name]
        seats = [seat for seat in simulation.rolls.committed.seats if seat.id in simulation.active]
        if not leaving.knows(simulation.rolls) or any(simulation.active[seat.id].address != seat.address for seat in seats):
            return
        victim.die(power=False)
        leaving.move(simulation.next_address())
        self._come_back(victim, 2.0)

    def _lead(self, victim: Victim) -> None:
        via = self._asked()
        if via is not None:
            via.change(ChangeKind.LEAD, victim.name, 2.0, lambda answer: None)


class MemberSimulation(Simulation):
    def __init__(self, seed: int, options: Options) -> None:
        self.active: dict[str, MemberProcess] = {}
        """Those that were not removed, by id."""
        self._next = options.members
        super().__init__(seed, options)

    def _process(self, config: RaftConfig, pace: Pace) -> MemberProcess:
        if not self.active:
            self.rolls = Rolls(self.world, first_configuration(self.names))
            self.books.is_majority = self.rolls.is_majority
        process = MemberProcess(self.world, self.network, self.books, config, pace, self.rolls)
        self.active[process.name] = process
        process.on_retired = lambda: self.active.__delitem__(process.name)
        return process

    def _nemesis(self) -> Nemesis:
        return MemberNemesis(self)

    def _serving(self) -> dict[str, Server]:
        return self.active  # type: ignore[return-value]

    def next_address(self) -> str:
        self._next += 1
        return f"s{self._next}:{PORT}"

    def join(self, id: str, address: str) -> None:
        """A new server is started, with what some running one says of the cluster; where none knows of it yet, a little later."""
        if id in self.processes:
            return
        told = [p.replica.status() for _, p in sorted(self.active.items()) if p.serving and p.replica is not None]
        known = next((status for status in told if any(member.id == id for member in status.members)), None)
        if known is None:
            if not self.nemesis.resting:
                self.world.after(0.2, lambda: self.join(id, address))
            return
        seats = tuple(Seat(member.id, member.address, member.voter) for member in known.members)
        config, pace = self.template
        config = structs.replace(config, me=address, members=(), invitation=Invitation(cluster=known.cluster, id=id, seats=seats))
        self.names.append(id)
        process = self.processes[id] = self._process(config, pace)
        process.on_snapshot_renamed = self.nemesis.snapshot_renamed
        process.start()

    def leaving(self, process: MemberProcess) -> None:
        """It was removed, as somebody was told: it must know soon once nothing is in its way."""

        def look() -> None:
            if self.nemesis.resting and process.alive and not process.retired and self._hears_of_it(process):
                self.world.violate("removed-still-runs", f"{process.name} was removed and has not stopped")

        self.world.at(max(self.world.now, self.options.seconds) + STOPS_S, look)

    def _hears_of_it(self, process: MemberProcess) -> bool:
        """One that was away while all the others moved or were replaced knows nobody who could tell it, and nobody calls it any more."""
        known = process.replica.membership.peers if process.replica is not None else {}
        return any(id in self.active and self.network.places.get(address, address) == id for id, address in known.items())

    def members(self) -> list[str]:
        return [seat.id for seat in self.rolls.committed.seats]

    def _heal(self) -> None:
        """Before all is judged, those that were added and never started are, and everybody votes."""
        self.nemesis.heal()
        self.world.run_until(self.world.now + STOPS_S)
        until = self.world.now + FINAL_S
        while self.world.now < until:
            for seat in self.rolls.committed.seats:
                if seat.id not in self.processes:
                    self.nemesis.resting = False
                    self.join(seat.id, seat.address)
                    self.nemesis.resting = True
            self.world.run_until(self.world.now + 0.5)
            if all(seat.voter and seat.id in self.processes for seat in self.rolls.committed.seats):
                break
        missing = [seat.id for seat in self.rolls.committed.seats if seat.id not in self.processes or not seat.voter]
        if missing:
            self.world.violate("stuck", f"{missing} were added and do not vote")
        super()._heal()
