"""A data directory in memory that can die after any byte, fill up after any byte and lose power, for the tests of what is on disk."""

import errno
from collections.abc import Iterator

Image = dict[str, bytes]


class Died(BaseException):
    """The process is gone; nothing catches this."""


class Inode:
    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.durable = bytes(data)

    def survivors(self, stride: int) -> Iterator[bytes]:
        """What power loss may leave: everything, only what was synced, a part of the rest, or the rest with a hole in it."""
        yield bytes(self.data)
        if bytes(self.data) == self.durable:
            return
        yield self.durable
        if bytes(self.data[: len(self.durable)]) == self.durable:
            for at in range(len(self.durable), len(self.data), stride):
                yield bytes(self.data[:at])
                yield bytes(self.data[:at]) + bytes(len(self.data[at : at + 5])) + bytes(self.data[at + 5 :])
                yield self.durable + bytes(at - len(self.durable)) + bytes(self.data[at:])


class MemoryFile:
    def __init__(self, disk: "MemoryDisk", inode: Inode) -> None:
        self._disk = disk
        self._inode = inode

    def append(self, data: bytes) -> None:
        disk, taken = self._disk, data
        disk.appends += 1
        if disk.room is not None:
            taken = data[: disk.room]
            disk.room -= len(taken)
        if disk.life is not None and disk.life < len(taken):
            self._inode.data += taken[: disk.life]
            disk.life = 0
            raise Died
        if disk.life is not None:
            disk.life -= len(taken)
        self._inode.data += taken
        if len(taken) < len(data):
            raise OSError(errno.ENOSPC, "no space left on device")

    def sync(self) -> None:
        self._disk.step()
        self._disk.syncs += 1
        if self._disk.failing:
            raise OSError(errno.EIO, "input/output error")
        self._inode.durable = bytes(self._inode.data)

    def size(self) -> int:
        return len(self._inode.data)

    def close(self) -> None:
        return


class MemoryDisk:
    """`contract.Disk`. `life`: bytes and operations until the process dies. `room`: bytes until it is full."""

    def __init__(self, files: Image | None = None) -> None:
        self._cached = {name: Inode(data) for name, data in (files or {}).items()}
        self._durable = dict(self._cached)
        self.life: int | None = None
        self.room: int | None = None
        self.failing = False
        self.failing_open = ""
        self.failing_replace = False
        self.syncs = 0
        self.appends = 0

    def step(self) -> None:
        if self.life is not None:
            if self.life == 0:
                raise Died
            self.life -= 1

    def data(self, name: str) -> bytearray:
        """For the tests to damage."""
        return self._cached[name].data

    def image(self) -> Image:
        """What the next process finds when only this one died."""
        return {name: bytes(inode.data) for name, inode in self._cached.items()}

    def after_power_loss(self, stride: int = 1) -> Iterator[Image]:
        """What may be left: either directory, and of one file at a time every kind of remainder."""
        for directory in (self._cached, self._durable):
            for name in directory:
                for left in directory[name].survivors(stride):
                    yield {other: inode.durable for other, inode in directory.items()} | {name: left}
            if not directory:
                yield {}

    def list(self) -> list[str]:
        return sorted(self._cached)

    def read(self, name: str) -> bytes:
        if name not in self._cached:
            raise FileNotFoundError(name)
        return bytes(self._cached[name].data)

    def open_append(self, name: str, *, truncate_to: int | None = None) -> MemoryFile:
        self.step()
        if name == self.failing_open:
            raise OSError(errno.EMFILE, "too many open files")
        inode = self._cached.setdefault(name, Inode())
        if truncate_to is not None and truncate_to < len(inode.data):
            del inode.data[truncate_to:]
            self.step()
            inode.durable = bytes(inode.data)
        return MemoryFile(self, inode)

    def replace(self, source: str, target: str) -> None:
        self.step()
        self._cached[target] = self._cached.pop(source)
        if self.failing_replace:
            raise OSError(errno.EIO, "input/output error")
        self.sync_directory()

    def remove(self, name: str) -> None:
        self.step()
        self._cached.pop(name, None)

    def sync_directory(self) -> None:
        self.step()
        self._durable = dict(self._cached)
