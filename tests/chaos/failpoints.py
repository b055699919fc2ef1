"""Named places in a running server or agent at which it can be killed, made to fail or made to wait.

Nothing in `kago` or `raft` knows of them: `install` wraps the seams that are there (disk, wire, state machine, notes, runtimes), in the
process that `tests.chaos.process` starts and only where the environment says KAGO_FAILPOINT. Its value is `name:count:action`: at the
`count`th time the process comes to the place it does

    exit        kill -9 of itself
    error       an OSError (EIO) in place of what would have come next
    delay=S     sleeps S seconds

or `@FILE`, a file that holds such a line or nothing and is read again whenever it changes. FILE.hit gets a line for each place when it
is come to for the first time, FILE.fired one for each action.
"""

import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

POLL_S = 0.02

_FILES = {
    "journal": "journal",
    "journal.new": "compaction",
    "snapshot.writing": "snapshot",
    "snapshot.incoming": "incoming",
    "identity.tmp": "identity",
}
"""What the files of a server's data directory are called here."""
_MESSAGES = {
    "AppendEntries": "entries",
    "Ack": "ack",
    "RequestVote": "ask-vote",
    "Vote": "vote",
    "Submit": "proposals",
    "SnapshotChunk": "snapshot-piece",
}


def _both(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}.{side}" for name in names for side in ("before", "after"))


def _replaced(*names: str) -> tuple[str, ...]:
    """A file written, synced and renamed. After the rename is before the sync of the directory: one place, one name."""
    return tuple(
        place
        for name in names
        for place in (*_both(f"{name}.write", f"{name}.sync"), f"{name}.rename.before", *_both(f"{name}.directory-sync"))
    )


SERVER = (
    *_both("journal.write", "journal.sync"),
    "journal.write.half",
    *_replaced("compaction", "snapshot", "incoming", "identity"),
    *_both("snapshot.remove"),
    *_both(*(f"send.{name}" for name in _MESSAGES.values())),
    *_both("receive.entries", "receive.ack", "receive.proposals", "receive.snapshot-piece"),
    *_both("apply", "propose", "append", "hand-over", "snapshot.begin", "snapshot.adopt", "restore"),
)
AGENT = (*_replaced("notes"), *_both("register", "heartbeat"))
PROCESS = _both("process.spawn", "process.record", "process.go", "process.signal", "process.erase")
DOCKER = _both("docker.create", "docker.start", "docker.signal", "docker.remove", "docker.pull")
ALL = (*SERVER, *AGENT, *PROCESS, *DOCKER)


class _Armed:
    def __init__(self, line: str) -> None:
        """`name:count:action`; ValueError."""
        self.name, count, self.action = line.split(":")
        self.left = int(count)
        if self.name not in ALL:
            raise ValueError(f"there is no failpoint {self.name}")
        if self.left < 1 or not (self.action in ("exit", "error") or self.action.startswith("delay=")):
            raise ValueError(f"not name:count:action (exit, error or delay=SECONDS): {line}")


class Failpoints:
    """Those of this process."""

    def __init__(self, setting: str) -> None:
        self._file = Path(setting[1:]) if setting.startswith("@") else None
        self._armed: _Armed | None = None if self._file else _Armed(setting)
        self._hit: set[str] = set()
        self._line = ""
        if self._file is not None:
            self._read()
            threading.Thread(target=self._follow, name="failpoints", daemon=True).start()

    def hit(self, name: str) -> None:
        """The process has come to that place."""
        if name not in self._hit:
            self._hit.add(name)
            self._note("hit", name)
        armed = self._armed
        if armed is None or armed.name != name:
            return
        armed.left -= 1
        if armed.left:
            return
        self._armed = None
        self._note("fired", name)
        if armed.action == "exit":
            os.kill(os.getpid(), signal.SIGKILL)
        elif armed.action == "error":
            raise OSError(errno.EIO, f"failpoint {name}")
        else:
            time.sleep(float(armed.action.removeprefix("delay=")))

    def waits_at(self, name: str) -> bool:
        """Whether the next coming to that place is the one."""
        return self._armed is not None and self._armed.name == name and self._armed.left == 1

    def _note(self, kind: str, name: str) -> None:
        if self._file is not None:
            with open(f"{self._file}.{kind}", "a") as file:  # in the page cache at once: a kill does not take it back
                file.write(f"{name}\n")

    def _read(self) -> None:
        assert self._file is not None
        try:
            line = self._file.read_text().strip()
        except FileNotFoundError:
            line = ""
        if line != self._line:
            self._line = line
            self._armed = _Armed(line) if line else None

    def _follow(self) -> None:
        while True:
            time.sleep(POLL_S)
            self._read()


Name = str | Callable[..., str | None]


def around(owner: Any, method: str, points: Failpoints, name: Name) -> None:
    """Come to `name`.before and `name`.after around each call of a method; `name` may be a function of its arguments, None for no place."""
    original = getattr(owner, method)

    def wrapped(*args: Any, **named: Any) -> Any:
        place = name if isinstance(name, str) else name(*args, **named)
        if place is None:
            return original(*args, **named)
        points.hit(f"{place}.before")
        result = original(*args, **named)
        points.hit(f"{place}.after")
        return result

    setattr(owner, method, wrapped)


def around_async(owner: Any, method: str, points: Failpoints, name: str) -> None:
    original = getattr(owner, method)

    async def wrapped(*args: Any, **named: Any) -> Any:
        points.hit(f"{name}.before")
        result = await original(*args, **named)
        points.hit(f"{name}.after")
        return result

    setattr(owner, method, wrapped)


def file_part(name: str) -> str | None:
    """What a file of a server's data directory is called here."""
    return _FILES.get(name)


def message_part(message: object) -> str | None:
    return _MESSAGES.get(type(message).__name__)


__all__ = ["AGENT", "ALL", "DOCKER", "PROCESS", "SERVER", "Failpoints", "around", "around_async", "file_part", "message_part"]
