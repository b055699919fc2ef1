"""One server process on one simulated machine: its turns, its deaths, its disk, and the real replica inside.

A process acts in turns: everything in its inbox, then one `Replica.step()`. A turn costs processor time, during which nothing else is heard; the
next turn comes with the next input or when the replica says something is due.
"""

from collections import deque
from collections.abc import Callable

from raft.contract import LogStatus, RaftConfig, Reply, Role
from raft.errors import LogError, LogHalted, NotDone, OutcomeUnknown, StartRefused
from raft.replica import Replica

from .checkers import Books
from .disk import Platter, SimCrash, SimDisk
from .machine import ListMachine
from .network import Network, SimWire
from .world import World

TURN_S = 20e-6
EVENT_S = 10e-6
FRAME_S = 5e-6


class Process:
    """`network.Host`, `faults.Victim` and `workload.Server`."""

    def __init__(self, world: World, network: Network, books: Books, config: RaftConfig, *, snapshot_s: float) -> None:
        self.name = config.me
        self.alive = False
        self.paused = False
        self.powered = True
        self.rejoin = False
        self.excuse = ""
        """Why this process may refuse to run: its disk was tampered with."""
        self.exit_reason = "never started"
        self.life = 0
        self.stale_leader_s = 0.0
        self.on_snapshot_renamed: Callable[[], None] = lambda: None
        self.platter = Platter(self.name, world.random(f"disk/{self.name}"), self._disk_logged)
        self._world = world
        self._network = network
        self._books = books
        self._config = config
        self._snapshot_s = snapshot_s
        self._chance = world.random(f"process/{self.name}")
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake_at: float | None = None
        self._busy_until = 0.0
        self._last_turn = 0.0
        self._highest = (0, 0)
        """(raft commit, raft applied): neither goes back within a life."""
        self._status: LogStatus | None = None
        self.machine = ListMachine(self.name, books)
        self.disk = SimDisk(self.platter)
        self.replica: Replica | None = None
        self.wire: SimWire | None = None
