"""Turns: who asks while many do waits a round of the event loop or two, in order, and nobody is forgotten."""

import asyncio
from typing import Any, cast

from kago.server.gate import TURNS, Turns


class Waiting:
    def __init__(self, number: int, begun: list[tuple[int, int]], rounds: list[int]) -> None:
        self.loop = asyncio.get_running_loop()
        self._number, self._begun, self._rounds = number, begun, rounds

    def go_on(self) -> None:
        self._begun.append((self._rounds[0], self._number))


def test_only_so_many_requests_begin_in_one_round_of_the_loop() -> None:
    async def story() -> None:
        turns, begun, rounds = Turns(), cast(list[tuple[int, int]], []), [0]
        loop = asyncio.get_running_loop()

        def count() -> None:
            rounds[0] += 1
            loop.call_soon(count)

        loop.call_soon(count)
        for burst in (3, 5 * TURNS + 3, 1):
            begun.clear()
            for number in range(burst):
                waiting = Waiting(number, begun, rounds)
                if turns.take(cast(Any, waiting)):
                    waiting.go_on()
            for _ in range(10):
                await asyncio.sleep(0)
            assert [number for _, number in begun] == list(range(burst))
            by_round = [sum(at == round for at, _ in begun) for round in {at for at, _ in begun}]
            assert max(by_round) <= TURNS

    asyncio.run(story())
