"""The disk of a worker node, on which the agent's notes are: it forgets what was not synced, as the servers' disks do.

`kago.agent.notes` writes with the functions of the `os` module; for the length of a run it has others of the same names, that work on
platters. Each operation may be the last one of its process.
"""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from kago.agent import notes
from tests.simulation.disk import Inode, Platter, SimCrash

FIRST_DESCRIPTOR = 1_000_000
"""Beyond any of the real ones."""


class NotesDir:
    """A path as the notes use one: a node's data directory, or a file in it."""

    def __init__(self, platter: Platter, name: str = "") -> None:
        self.platter = platter
        self.name = name

    def __truediv__(self, name: str) -> "NotesDir":
        return NotesDir(self.platter, name)

    def __str__(self) -> str:
        return f"{self.platter.name}/{self.name}"

    def mkdir(self, **_: Any) -> None:
        """It is always there."""

    def read_bytes(self) -> bytes:
        operate(self.platter, "read")
        if self.name not in self.platter.cached:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(self))
        return bytes(self.platter.cached[self.name].data)


def put(platter: Platter, name: str, content: bytes) -> None:
    """Somebody writes a file of a stopped agent, and sees to it that it is safe there."""
    inode = platter.cached[name] = Inode()
    inode.data += content
    platter.write_back()


def operate(platter: Platter, what: str, tear: Callable[[int], None] | None = None, size: int = 0) -> None:
    """Count one operation; the process dies here if this is the one chosen, of a write after any part of it."""
    platter.operations += 1
    if platter.crash_at is not None and platter.operations >= platter.crash_at:
        platter.crash_at = None
        if tear is not None and size:
            tear(platter.chance.randrange(size + 1))
        platter.log("crash-at", platter.name, what)
        raise SimCrash


class _Writing:
    """A file opened to be written anew."""

    def __init__(self, system: "System", path: NotesDir) -> None:
        operate(path.platter, "open")
        self._path = path
        self._inode = path.platter.cached[path.name] = Inode()
        path.platter.renames.append((path.name, None, self._inode))
        self._descriptor = system.describe(path.platter, self._inode)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def write(self, content: bytes) -> None:
        data = self._inode.data
        operate(self._path.platter, "write", lambda part: data.extend(content[:part]), len(content))
        data.extend(content)

    def flush(self) -> None:
        """Nothing is kept back."""

    def fileno(self) -> int:
        return self._descriptor


class System:
    """As much of the `os` and `fcntl` modules as the notes ask for."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[Platter, Inode | None]] = {}
        self._locked: dict[Platter, int] = {}
        self._made = FIRST_DESCRIPTOR

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def describe(self, platter: Platter, inode: Inode | None) -> int:
        self._made += 1
        self._open[self._made] = platter, inode
        return self._made

    def opened(self, path: NotesDir, mode: str, *, opener: object) -> _Writing:
        return _Writing(self, path)

    def open(self, path: NotesDir, flags: int, mode: int = 0) -> int:
        return self.describe(path.platter, None)

    def close(self, descriptor: int) -> None:
        platter, _ = self._open.pop(descriptor)
        if self._locked.get(platter) == descriptor:
            del self._locked[platter]

    def flock(self, descriptor: int, operation: int) -> None:
        platter, _ = self._open[descriptor]
        if platter in self._locked:
            raise BlockingIOError(errno.EAGAIN, "locked")
        self._locked[platter] = descriptor

    def fsync(self, descriptor: int) -> None:
        platter, inode = self._open[descriptor]
        if inode is None:
            self.sync_directory(platter)
        else:
            self.sync_file(platter, inode)

    def sync_file(self, platter: Platter, inode: Inode) -> None:
        operate(platter, "sync")
        inode.settle()

    def sync_directory(self, platter: Platter) -> None:
        operate(platter, "sync-directory")
        platter.sync_directory()

    def replace(self, source: NotesDir, target: NotesDir) -> None:
        platter = source.platter
        operate(platter, "rename")
        inode = platter.cached.pop(source.name)
        platter.cached[target.name] = inode
        platter.renames.append((target.name, source.name, inode))


@contextmanager
def forgetful_disks() -> Iterator[None]:
    """The notes of all agents are written to platters."""
    system, names = System(), vars(notes)
    names.update(os=system, fcntl=_Locks(system), open=system.opened)
    try:
        yield
    finally:
        names.update(os=os, fcntl=fcntl)
        del names["open"]


class _Locks:
    LOCK_EX, LOCK_NB = fcntl.LOCK_EX, fcntl.LOCK_NB

    def __init__(self, system: System) -> None:
        self.flock = system.flock
