"""Where words go: data to stdout, everything else to stderr; redrawn on a terminal, one line a change elsewhere."""

import sys
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status


def say(text: str) -> None:
    """Data."""
    print(text, flush=True)


def note(text: str) -> None:
    """Progress, warnings and what is not there."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """One line that changes: a spinner on a terminal, else a line with the time for each change."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._status: Status | None = None
        self._last = ""

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status = self._console.status("")
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self, text: str) -> None:
        if text == self._last:
            return
        self._last = text
        if self._status is not None:
            self._status.update(text.replace("[", "\\["))
        else:
            note(f"{datetime.now(UTC):%H:%M:%S} {text}")
