"""The nemesis: what goes wrong, how often, and how it is put right again.

A profile is a table of weights. Half of the faults that strike one member prefer the leader, since that is where the interesting code is.
"""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Protocol

from msgspec import Struct

from .disk import Platter
from .network import Network
from .world import World

NET = {"partition": 3, "pair": 2, "oneway": 3, "pause": 3, "break": 2, "handover": 1}
KILL = NET | {"kill": 4, "midkill": 3, "killall": 1}
POWER = KILL | {"power": 3, "powerall": 1, "midpower": 2}
PROFILES: dict[str, dict[str, int]] = {
    "none": {},
    "net": NET,
    "kill": KILL,
    "power": POWER,
    "dumpkill": {"kill": 1, "partition": 1},
    "rejoin": {"partition": 2, "pair": 1, "kill": 2, "pause": 1, "wipe": 4},
    "disk": {"kill": 2, "partition": 1, "full": 3, "failsync": 3, "flip": 4},
    "member": POWER | {"full": 1, "failsync": 1, "add": 7, "remove": 6, "move": 4, "lead": 3},
}
"""dumpkill also kills everybody right after a snapshot was renamed; rejoin empties a member's disk; disk makes disks fill, fail and rot."""

DUMPKILL_SHARE = 0.3
LATE_ERROR_S = 1.0
"""An error of the disk may still come to light so long after the disk is well again."""


class Fault(Struct, frozen=True, kw_only=True):
    """One fault that struck. Its own chance hangs on its number, so that it is the same fault though others are left out."""

    number: int
    at: float
    kind: str
    victim: str


class Victim(Protocol):
    """What the nemesis needs of a process."""

    name: str
    alive: bool
    paused: bool
    rejoin: bool
    excuse: str
    trouble_until: float
    platter: Platter

    def start(self) -> None: ...
    def die(self, *, power: bool) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def leads(self) -> bool: ...
    def hand_over(self, timeout_s: float) -> None: ...
    def is_voter(self) -> bool: ...
    def damage(self, chance: Random) -> bool: ...


