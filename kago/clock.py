"""The two clocks, as something that can be handed in: production, tests and simulation differ only here."""

import time
from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache
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


@lru_cache(maxsize=4)
def http_date(second: int) -> str:
    """As HTTP writes it: what is sent many times a second."""
    return formatdate(second, usegmt=True)


@lru_cache(maxsize=64)
def seconds_of(date: str) -> float:
    """Of an HTTP date; what comes in many times a second is the same from all whose clocks are right. ValueError, OverflowError."""
    return parsedate_to_datetime(date).timestamp()
