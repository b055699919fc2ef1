"""A data directory in memory that can die after any byte and fill up after any byte, for the tests of what is on disk."""

import errno


class Died(BaseException):
    """The process is gone; nothing catches this."""


class MemoryFile:
    def __init__(self, disk: "MemoryDisk", data: bytearray) -> None:
        self._disk = disk
        self._data = data

    def append(self, data: bytes) -> None:
        taken = data
        if self._disk.room is not None:
            taken = data[: self._disk.room]
            self._disk.room -= len(taken)
        if self._disk.life is not None and self._disk.life < len(taken):
            self._data += taken[: self._disk.life]
            self._disk.life = 0
            raise Died
        if self._disk.life is not None:
            self._disk.life -= len(taken)
        self._data += taken
        if len(taken) < len(data):
            raise OSError(errno.ENOSPC, "no space left on device")

    def sync(self) -> None:
        self._disk.step()
        self._disk.syncs += 1
        if self._disk.failing:
            raise OSError(errno.EIO, "input/output error")

    def size(self) -> int:
        return len(self._data)

    def close(self) -> None:
        return


class MemoryDisk:
    """`contract.Disk`. `life`: bytes and operations until the process dies. `room`: bytes until it is full."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = {name: bytearray(data) for name, data in (files or {}).items()}
        self.life: int | None = None
        self.room: int | None = None
        self.failing = False
        self.syncs = 0

    def step(self) -> None:
        if self.life is not None:
            if self.life == 0:
                raise Died
            self.life -= 1

    def image(self) -> dict[str, bytes]:
        return {name: bytes(data) for name, data in self.files.items()}

    def list(self) -> list[str]:
        return sorted(self.files)

    def read(self, name: str) -> bytes:
        if name not in self.files:
            raise FileNotFoundError(name)
        return bytes(self.files[name])

    def open_append(self, name: str, *, truncate_to: int | None = None) -> MemoryFile:
        self.step()
        data = self.files.setdefault(name, bytearray())
        if truncate_to is not None:
            del data[truncate_to:]
        return MemoryFile(self, data)

    def replace(self, source: str, target: str) -> None:
        self.step()
        self.files[target] = self.files.pop(source)
        self.step()

    def remove(self, name: str) -> None:
        self.step()
        self.files.pop(name, None)

    def sync_directory(self) -> None:
        self.step()
