"""Blocking calls beside the loop, a few at a time, in daemon threads.

An executor's threads are waited for when the process ends; a call that hangs in a dead engine would then keep a stopped agent alive.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Threads:
    def __init__(self, limit: int, name: str) -> None:
        self._free = asyncio.Semaphore(limit)
        self._name = name

    async def run(self, call: Callable[[], T]) -> T:
        """What `call` returns or raises. Cancelling gives up waiting, the call itself ends in its own time (and counts until then)."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def done(result: T | None, error: BaseException | None) -> None:
            self._free.release()
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
                result = call()
            except BaseException as error:  # carried over to the one who waits
                failure = error
            tell(loop, lambda: done(result, failure))

        threading.Thread(target=work, name=self._name, daemon=True).start()
        return await future


def tell(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Run `call` in the loop's thread; nothing where the loop has ended."""
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        if not loop.is_closed():
            raise
