"""The two clocks, as something that can be handed in: production, tests and simulation differ only here."""

import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the epoch; may jump. For time stamps people read, never for time-outs."""

    def monotonic(self) -> float:
        """Seconds, never going back. For every wait and deadline."""


class SystemClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()
