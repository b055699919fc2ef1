"""One server process on one simulated machine: its turns, its deaths, its disk, and the real replica inside.

A process acts in turns: everything in its inbox, then one `Replica.step()`. A turn costs processor time, during which nothing else is
heard; the next turn comes with the next input or when the replica says something is due.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from random import Random

from msgspec import Struct, structs

from raft.contract import LogStatus, RaftConfig, Reply, Role, StateMachine
from raft.errors import LogError, LogHalted, NotDone, OutcomeUnknown, StartRefused
from raft.replica import Replica

from .checkers import Books
from .disk import Platter, SimCrash, SimDisk
from .executor import Executor
from .machine import ListMachine
from .network import Network, SimWire
from .world import World

TURN_S = 20e-6
EVENT_S = 10e-6
FRAME_S = 5e-6
STALL_S = 0.01


class Pace(Struct, frozen=True, kw_only=True):
    """How long this machine takes at most, and how much it sends at once."""

    snapshot_s: float
    sync_s: float
    """0: syncs are quick and part of a step."""
    transfer_bytes: int


class Process:
    """`network.Host`, `faults.Victim` and `workload.Server`."""

    def __init__(self, world: World, network: Network, books: Books, config: RaftConfig, pace: Pace) -> None:
        self.name = config.me
        self.alive = False
        self.paused = False
        self.powered = True
        self.rejoin = False
        self.excuse = ""
        """Why this process may refuse to run: its disk was `wiped`, or a `flip` changed a bit on it."""
        self.trouble_until = 0.0
        """Until then errors of the disk excuse a halt."""
        self.exit_reason = "never started"
        self.life = 0
        self.stale_leader_s = 0.0
        self.on_snapshot_renamed: Callable[[], None] = lambda: None
        self.platter = Platter(self.name, world.random(f"disk/{self.name}"), self._disk_logged)
        self._world = world
        self._network = network
        self._books = books
        self._config = config
        self.snapshot_s = pace.snapshot_s
        self._transfer_bytes = pace.transfer_bytes
        self._sync_s = pace.sync_s
        self._syncing = False
        self._chance = world.random(f"process/{self.name}")
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake_at: float | None = None
        self._alarms: list[float] = []
        """When the world calls; the earliest last."""
        self._acting = False
        """In the midst of a turn, at whose end it is seen when the next one comes."""
        self._called = False
        """The replica asked for a step that it was not given yet."""
        self._busy_until = 0.0
        self._last_turn = 0.0
        self._highest = (0, 0)
        """(raft commit, raft applied): neither goes back within a life."""
        self.machine = ListMachine(self.name, books)
        self.disk = SimDisk(self.platter)
        self.replica: Replica | None = None
        self.wire: SimWire | None = None
        self._role = Role.FOLLOWER
        self._term = 0
        self._learner = False
        self._fatal: LogError | None = None
        self._suspicious: set[str] = set()

    # -- what others ask ------------------------------------------------------------------------------------------

    @property
    def serving(self) -> bool:
        """Whether a client would find its port open."""
        return self.alive and not self.paused and self.replica is not None

    @property
    def is_learner(self) -> bool:
        return self._learner

    def is_voter(self) -> bool:
        return self.alive and not self._learner

    def leads(self) -> bool:
        return self.alive and self._role is Role.LEADER

    @property
    def term(self) -> int:
        return self._term

    def writes_snapshot(self) -> bool:
        return self.replica is not None and self.replica.serializer.busy

    def hand_over(self, timeout_s: float) -> None:
        self._replica().hand_over.begin(self._world.now + timeout_s, lambda taken: None)
        self._call()

    def propose(self, entry: bytes, request_id: bytes | None, timeout_s: float, on_outcome: Callable[[str, int, bytes], None]) -> None:
        deadline, life = self._world.now + timeout_s, self.life

        def done(outcome: Reply | LogError) -> None:
            if life != self.life:
                self._world.violate("answer-from-the-dead", f"{self.name} answered from life {life} in life {self.life}")
            match outcome:
                case Reply():
                    on_outcome("done", outcome.index, outcome.result)
                case NotDone():
                    on_outcome("not-done", 0, b"")
                case OutcomeUnknown():
                    on_outcome("unknown", 0, b"")
                case LogHalted():
                    on_outcome("halted", 0, b"")
                case _:
                    self._world.violate("strange-outcome", repr(outcome))

        self.post(lambda: self._replica().submit(entry, request_id, deadline, done))

    def read(self, timeout_s: float, on_outcome: Callable[[int | None], None]) -> None:
        deadline = self._world.now + timeout_s
        self.post(lambda: self._replica().read(deadline, lambda outcome: on_outcome(outcome if isinstance(outcome, int) else None)))

    # -- turns ----------------------------------------------------------------------------------------------------

    def post(self, event: Callable[[], None]) -> None:
        if self.alive:
            self._inbox.append(event)
            self._wake(self._world.now)

    def _wake(self, at: float) -> None:
        at = max(at, self._busy_until)
        if self.paused or self._acting or (self._wake_at is not None and self._wake_at <= at):
            return
        self._wake_at = at
        self._set_alarm(at)

    def _call(self) -> None:
        self._called = True
        self._wake(self._world.now)

    def _set_alarm(self, at: float) -> None:
        """One that comes too early is cheaper than one that is moved at each heartbeat."""
        if not self._alarms or at < self._alarms[-1]:
            self._alarms.append(at)
            self._world.at(at, partial(self._alarm, self.life))

    def _alarm(self, life: int) -> None:
        if life != self.life:
            return
        self._alarms.pop()
        if self._wake_at is None or not self.alive or self.paused:
            return
        if self._wake_at > self._world.now:
            self._set_alarm(self._wake_at)
            return
        self._wake_at = None
        self._act(self._step)

    def _act(self, then: Callable[[], None]) -> None:
        """Hear everything in the inbox, then do this; see what became of the process."""
        replica, wire, sent, events = self._replica(), self._wire(), self._wire().sent, len(self._inbox)
        self._acting = True
        try:
            while self._inbox and self._fatal is None:
                self._inbox.popleft()()
            if self._fatal is None:
                then()
        except SimCrash:
            self.die(power=False)
            return
        finally:
            self._acting = False
        if self._fatal is not None:
            self._exit(self._fatal)
            return
        now = self._world.now
        self._busy_until = now + TURN_S + EVENT_S * events + FRAME_S * (wire.sent - sent)
        self._inspect(replica, now)
        if self._inbox or (self._called and not self._syncing):
            self._wake(now)
        elif not self._syncing:
            self._wake(max(replica._promised, now))

    def _step(self) -> None:
        """One step where the replica asked for it or it is time. On a slow disk its sync is left to a thread, as `raft.driver` does:
        events go on coming in, steps wait."""
        replica = self._replica()
        if self._syncing or not (self._called or replica._promised <= self._world.now):
            return
        self._called = False
        if not self._sync_s:
            replica.step()
            return
        replica.work()
        if not replica.dirty:
            replica.flush()
            return
        self._syncing, life = True, self.life
        ends = self._world.now + self._chance.uniform(0.1, 1.0) * self._sync_s
        self._world.at(ends, lambda: self._synced(life))
        self._beat(life, ends)

    def _beat(self, life: int, until: float) -> None:
        if life == self.life and self.alive and not self.paused and (due := self._replica().outbox.beat(self._world.now)) < until:
            self._world.at(due, lambda: self._beat(life, until))

    def _synced(self, life: int) -> None:
        if life != self.life or not self.alive:
            return
        if self.paused:
            self._world.after(STALL_S, lambda: self._synced(life))
            return
        self._syncing = False
        self._act(self._finish)

    def _finish(self) -> None:
        replica = self._replica()
        replica.sync_or_halt()
        if self._fatal is None:
            replica.flush()

    def _inspect(self, replica: Replica, now: float) -> None:
        commit, applied = replica.engine.commit_index, replica.engine.applied_index
        if commit < self._highest[0] or applied < self._highest[1]:
            self._world.violate("time-travel", f"{self.name}: raft (commit, applied) {self._highest} -> {(commit, applied)}")
        self._highest = (commit, applied)
        if self._role is Role.LEADER and self._term < self._books.newest_term:
            self.stale_leader_s += min(now - self._last_turn, 0.2)
        self._last_turn = now

    def _role_changed(self, status: LogStatus) -> None:
        self._role, self._term = status.role, status.term
        if self._learner and status.role is not Role.LEARNER:
            self._world.log("graduated", self.name)
            self._world.counts["graduated"] += 1
            self.excuse, self.rejoin = "", False
            self.platter.lost = {}
        self._learner = status.role is Role.LEARNER
        self._world.log("role", self.name, status.role.value, status.term, status.leader)
        if status.role is Role.LEADER:
            self._books.leads(self.name, status.term)

    def _replica(self) -> Replica:
        if self.replica is None:
            raise RuntimeError(f"{self.name} has no replica")
        return self.replica

    def _wire(self) -> SimWire:
        if self.wire is None:
            raise RuntimeError(f"{self.name} has no wire")
        return self.wire

    # -- life and death -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A new process on the same disk."""
        world = self._world
        self.life += 1
        self.alive, self.paused, self.powered, self._fatal, self._wake_at = True, False, True, None, None
        self._syncing = self._called = False
        self._inbox.clear()
        self._alarms.clear()
        self._highest, self._role, self._term, self._last_turn, self._busy_until = (0, 0), Role.FOLLOWER, 0, world.now, world.now
        self._books.life_began(self.name)
        machine = self._born()
        self.disk = SimDisk(self.platter)
        self.wire = SimWire(self._network, self)
        world.counts["starts"] += 1
        world.log("start", self.name, self.life, self.rejoin)
        config = structs.replace(self._config, rejoin=self.rejoin)
        try:
            self.replica = Replica(
                config, machine, disk=self.disk, wire=self.wire, clock=world, random=world.random(f"raft/{self.name}/{self.life}"),
                executor=Executor(self, world, self.snapshot_s), on_fatal=self._halts,
            )
            self.replica.serializer._transfer_bytes = self._transfer_bytes  # no setting of the replica, and there should be none
            self.replica.on_role = self._role_changed
            self.replica.on_wake = self._call
            self._learner = self.replica.guard.learner
            self._opened(self.replica)
            self.replica.start()
        except SimCrash:
            self.die(power=False)
            return
        except (StartRefused, OSError) as error:
            self._refused(error)
            return
        # A damaged snapshot may be passed over for the one before: the checkers see to it that nothing is missing then.
        damaged = [name for name in sorted(self.disk.read_names) if name in self._suspicious and not name.startswith("snapshot")]
        if self.excuse == "flip" and damaged:
            world.violate("flip-accepted", f"{self.name} started although {damaged} had a flipped bit")
        if self.excuse == "flip":
            self.excuse = ""
        self._suspicious.clear()
        self._wake(world.now)

    def _born(self) -> StateMachine:
        """The state machine of the life that begins; where more than a log lives in this process, that begins with it."""
        self.machine = ListMachine(self.name, self._books)
        return self.machine

    def _opened(self, replica: Replica) -> None:
        """The replica of this life is about to start."""

    def _halts(self, error: LogError) -> None:
        self._fatal = error

    def damage(self, chance: Random) -> bool:
        """Flip a bit in a file of this stopped process; False where no byte can be told from a torn tail."""
        name = self.platter.flip_bit(chance)
        if name is not None:
            self._suspicious.add(name)
        return name is not None

    def _exit(self, error: LogError) -> None:
        """The replica halted by itself: the process ends, as a supervisor would see it."""
        self._world.log("exit", self.name, type(error).__name__)
        expected = self._excused(error)
        self._world.counts["exits-excused" if expected else "exits-unexcused"] += 1
        if not expected:
            self._world.violate("halted", f"{self.name}: {type(error).__name__}: {error}")
        self.die(power=False)
        self.exit_reason = f"halted: {error}"
        if not expected:
            self._world.after(1.0, self._start_again)

    def _excused(self, error: Exception) -> bool:
        """Whether what was done to its disk explains that it does not run."""
        return self._world.now <= self.trouble_until or (self.excuse == "wiped" and not self.rejoin and isinstance(error, StartRefused))

    def _refused(self, error: Exception) -> None:
        """It would not even start."""
        self._world.log("refused-start", self.name, type(error).__name__)
        self._world.counts["refusals"] += 1
        excuse, excused = self.excuse, self._excused(error)
        self.die(power=False)
        self.exit_reason = f"refused to start: {error}"
        if excuse == "flip" and isinstance(error, StartRefused):
            # Found out, as it must be. What it held is lost; it comes back as a learner.
            self.platter.wipe()
            self._suspicious.clear()
            self.excuse, self.rejoin, self._learner = "wiped", True, True
            self._world.after(0.3, self._start_again)
        elif not excused:
            self._world.violate("start-refused", f"{self.name}: {type(error).__name__}: {error}")

    def _start_again(self) -> None:
        if not self.alive:
            self.start()

    def die(self, *, power: bool) -> None:
        if self.alive:
            self._world.log("dies", self.name, power)
            self.alive = False
            self.disk.dead = True
            self._network.process_gone(self.name, power=power)
            self.check_disk()
        self.life += 1
        self.replica, self._role, self.exit_reason = None, Role.FOLLOWER, "killed"
        self._inbox.clear()
        if power:
            self.powered = False
            self.platter.lose_power()

    def check_disk(self) -> None:
        if self.disk.used_after_failure:
            self._world.violate("used-failed-disk", f"{self.name} went on writing after a failed sync")

    def pause(self) -> None:
        if self.alive:
            self.paused = True

    def resume(self) -> None:
        if self.paused:
            self.paused, self._wake_at = False, None
            self._wake(self._world.now)

    def _disk_logged(self, *words: object) -> None:
        self._world.log(*words)
        if words[0] == "replaced" and str(words[2]).startswith("snapshot"):
            self._world.counts["snapshots"] += 1
            self.on_snapshot_renamed()
