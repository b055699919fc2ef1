"""A disk that forgets: what was written, what was synced, and what is left of it after a kill -9 or a power loss.

A `Platter` is the hardware and outlives processes; a `SimDisk` is one process's open door to it (`contract.Disk`) and is dead once that
process is. Append-only files make the platter's contents a prefix of the page cache's: `Inode.synced` bytes are safe, the rest is a lottery
for each page.
"""

import errno
from collections.abc import Callable
from random import Random

PAGE = 4096
SECTOR = 512


class SimCrash(BaseException):
    """The process is gone from this instant on; not an Exception, so that no handler of the code under test can outlive its own death."""


class Inode:
    __slots__ = ("ahead", "cut_tail", "data", "marks", "synced")

    def __init__(self) -> None:
        self.data = bytearray()
        self.synced = 0
        self.cut_tail = b""
        """Bytes cut off by a truncation that has not reached the platter yet."""
        self.ahead = False
        """Whether zeros stand behind what was appended, as the real disk puts them there once it is appended to after a sync."""
        self.marks: list[int] = []
        """Sizes at which syncs ended: what lies before the last but one cannot be mistaken for a torn tail."""

    def platter(self) -> bytes:
        return bytes(self.data[: self.synced]) + self.cut_tail

    def settle(self) -> None:
        """Everything cached is on the platter now."""
        if self.synced != len(self.data):
            self.synced = len(self.data)
            self.marks.append(self.synced)
        self.cut_tail = b""

    def lose_power(self, chance: Random) -> None:
        """What is left of the unsynced part: each page kept, zeroed or full of garbage; the size may lag; the last sector may be torn."""
        if self.cut_tail:
            if chance.random() < 0.5:
                del self.data[self.synced :]
                self.data += self.cut_tail
            self.cut_tail = b""
            self.synced = min(self.synced, len(self.data))
        start, end = self.synced, len(self.data)
        if end > start and chance.random() < 0.5:
            end = chance.randrange(start, end + 1)
        del self.data[end:]
        at = start
        while at < end:
            until = min(end, (at // PAGE + 1) * PAGE)
            fate = chance.random()
            if fate < 0.35:
                self.data[at:until] = bytes(until - at)
            elif fate < 0.45:
                self.data[at:until] = chance.randbytes(until - at)
            elif fate < 0.55 and until - at > SECTOR:
                torn = at + SECTOR * chance.randrange(1, (until - at + SECTOR - 1) // SECTOR)
                self.data[torn:until] = bytes(until - torn)
            at = until
        self.settle()


class Platter:
    """The files of one machine. `on_sync(name)` tells an observer that something became durable."""

    def __init__(self, name: str, chance: Random, log: Callable[..., None]) -> None:
        self.name = name
        self.log = log
        self.cached: dict[str, Inode] = {}
        self.durable: dict[str, Inode] = {}
        self.renames: list[tuple[str, str | None, Inode | None]] = []
        """Directory changes not yet durable: (name, its former name or None, inode or None for a removal)."""
        self.lost: dict[str, Inode] = {}
        """What was durable on the disk before this one, or before a bit was flipped; answers given on its strength may be under way."""
        self.operations = 0
        self.crash_at: int | None = None
        self.free_bytes: int | None = None
        self.fail_sync = False
        self.chance = chance

    def wipe(self) -> None:
        self.lost = dict(self.durable) | self.lost
        self.cached.clear()
        self.durable.clear()
        self.renames.clear()

    def sync_directory(self) -> None:
        self.durable = dict(self.cached)
        self.renames.clear()

    def write_back(self) -> None:
        """The kernel writes dirty pages by itself every few seconds."""
        for inode in self.cached.values():
            inode.settle()
        self.sync_directory()

    def lose_power(self) -> None:
        """Directory changes survive up to a point (a journalling file system) or one by one (any other), then files lose pages."""
        chance, survivors = self.chance, dict(self.durable)
        ordered = chance.random() < 0.5
        kept = chance.randrange(len(self.renames) + 1)
        for i, (name, former, inode) in enumerate(self.renames):
            if (i < kept) if ordered else (chance.random() < 0.5):
                if former is not None:
                    survivors.pop(former, None)
                if inode is None:
                    survivors.pop(name, None)
                else:
                    survivors[name] = inode
        for name in sorted(survivors):
            survivors[name].lose_power(chance)
        self.cached = survivors
        self.sync_directory()

    def flip_bit(self, chance: Random) -> str | None:
        """Damage one byte that no crash can have damaged, in a file of a stopped replica; its name, None where there is no such byte."""
        names = [n for n in sorted(self.cached) if len(self.cached[n].marks) > 2 and self.cached[n].marks[-2] > 0]
        if not names:
            return None
        name = chance.choice(names)
        inode, whole = self.cached[name], Inode()
        whole.data, whole.synced = bytearray(inode.data), inode.synced
        self.lost[name] = whole
        at = chance.randrange(min(inode.marks[-2], len(inode.data)))
        inode.data[at] ^= 1 << chance.randrange(8)
        self.log("flip", self.name, name, at)
        return name


class SimFile:
    def __init__(self, disk: "SimDisk", inode: Inode) -> None:
        self._disk = disk
        self._inode = inode
        self._closed = self._synced = False

    def append(self, data: bytes) -> None:
        if self._closed:
            raise ValueError("append to a closed file")
        self._inode.ahead = self._inode.ahead or self._synced
        self._disk.operate("append", lambda part: self._write(data[:part]), len(data))
        platter = self._disk.platter
        if platter.free_bytes is not None:
            if len(data) > platter.free_bytes:
                self._write(data[: platter.free_bytes])
                platter.free_bytes = 0
                raise OSError(errno.ENOSPC, "No space left on device")
            platter.free_bytes -= len(data)
        self._disk.distrust(self._inode)
        self._write(data)

    def _write(self, data: bytes) -> None:
        self._inode.data += data

    def sync(self) -> None:
        self._disk.operate("sync")
        if self._disk.platter.fail_sync:
            self._disk.distrust(self._inode)
            self._disk.failed.append(self._inode)
            raise OSError(errno.EIO, "Input/output error")
        self._disk.distrust(self._inode)
        self._inode.settle()
        self._synced = True
        self._disk.platter.log("sync", self._disk.platter.name, self._inode.synced)

    def size(self) -> int:
        return len(self._inode.data)

    def close(self) -> None:
        self._closed = True


class SimDisk:
    """One process's view of its platter: `contract.Disk`. `dead` once the process is; each operation may be the last one."""

    def __init__(self, platter: Platter) -> None:
        self.platter = platter
        self.dead = False
        self.failed: list[Inode] = []
        """Files whose sync failed: their pages may be gone, so this process must not rely on them again."""
        self.used_after_failure = False
        """One of them was written, synced or renamed nevertheless."""
        self.read_names: set[str] = set()

    def operate(self, what: str, tear: Callable[[int], None] | None = None, size: int = 0) -> None:
        """Count one operation; die here if this is the one chosen, for an append after any part of it."""
        if self.dead:
            raise SimCrash
        platter = self.platter
        platter.operations += 1
        if platter.crash_at is not None and platter.operations >= platter.crash_at:
            self.dead = True
            platter.crash_at = None
            if tear is not None and size:
                tear(platter.chance.randrange(size + 1))
            platter.log("crash-at", platter.name, what)
            raise SimCrash

    def distrust(self, inode: Inode) -> None:
        self.used_after_failure = self.used_after_failure or any(inode is failed for failed in self.failed)

    def list(self) -> list[str]:
        return sorted(self.platter.cached)

    def read(self, name: str) -> bytes:
        if self.dead:
            raise SimCrash
        if name not in self.platter.cached:
            raise FileNotFoundError(errno.ENOENT, "No such file", name)
        self.read_names.add(name)
        inode = self.platter.cached[name]
        return bytes(inode.data) + bytes(PAGE * inode.ahead)

    def open_append(self, name: str, *, truncate_to: int | None = None) -> SimFile:
        self.operate("open")
        platter = self.platter
        inode = platter.cached.get(name)
        if inode is None:
            inode = platter.cached[name] = Inode()
            platter.renames.append((name, None, inode))
        if inode.ahead and truncate_to is not None:
            inode.data += bytes(max(0, truncate_to - len(inode.data)))  # a record torn within the zeros it ends in is whole
            inode.ahead = False
        if truncate_to is not None and truncate_to < len(inode.data):
            inode.cut_tail = bytes(inode.data[truncate_to : inode.synced])
            del inode.data[truncate_to:]
            inode.synced = min(inode.synced, truncate_to)
            inode.marks = [m for m in inode.marks if m <= truncate_to]
            self.operate("sync-truncated")
            inode.settle()
        return SimFile(self, inode)

    def replace(self, source: str, target: str) -> None:
        self.operate("rename")
        platter = self.platter
        if source not in platter.cached:
            raise FileNotFoundError(errno.ENOENT, "No such file", source)
        inode = platter.cached.pop(source)
        self.distrust(inode)
        platter.cached[target] = inode
        platter.renames.append((target, source, inode))
        self.sync_directory()
        platter.log("replaced", platter.name, target)

    def remove(self, name: str) -> None:
        self.operate("remove")
        if self.platter.cached.pop(name, None) is not None:
            self.platter.renames.append((name, None, None))

    def sync_directory(self) -> None:
        self.operate("sync-directory")
        self.platter.sync_directory()
