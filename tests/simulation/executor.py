"""The thread that writes snapshots, in virtual time.

A job runs later, all at once, in a turn of its process, and never in one that is gone; the process hears of its end later still, since it
may die between the last rename and the moment it looks.
"""

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Protocol, TypeVar

from .world import World

HEARD_AFTER_S = 0.05
Result = TypeVar("Result")


class Owner(Protocol):
    name: str
    life: int

    def post(self, event: Callable[[], None]) -> None: ...


class Executor:
    """Stands for the thread that writes snapshots: a job runs later, all at once, and never in a process that is gone."""

    def __init__(self, process: Owner, world: World, longest_s: float) -> None:
        self._process = process
        self._world = world
        self._longest_s = longest_s
        self._chance = world.random(f"executor/{process.name}/{process.life}")

    def submit(self, job: Callable[..., Result], /, *args: object) -> "Future[Result]":
        future: Future[Result] = Future()
        life = self._process.life

        def run() -> None:
            try:
                result = job(*args)
            except Exception as error:
                tell(partial(future.set_exception, error))
            else:
                tell(partial(future.set_result, result))

        def tell(settle: Callable[[], None]) -> None:
            """The process hears of it when its own thread looks again: it may die between the rename and that."""
            self._world.after(
                self._chance.uniform(0.0, HEARD_AFTER_S), lambda: self._process.post(settle) if self._process.life == life else None
            )

        def begin() -> None:
            if self._process.life == life:
                self._process.post(run)

        self._world.after(self._chance.uniform(0.001, self._longest_s), begin)
        return future
