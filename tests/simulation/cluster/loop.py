"""An asyncio event loop in virtual time: the production coroutines run on it, one loop for each life of a simulated process.

A ready callback goes into its process's inbox and a timer into the world's queue, so that a process that was killed never runs another
one, and a paused one runs them late. Nothing here waits, polls or has a thread; work for an executor is an event like any other.
"""

import asyncio
from asyncio import AbstractEventLoop, Future, Handle, Task, TimerHandle
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from functools import partial
from typing import Any, TypeVar, cast

from tests.simulation.executor import Executor, Owner
from tests.simulation.world import World

Result = TypeVar("Result")


class SimTask(Task[Any]):
    """A task whose hash is its number: sets of tasks, of which asyncio keeps some, are then walked in the same order in every run."""

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], *, loop: "SimLoop", number: int, context: Context | None, name: str | None
    ) -> None:
        self.number = number
        self.body = coroutine
        self._log_destroy_pending = False
        super().__init__(coroutine, loop=cast(AbstractEventLoop, loop), name=name or f"task-{number}", context=context)

    def __hash__(self) -> int:
        return self.number


class SimHandle(Handle):
    """A handle that is its own event."""

    __slots__ = ()

    def __init__(self, callback: Callable[..., object], args: Any, loop: AbstractEventLoop, context: Context) -> None:
        # Without what asyncio does here for its debug mode.
        self._callback, self._args, self._loop, self._context = callback, args, loop, context
        self._cancelled, self._source_traceback, self._repr = False, None, None

    def __call__(self) -> None:
        if not self._cancelled:
            self._run()


class SimLoop:
    """The loop of one life of `owner`, as much of it as is asked for; `dead` once that is over."""

    def __init__(self, world: World, owner: Owner, *, thread_s: float = 0.004) -> None:
        self.world = world
        self.owner = owner
        self.dead = False
        self.tasks: list[SimTask] = []
        self._executor = Executor(owner, world, thread_s)
        self._self = cast(AbstractEventLoop, self)

    @contextmanager
    def running(self) -> Iterator[None]:
        """As `enter` and `leave`, where it is not done thousands of times a second."""
        self.enter()
        try:
            yield
        finally:
            leave()

    def enter(self) -> None:
        """A turn begins: this is the running loop."""
        asyncio._set_running_loop(self._self)

    def kill(self) -> None:
        self.dead = True

    def bury(self) -> None:
        """Close what is left of a dead life's coroutines, children first; only after the run was judged, since `finally` blocks run."""
        for task in reversed(self.tasks):
            if not task.done():
                with suppress(BaseException):  # whatever they say at being closed, nobody is left to mind
                    task.body.close()
        self.tasks.clear()

    # -- what asyncio asks of a loop ---------------------------------------------------------------------------------

    def time(self) -> float:
        return self.world.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self.dead

    def is_closed(self) -> bool:
        return self.dead

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Handle:
        handle = SimHandle(callback, args, self._self, copy_context() if context is None else context)
        if not self.dead:
            self.owner.post(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None) -> TimerHandle:
        return self.call_at(self.world.now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None) -> TimerHandle:
        handle = TimerHandle(when, callback, args, self._self, context)
        self.world.at(when, partial(self._due, handle))
        return handle

    def _due(self, handle: TimerHandle) -> None:
        if not self.dead and not handle._cancelled:
            self.owner.post(partial(_run, handle))

    def _timer_handle_cancelled(self, handle: TimerHandle) -> None:
        """Its event finds that out when it comes."""

    def create_future(self) -> "Future[Any]":
        return Future(loop=self._self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> SimTask:
        task = SimTask(coro, loop=self, number=len(self.tasks), context=context, name=name)
        self.tasks.append(task)
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Result], *args: Any) -> "Future[Result]":
        told: Future[Result] = Future(loop=self._self)

        def settle(done: Any) -> None:
            if told.done():
                return
            error = done.exception()
            if error is not None:
                told.set_exception(error)
            else:
                told.set_result(done.result())

        self._executor.submit(func, *args).add_done_callback(settle)
        return told

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Production logs this; here nothing may end unheard."""
        error = context.get("exception")
        if not self.dead and error is not None:
            self.world.violate("unheard-exception", f"{self.owner.name}: {context.get('message')}: {type(error).__name__}: {error}")


def leave() -> None:
    """The turn is over."""
    asyncio._set_running_loop(None)


def _run(handle: Handle) -> None:
    if not handle._cancelled:
        handle._run()
