"""What an agent must know after it was killed, in one small file: who it is, which masters and which pods it last saw.

The file is replaced as a whole (write, fsync, rename, fsync of the directory), so a crash leaves the old one or the new one. It
is written when something changed that a later decision rests on, never for a mere heartbeat.
"""

import fcntl
import os
import uuid
from pathlib import Path
from typing import Self

import msgspec
from msgspec import Struct

from kago.agent.plan import Record
from kago.core.model.deployment import Runtime
from kago.core.model.pod import Pod

FORMAT = 1
FILE = "agent.json"
LOCK = "lock"


class DataDirError(Exception):
    """The data directory cannot be used; the text says what to do."""


class Notes(Struct, frozen=True, kw_only=True):
    format: int = FORMAT
    agent_id: str
    """Made once; the node's identity."""
    incarnation: int = 0
    """Counts the agent's starts."""
    superseded: bool = False
    """Another agent runs under this identity: only over a silent one does this one begin a new life."""
    cluster_id: str = ""
    masters: tuple[str, ...] = ()
    """Learned from the cluster; never emptied."""
    removed_servers: dict[str, int] = {}
    """Whose certificates of before these log indexes count no more."""
    epoch: int = 0
    """The highest seen: a master that knows only an earlier leader is not believed."""
    index: int = 0
    """Log index of the newest view of this node's pods that was taken over; an older view is not."""
    runtimes: tuple[Runtime, ...] = ()
    """Offered before: an engine that is down when the agent starts is waited for."""
    pods: tuple[Pod, ...] = ()
    records: dict[str, Record] = {}


class Notebook:
    """The data directory of one running agent; locked, so that two never share an identity."""

    def __init__(self, data_dir: Path) -> None:
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(data_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataDirError(f"cannot use data directory {data_dir}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise DataDirError(f"another agent runs with data directory {data_dir}; stop it or give this one its own --data-dir") from error
        self.data_dir = data_dir
        try:
            self._saved = self._read()
            self.notes = msgspec.structs.replace(self._saved, incarnation=self._saved.incarnation + (not self._saved.superseded))
            """What is known now; on disk after the next `flush`."""
            self.flush()
        except OSError as error:
            os.close(self._lock)
            raise DataDirError(f"cannot write {data_dir / FILE}: {error.strerror}") from error
        except BaseException:
            os.close(self._lock)
            raise

    @property
    def saved(self) -> bool:
        """Whether `notes` is what is on disk."""
        return self.notes is self._saved

    def flush(self) -> None:
        """Returns when the notes are on disk, at once where they are. Blocking; one caller at a time."""
        notes = self.notes
        if self.saved:
            return
        path, fresh = self.data_dir / FILE, self.data_dir / f"{FILE}.new"
        with open(fresh, "wb", opener=_private) as file:
            file.write(msgspec.json.encode(notes))
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
        directory = os.open(self.data_dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self._saved = notes

    def close(self) -> None:
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> Notes:
        path = self.data_dir / FILE
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return Notes(agent_id=str(uuid.uuid4()))
        except OSError as error:
            raise DataDirError(f"cannot read {path}: {error.strerror}") from error
        try:
            version = msgspec.json.decode(content, type=_Format).format
            if version > FORMAT:
                raise DataDirError(f"{path} was written by a newer Kago (format {version}, this one knows {FORMAT})")
            return msgspec.json.decode(content, type=Notes)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            # made up anew it would be another node: its containers would belong to nobody
            raise DataDirError(f"{path} is damaged ({error}); restore it, or remove it and this agent's containers by hand") from error


class _Format(Struct):
    format: int


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
