"""Blocking calls beside the loop, a few at a time, in daemon threads.

An executor's threads are waited for when the process ends; a call that hangs in a dead engine would then keep a stopped agent alive.
"""

import asyncio
import queue
import threading
import weakref
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Threads:
    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._busy = self._started = 0
        weakref.finalize(self, _end, self._calls, limit)

    async def run(self, call: Callable[[], T]) -> T:
        """What `call` returns or raises. Cancelling gives up waiting, a call under way ends in its own time (and counts until then)."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def done(result: T | None, error: BaseException | None) -> None:
            self._busy -= 1
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def work() -> None:
            result: T | None = None
            failure: BaseException | None = None
            try:
                if not future.cancelled():  # while it waited for a thread
                    result = call()
            except BaseException as error:  # carried over to the one who waits
                failure = error
            tell(loop, lambda: done(result, failure))

        # A thread that is through takes the next call by itself: by way of the loop it would come to it later, and on a busy machine much.
        self._busy += 1
        self._calls.put(work)
        if self._started < min(self._busy, self._limit):
            self._started += 1
            threading.Thread(target=_serve, args=(self._calls,), name=self._name, daemon=True).start()
        return await future


def _serve(calls: "queue.SimpleQueue[Callable[[], object] | None]") -> None:
    while (call := calls.get()) is not None:
        call()


def _end(calls: "queue.SimpleQueue[Callable[[], object] | None]", threads: int) -> None:
    for _ in range(threads):
        calls.put(None)


def tell(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Run `call` in the loop's thread; nothing where the loop has ended."""
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        if not loop.is_closed():
            raise
