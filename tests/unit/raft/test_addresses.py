"""Look-ups of host names that hang, fail late, or are wanted by several dials."""

import asyncio
from typing import Any

import pytest

from raft.addresses import LookUps


class _Resolver(asyncio.SelectorEventLoop):
    """A loop whose resolver answers when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[asyncio.Future[list[Any]]] = []
        self.complaints: list[dict[str, Any]] = []
        self.set_exception_handler(lambda loop, context: self.complaints.append(context))

    async def getaddrinfo(self, host: Any, port: Any, **how: Any) -> list[Any]:
        self.asked.append(self.create_future())
        return await self.asked[-1]


def _play(story: Any) -> None:
    loop = _Resolver()
    try:
        loop.run_until_complete(story(loop))
        assert not loop.complaints
    finally:
        loop.close()


def test_a_look_up_that_hangs_is_waited_for_by_the_next_dial_and_not_begun_again() -> None:
    async def story(loop: _Resolver) -> None:
        names = LookUps()
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await names.find("a", 7080)
        third = asyncio.ensure_future(names.find("a", 7080))
        await asyncio.sleep(0)
        loop.asked[0].set_result([(2, 1, 6, "", ("10.0.0.1", 7080)), (10, 1, 6, "", ("fd00::1", 7080, 0, 0))])
        assert await third == [("10.0.0.1", 7080), ("fd00::1", 7080)]
        assert len(loop.asked) == 1

    _play(story)


def test_names_are_looked_up_anew_each_time() -> None:
    async def story(loop: _Resolver) -> None:
        names = LookUps()
        for host in ("10.0.0.1", "10.0.0.2"):
            found = asyncio.ensure_future(names.find("a", 7080))
            await asyncio.sleep(0.001)
            loop.asked[-1].set_result([(2, 1, 6, "", (host, 7080))])
            assert await found == [(host, 7080)]
        assert len(loop.asked) == 2

    _play(story)


def test_a_failure_that_nobody_waits_for_is_no_news_and_the_next_dial_asks_again() -> None:
    async def story(loop: _Resolver) -> None:
        names = LookUps()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await names.find("a", 7080)
        loop.asked[0].set_exception(OSError("no such name"))
        await asyncio.sleep(0.001)
        with pytest.raises(OSError, match="no such name"):
            await names.find("a", 7080)
        again = asyncio.ensure_future(names.find("a", 7080))
        await asyncio.sleep(0.001)
        loop.asked[1].set_result([])
        assert await again == []

    _play(story)
