"""Directed runs about members: the rules that chance alone would take long to miss, staged in the same world, judged the same way."""

from collections.abc import Callable

from raft.contract import ChangeKind

from .members import MemberProcess, MemberSimulation, Roster
from .process import Process
from .scenarios import STEP_S, Stage
from .simulation import Options, Simulation

MOMENT_S = 0.0001


class MemberStage(Stage):
    """A stage whose members change."""

    def _build(self, seed: int, options: Options) -> Simulation:
        return MemberSimulation(seed, options)

    @property
    def roster(self) -> Roster:
        assert isinstance(self.simulation, MemberSimulation)
        return self.simulation.roster

    def member(self, number: int) -> MemberProcess:
        return self.roster.active[f"s{number}:7000"]

    def ask(self, at: Process, kind: ChangeKind, subject: str) -> None:
        self.roster.active[at.name].change(kind, subject, 5.0, lambda answer: None)

    def add(self, *, promoted: bool = True) -> MemberProcess:
        """One more server, that votes, or that is held up as a learner."""
        leader = self.leader()
        assert leader is not None
        if not promoted:
            for process in self.roster.active.values():
                assert process.replica is not None
                process.replica.changes._has_caught_up = lambda id: False  # type: ignore[method-assign]
        address = self.roster.next_address()
        self.roster.active[leader.name].change(ChangeKind.ADD, address, 5.0, lambda answer: self.roster.join(address, address))
        self.until(lambda: address in self.roster.active, 3.0)
        process = self.roster.active[address]
        if promoted:
            self.until(lambda: address in self.roster.rolls.committed.voters, 5.0)
        else:
            self.run(1.0)
        return process

    def moments(self, reached: Callable[[], bool], at_most_s: float) -> None:
        """As `until`, but stops within a tenth of a millisecond of it."""
        for _ in range(int(at_most_s / MOMENT_S)):
            if reached():
                return
            self.run(MOMENT_S)
        raise AssertionError(f"not reached within {at_most_s} s")

    def apart(self, some: list[Process], others: list[Process]) -> list[tuple[str, str]]:
        links = self.links(some, others) + self.links(others, some)
        self.network.cut(links)
        return links


def two_changes_at_once(seed: int, ablate: str = "") -> set[str]:
    """A leader that has just been cut off is asked to remove both its followers: one removal more than its majority can know of."""
    stage = MemberStage(seed, ablate=ablate)
    leader = stage.settle()
    stage.run(0.3)
    others = [p for p in stage.simulation.processes.values() if p is not leader]
    stage.apart([leader], others)
    for other in others:
        stage.ask(leader, ChangeKind.REMOVE, other.name)
    stage.write(leader, 5)
    stage.until(lambda: stage.leader(others) is not None, 3.0)
    successor = stage.leader(others)
    assert successor is not None
    stage.write(successor, 5)
    stage.run(1.0)
    return stage.kinds()


def change_before_own_term(seed: int, ablate: str = "") -> set[str]:
    """The flaw found in the first proof of single-server changes, by Ongaro, with four voters and a fifth being promoted.

    s1 leads and promotes s5, which nobody but these two hears of. s2 is elected by s3 and s4, then heard by s3 alone, and is asked to
    remove s1: with s3 it has a majority of what is left. Then s1, s4 and s5, a majority of five, elect s1, whose log replaces all that.
    """
    stage = MemberStage(seed, members=4, ablate=ablate)
    stage.settle()
    first, second, third, fourth = (stage.member(n) for n in (1, 2, 3, 4))
    stage.hand_over(first)
    fifth = stage.add(promoted=False)
    stage.run(0.3)
    outside = stage.apart([first, fifth], [second, third, fourth])
    assert first.replica is not None and fourth.replica is not None
    first.replica.changes._has_caught_up = lambda id: True  # type: ignore[method-assign]
    stage.until(lambda: fifth.name in _voters(fifth), 0.5)
    ballot = fourth.replica.journal
    stage.network.cut(stage.links([third, fourth], [third, fourth]) + stage.links([third], [second]))  # s2 is to ask first
    stage.network.heal(stage.links([third], [second]))
    stage.moments(lambda: ballot.getVotedForNodeId() == second.name or bool(third.replica and third.leads()), 5.0)
    assert ballot.getVotedForNodeId() == second.name, "another one asked first"
    stage.apart([fourth], [second])
    stage.network.heal([(fourth.name, second.name)])
    stage.until(lambda: second.leads(), 2.0)
    stage.network.cut([(fourth.name, second.name)])
    stage.ask(second, ChangeKind.REMOVE, first.name)
    stage.run(0.4)
    stage.write(second, 3)
    stage.run(0.2)
    stage.network.heal([link for link in outside if fourth.name in link])
    for _ in range(600):  # Where the rule holds it is not said who wins.
        if first.leads() and first.term > second.term:
            stage.write(first, 3)
            break
        stage.run(STEP_S)
    stage.run(0.5)
    return stage.kinds()


def learner_counted(seed: int, ablate: str = "") -> set[str]:
    """A leader is cut off together with a learner: the two of them are no majority of three, for a read or for anything else."""
    stage = MemberStage(seed, ablate=ablate)
    stage.settle()
    learner = stage.add(promoted=False)
    leader = stage.leader()
    assert leader is not None
    others = [p for p in stage.roster.active.values() if p not in (leader, learner)]
    stage.apart([leader, learner], list(others))
    stage.until(lambda: stage.leader(list(others)) is not None, 3.0)
    successor = stage.leader(list(others))
    assert successor is not None
    stage.write(successor, 5)
    for _ in range(20):
        stage.simulation.clients.read_at(leader)
        stage.run(STEP_S)
    stage.run(2.0)
    return stage.kinds()


def _voters(process: MemberProcess) -> frozenset[str]:
    return process.replica.membership.voters if process.replica is not None else frozenset()