class Nemesis:
    def __init__(
        self,
        world: World,
        network: Network,
        victims: dict[str, Victim],
        profile: str,
        every_s: float,
        *,
        only: tuple[Fault, ...] | None = None,
    ) -> None:
        """`only`: these faults of an earlier run of the seed, instead of drawing any."""
        self._world = world
        self._network = network
        self._victims = victims
        self._every_s = every_s
        self._only = only
        self._dice: Random = world.random("faults")
        self._chance = self._dice
        """Of the present fault."""
        self._weights = self._profile(profile)
        self._dumpkill = world.random("dumpkill") if profile == "dumpkill" else None
        self.struck: list[Fault] = []
        self.resting = False
        """True once everything is being healed: nothing new goes wrong."""
        self._kinds: dict[str, Callable[[Victim], None]] = {
            "partition": self._partition,
            "pair": self._pair,
            "oneway": self._one_way,
            "break": self._break,
            "pause": self._pause,
            "handover": self._hand_over,
            "kill": self._kill,
            "midkill": self._kill_in_operation,
            "midpower": self._lose_power_in_operation,
            "killall": self._kill_all,
            "power": self._lose_power,
            "powerall": self._lose_power_everywhere,
            "wipe": self._wipe,
            "full": self._fill,
            "failsync": self._fail_sync,
            "flip": self._flip,
        }

    def _profile(self, name: str) -> dict[str, int]:
        return PROFILES[name]

    def start(self, at: float) -> None:
        if self._only is not None:
            for fault in self._only:
                self._world.at(fault.at, partial(self._commit, fault))
        elif self._weights:
            self._world.at(at, self._strike)

    def _strike(self) -> None:
        if self.resting:
            return
        dice = self._dice
        kind = dice.choices(list(self._weights), list(self._weights.values()))[0]
        number = len(self.struck)
        self._commit(Fault(number=number, at=self._world.now, kind=kind, victim=self._victim_of(kind)))
        self._world.after(dice.expovariate(1.0 / self._every_s), self._strike)

    def _victim_of(self, kind: str) -> str:
        name = self._dice.choice(sorted(self._victims))
        leaders = [v for _, v in sorted(self._victims.items()) if v.leads()]
        return leaders[-1].name if self._dice.random() < 0.5 and leaders else name

    def _commit(self, fault: Fault) -> None:
        self._world.counts[f"fault-{fault.kind}"] += 1
        self._world.log("fault", fault.kind, fault.victim)
        self.struck.append(fault)
        self._chance = self._world.random(f"fault/{fault.number}")
        self._cause(fault)

    def _cause(self, fault: Fault) -> None:
        self._kinds[fault.kind](self._victims[fault.victim])

    def snapshot_renamed(self) -> None:
        """Told of each snapshot that reached its final name."""
        dice = self._dumpkill
        if dice is not None and not self.resting and dice.random() < DUMPKILL_SHARE:
            self._world.counts["fault-dumpkill"] += 1
            self._world.log("fault", "dumpkill")
            self._world.after(dice.choice((0.0, 1e-4, 2e-3)), lambda: self._kill_all(None))

    def heal(self) -> None:
        """End every fault; members come back within half a second."""
        self.resting = True
        self._network.calm = True
        self._network.heal_all()
        for _, victim in sorted(self._victims.items()):
            victim.platter.crash_at = None
            self._free(victim)
            if victim.paused:
                victim.resume()
            self._come_back(victim, 0.5)

    # -- the network ----------------------------------------------------------------------------------------------

    def _cut(self, links: list[tuple[str, str]], seconds: float) -> None:
        self._network.cut(links)
        self._world.after(seconds, lambda: None if self.resting else self._network.heal(links))

    def _partition(self, _: Victim) -> None:
        names = sorted(self._victims)
        group = set(self._chance.sample(names, self._chance.randrange(1, len(names))))
        self._cut([(a, b) for a in names for b in names if a != b and (a in group) != (b in group)], self._chance.uniform(0.1, 5.0))

    def _pair(self, victim: Victim) -> None:
        peer = self._peer_of(victim)
        self._cut([(victim.name, peer), (peer, victim.name)], self._chance.uniform(0.1, 6.0))

    def _one_way(self, victim: Victim) -> None:
        peer = self._peer_of(victim)
        self._cut([self._chance.choice(((victim.name, peer), (peer, victim.name)))], self._chance.uniform(0.1, 4.0))

    def _break(self, victim: Victim) -> None:
        self._network.break_connection(victim.name, self._peer_of(victim), seen_as_reset=self._chance.random() < 0.5)

    def _peer_of(self, victim: Victim) -> str:
        return self._chance.choice([n for n in sorted(self._victims) if n != victim.name])

    # -- processes and machines -----------------------------------------------------------------------------------

    def _come_back(self, victim: Victim, within_s: float) -> None:
        def start() -> None:
            if not victim.alive:
                victim.start()

        self._world.after(self._chance.uniform(0.02, within_s), start)

    def _pause(self, victim: Victim) -> None:
        victim.pause()
        self._world.after(self._chance.uniform(0.05, 4.0), victim.resume)

    def _hand_over(self, victim: Victim) -> None:
        """No fault at all: somebody asked the leader to give leadership away."""
        if victim.leads():
            victim.hand_over(2.0)

    def _kill(self, victim: Victim) -> None:
        victim.die(power=False)
        self._come_back(victim, 4.0)

    def _kill_in_operation(self, victim: Victim) -> None:
        victim.platter.crash_at = victim.platter.operations + self._chance.randrange(1, 40)
        self._come_back_after_operation(victim)

    def _come_back_after_operation(self, victim: Victim) -> None:
        def end() -> None:
            victim.platter.crash_at = None
            if not victim.alive:
                victim.start()

        self._world.after(self._chance.uniform(1.0, 4.0), end)

    def _lose_power_in_operation(self, victim: Victim) -> None:
        """The process dies at a disk operation; the machine follows before anything else is written."""
        victim.platter.crash_at = victim.platter.operations + self._chance.randrange(1, 40)

        def follow() -> None:
            if not victim.alive and not self.resting:
                victim.die(power=True)

        self._world.after(self._chance.uniform(0.2, 0.9), follow)
        self._come_back_after_operation(victim)

    def _kill_all(self, _: Victim | None) -> None:
        for _name, victim in sorted(self._victims.items()):
            victim.die(power=False)
            self._come_back(victim, 2.0)

    def _lose_power(self, victim: Victim) -> None:
        victim.die(power=True)
        self._come_back(victim, 4.0)

    def _lose_power_everywhere(self, _: Victim) -> None:
        for _name, victim in sorted(self._victims.items()):
            victim.die(power=True)
            self._come_back(victim, 2.0)

    # -- disks ----------------------------------------------------------------------------------------------------

    def _all_voters(self) -> bool:
        return all(v.alive and v.is_voter() and not v.excuse for v in self._victims.values())

    def _wipe(self, victim: Victim) -> None:
        """A disk replaced by an empty one; only one at a time, a second loss would be one too many for three members."""
        if self._all_voters():
            self._lose_disk(victim)

    def _lose_disk(self, victim: Victim) -> None:
        victim.die(power=True)
        victim.platter.wipe()
        self._world.counts["wiped"] += 1
        victim.excuse = "wiped"
        victim.rejoin = self._chance.random() < 0.5
        self._come_back(victim, 2.0)
        if not victim.rejoin:
            self._world.after(5.0, lambda: self._return_properly(victim))

    def _return_properly(self, victim: Victim, *, warned: bool = False) -> None:
        """It started under its used identity with an empty disk; once it has met the others it must have been refused."""
        if victim.alive and not self._network_troubled():
            if not warned:
                self._world.after(2.5, lambda: self._return_properly(victim, warned=True))
                return
            self._world.violate("empty-disk-accepted", f"{victim.name} runs with an empty disk without having said rejoin")
        victim.die(power=False)
        victim.platter.wipe()
        victim.rejoin = True
        victim.start()

    def _network_troubled(self) -> bool:
        return any(self._network.is_cut(a, b) for a, b in sorted(self._network.cuts)) or any(
            not v.alive or v.paused for v in self._victims.values()
        )

    def _fill(self, victim: Victim) -> None:
        victim.platter.free_bytes = self._chance.randrange(0, 4000)
        self._recover_disk(victim)

    def _fail_sync(self, victim: Victim) -> None:
        victim.platter.fail_sync = True
        self._recover_disk(victim)

    def _recover_disk(self, victim: Victim) -> None:
        victim.trouble_until = float("inf")

        def recover() -> None:
            self._free(victim)
            if not victim.alive:
                victim.start()

        self._world.after(self._chance.uniform(0.5, 4.0), recover)

    def _free(self, victim: Victim) -> None:
        victim.platter.free_bytes = None
        victim.platter.fail_sync = False
        if victim.trouble_until > self._world.now:
            victim.trouble_until = self._world.now + LATE_ERROR_S

    def _flip(self, victim: Victim) -> None:
        if not self._all_voters():
            return
        victim.die(power=False)
        if victim.damage(self._chance):
            victim.excuse = "flip"
        self._come_back(victim, 2.0)
