"""A data directory on a real file system: appends, syncs and atomic replacement, and nothing that is memory-mapped.

A mapped file turns a full disk into SIGBUS; here every failure is an OSError with a name.
"""

import errno
import fcntl
import os
from pathlib import Path

from raft.errors import StartRefused

_LOCK = "lock"
_AHEAD_BYTES = 256 * 1024
_SMALL_BYTES = _AHEAD_BYTES // 16
"""To write zeros first would cost a longer append more than it saves."""


class AppendFile:
    """`contract.File` on a descriptor.

    One that is written on after a sync will be written on again: it is given zeros ahead, which later appends overwrite. A sync that finds
    the file as long as before has no metadata to make durable, and takes two thirds of the time.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self._ahead = size
        """Up to here the file has its length already."""
        self._synced = False

    def append(self, data: bytes) -> None:
        end, start = self._size + len(data), self._size
        grows = self._synced and end > self._ahead and len(data) <= _SMALL_BYTES
        view = memoryview(data + bytes(_AHEAD_BYTES) if grows else data)
        while self._size < end:
            written = os.pwrite(self._descriptor, view[self._size - start :], self._size)
            if written == 0:
                raise OSError(errno.EIO, "the file system accepted no byte")
            self._size += written
        self._ahead, self._size = max(self._ahead, self._size), end

    def sync(self) -> None:
        os.fdatasync(self._descriptor)
        self._synced = True

    def size(self) -> int:
        return self._size

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class FileDisk:
    """`contract.Disk` on a directory that this process alone may use. StartRefused where another one does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        missing = [place for place in (path, *path.parents) if not place.exists()]
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for made in missing:
            _sync_directory(made.parent)
        self._lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise StartRefused(f"another process uses the data directory {path}; stop it or give this one another --data-dir") from error
        self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def list(self) -> list[str]:
        return sorted(entry.name for entry in os.scandir(self._path) if entry.is_file(follow_symlinks=False) and entry.name != _LOCK)

    def read(self, name: str) -> bytes:
        descriptor = self._open(name, os.O_RDONLY)
        with os.fdopen(descriptor, "rb") as file:
            return file.read()

    def open_append(self, name: str, *, truncate_to: int | None = None) -> AppendFile:
        descriptor = self._open(name, os.O_WRONLY | os.O_CREAT)
        try:
            size = os.fstat(descriptor).st_size
            if truncate_to is not None and truncate_to < size:
                os.ftruncate(descriptor, truncate_to)
                os.fsync(descriptor)
                size = truncate_to
        except OSError:
            os.close(descriptor)
            raise
        return AppendFile(descriptor, size)

    def replace(self, source: str, target: str) -> None:
        os.replace(source, target, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        self.sync_directory()

    def remove(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._directory)
        except FileNotFoundError:
            return

    def sync_directory(self) -> None:
        os.fsync(self._directory)

    def close(self) -> None:
        """Give the directory up. Idempotent."""
        for descriptor in (self._directory, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._directory = self._lock = -1

    def _open(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=self._directory)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
