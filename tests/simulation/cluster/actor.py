"""A simulated process that is all coroutines: an agent or a user's program, with its turns, pauses and deaths."""

from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from tests.simulation.cluster.loop import SimLoop, leave
from tests.simulation.world import World

TURN_S = 30e-6
EVENT_S = 5e-6
MAX_EVENTS = 20_000
"""Of one turn: more than this is a coroutine that spins."""


class Clock:
    """`kago.clock.Clock` of one machine: no two time stamps are alike, and the wall clock may jump."""

    EPOCH = 2_000_000.0
    """Small enough that a nanosecond counts."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._number = number
        self._told = 0
        self.offset_s = 0.0

    def monotonic(self) -> float:
        return self._world.now

    def now(self) -> float:
        """Unlike any other machine's or call's, so that equal entries in the log are one entry applied twice."""
        self._told += 1
        return round(self.EPOCH + self._world.now + self.offset_s, 4) + self._number * 1e-6 + self._told * 1e-9


class Actor:
    """`executor.Owner`. What is posted runs in a turn of this life or never."""

    def __init__(self, world: World, name: str, clock: Clock) -> None:
        self.world = world
        self.name = name
        self.clock = clock
        self.alive = False
        self.paused = False
        self.life = 0
        self.loop: SimLoop | None = None
        self.graves: list[SimLoop] = []
        self.on_death: list[Callable[[], None]] = []
        """Called once, when the present life ends: connections close."""
        self._inbox: deque[Callable[[], None]] = deque()
        self._turn_due = False
        self._busy_until = 0.0

    def start(self) -> None:
        """A new life, beginning with `main`."""
        self.life += 1
        self.alive, self.paused, self._turn_due = True, False, False
        self._inbox.clear()
        self.loop = SimLoop(self.world, self)
        self.world.log("start", self.name, self.life)
        life = self.life
        with self.loop.running():
            self.loop.create_task(self.main(), name=f"{self.name}/{life}").add_done_callback(lambda task: self._ended(task, life))

    async def main(self) -> None:
        raise NotImplementedError

    def ended(self, error: BaseException | None) -> None:
        """`main` is over; by itself, or by this."""
        if error is not None:
            self.world.violate("process-died", f"{self.name}: {type(error).__name__}: {error}")

    def _ended(self, task: Any, life: int) -> None:
        if life == self.life and self.alive:
            error = None if task.cancelled() else task.exception()
            self.die()
            self.ended(error)

    def die(self) -> None:
        if not self.alive:
            return
        self.world.log("dies", self.name)
        self.alive = False
        self.life += 1
        self._inbox.clear()
        assert self.loop is not None
        self.loop.kill()
        self.graves.append(self.loop)
        callbacks, self.on_death = self.on_death, []
        for callback in callbacks:
            callback()

    def pause(self) -> None:
        if self.alive:
            self.paused = True

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            if self._inbox:
                self._wake()

    def post(self, event: Callable[[], None]) -> None:
        if self.alive:
            self._inbox.append(event)
            self._wake()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        assert self.loop is not None
        with self.loop.running():
            self.loop.create_task(coroutine)

    def bury(self) -> None:
        for loop in self.graves:
            loop.bury()
        if self.loop is not None:
            self.loop.kill()
            self.loop.bury()
        self.graves.clear()

    def _wake(self) -> None:
        if self._turn_due or self.paused:
            return
        self._turn_due = True
        life = self.life
        self.world.at(max(self.world.now, self._busy_until), lambda: self._turn(life))

    def _turn(self, life: int) -> None:
        if life != self.life:
            return
        self._turn_due = False
        if self.paused or self.loop is None:
            return
        inbox, events = self._inbox, 0
        self.loop.enter()
        try:
            while inbox and self.life == life and events < MAX_EVENTS:
                inbox.popleft()()
                events += 1
        finally:
            leave()
        if events == MAX_EVENTS:
            self.world.violate("spins", f"{self.name} does not come to rest")
        self._busy_until = self.world.now + TURN_S + EVENT_S * events
