"""The log, the term and the vote of one replica, in one append-only file.

The file is a magic word and then groups of records; one group is what one sync made durable. A record is

    payload length u32 · checksum u32 · payload (its first byte the type)

little-endian; the checksum is CRC-32 over the payload, seeded with the record's own offset, so that a record that stands elsewhere
than it was written does not pass for one. Each group begins with a MARK that says up to which offset the file was durable before
the group was written. That is what tells damage from a crash: power loss can leave anything behind in the one group that was never
synced, hence a bad record is cut off with all that follows, unless a later mark claims that the place was durable before: then
somebody has read or answered for what stood there, and the file is refused.

So the last group of all is taken at its word: damage to it cannot be told from a crash. To keep that window small a mark of its own
follows within a second where no other group does (`onOneSecondTimer`), and when the journal is closed in order.

Nothing is rewritten in place. A truncation is a record; compaction writes a new file and renames it over the old one. Zeros behind the last
record, which the disk puts there, are no record, and are cut off with whatever a crash left.
"""

import errno
import logging
import struct
import zlib
from typing import Any, Protocol

from raft.contract import Disk
from raft.errors import Corrupt, StartRefused

_logger = logging.getLogger(__name__)
MAGIC = b"KAGOJNL1"
_HEAD = struct.Struct("<II")
_MARK = struct.Struct("<cQ")
_ENTRY = struct.Struct("<cQQ")
_CUT = struct.Struct("<cQ")
_BALLOT = struct.Struct("<cQ")
_FRESH = ".new"
_LONGEST = 16 * 1024 * 1024
"""No record is longer; a length beyond it is damage, not a length."""

LogEntry = tuple[bytes, int, int]
"""(command, index, term), as PySyncObj keeps them."""


class Watcher(Protocol):
    """Told of what happens to the log, as it happens."""

    def added(self, command: bytes, index: int) -> None: ...
    def cut(self, index: int) -> None:
        """Nothing from `index` on is there any more."""

    def cleared(self) -> None: ...


class Journal:
    """PySyncObj's journal interface (its names), plus `dirty` and `sync`.

    `snapshot` are the last two entries that the newest snapshot holds; `must_exist` says that this data directory had a journal before.
    Corrupt or StartRefused where what is on disk would lose what was acknowledged.
    """

    def __init__(
        self,
        disk: Disk,
        *,
        name: str = "journal",
        snapshot: tuple[LogEntry, LogEntry] | None = None,
        must_exist: bool = False,
        ablate: frozenset[str] = frozenset(),
    ) -> None:
        self._disk = disk
        self._name = name
        self._ablate = ablate
        self._log: list[LogEntry] = []
        self._term = 0
        self._vote: str | None = None
        self._pending: list[bytes] = []
        self._failed: OSError | None = None
        self._closed = False
        self.watcher: Watcher | None = None
        self._unvouched = False
        """Whether something stands in the file that no mark claims to be durable."""
        disk.remove(name + _FRESH)
        data = self._read(must_exist or snapshot is not None)
        good = self._replay(data)
        self._file = disk.open_append(name, truncate_to=good)
        self._end = good
        if good == 0:
            self._append_raw(MAGIC)
            disk.sync_directory()
        else:
            # What a killed process wrote may still be in the page cache only, and from here on it is answered for.
            self._file.sync()
        self._align(snapshot)
        self._base = self._end - sum(len(entry[0]) for entry in self._log)
        self.sync()

    # -- opening ---------------------------------------------------------------------------------------------------

    def _read(self, must_exist: bool) -> bytes:
        try:
            data = self._disk.read(self._name)
        except FileNotFoundError:
            data = b""
        if data.startswith(MAGIC):
            return data
        if len(data) > len(MAGIC):
            raise Corrupt(f"{self._name} at offset 0: this is no journal, or one of a version unknown here. {_REJOIN}")
        if must_exist:
            raise Corrupt(f"{self._name} is missing or empty, and what was acknowledged is lost with it. {_REJOIN}")
        return b""  # Nothing follows the magic word before that is durable, so a crash left this.

    def _replay(self, data: bytes) -> int:
        """Take in every whole record; where they end."""
        at = len(MAGIC) if data else 0
        while at < len(data):
            payload = _record(data, at)
            if payload is None:
                self._refuse_damage(data, at)
                return at
            self._take(payload, at)
            self._unvouched = payload[:1] != b"S"
            at += _HEAD.size + len(payload)
        return at

    def _take(self, payload: bytes, at: int) -> None:
        kind = payload[:1]
        if kind == b"E":
            _, index, term = _ENTRY.unpack_from(payload)
            if self._log and index != self._log[-1][1] + 1:
                raise Corrupt(f"{self._name} at offset {at}: entry {index} follows entry {self._log[-1][1]}. {_REJOIN}")
            self._log.append((payload[_ENTRY.size :], index, term))
        elif kind == b"T":
            index = _CUT.unpack(payload)[1]
            del self._log[max(0, index - self._log[0][1]) if self._log else 0 :]
        elif kind == b"C":
            self._log = []
        elif kind == b"V":
            self._term = _BALLOT.unpack_from(payload)[1]
            self._vote = payload[_BALLOT.size :].decode() or None
        elif kind != b"S":
            raise Corrupt(f"{self._name} at offset {at}: record of unknown type {kind!r}; a newer version of this program wrote it?")

    def _refuse_damage(self, data: bytes, bad: int) -> None:
        """Raise Corrupt if some later mark knew the bad place to be durable. Linear: only what has the length of a mark is looked at."""
        length = _MARK.size.to_bytes(4, "little")
        at = data.find(length, bad + 1)
        while at != -1:
            payload = _record(data, at)
            if payload is not None and payload[:1] == b"S" and _MARK.unpack(payload)[1] > bad:
                raise Corrupt(f"{self._name} at offset {bad}: damaged record with good ones behind it (at {at}). {_REJOIN}")
            at = data.find(length, at + 1)

    def _align(self, snapshot: tuple[LogEntry, LogEntry] | None) -> None:
        """Let the journal begin where the snapshot ends: PySyncObj throws a journal away that does not, acknowledged tail and all (H2)."""
        if not self._log:
            return
        first, reached = self._log[0][1], snapshot[0][1] if snapshot is not None else 1
        if first > reached:
            usable = f"of the newest usable snapshot ({snapshot[1][1]})" if snapshot is not None else "of the log: there is no snapshot"
            raise StartRefused(f"{self._name} begins at entry {first}, after the end {usable}: what lies between is lost. {_REJOIN}")
        skip = reached - first
        if snapshot is not None and "align" not in self._ablate and 0 < skip < len(self._log) - 1:
            if self._log[skip : skip + 2] == list(snapshot):
                self.deleteEntriesTo(skip)

    # -- writing ---------------------------------------------------------------------------------------------------

    @property
    def dirty(self) -> bool:
        """Whether something waits for `sync`."""
        return bool(self._pending)

    @property
    def bytes_since_compaction(self) -> int:
        """What a compaction could free."""
        return max(0, self._end - self._base)

    def sync(self) -> None:
        """Make everything added so far durable, with one write and one fdatasync. OSError is final: never try again."""
        self._check_usable()
        if not self._pending:
            return
        data, self._pending = b"".join(self._pending), []
        try:
            self._file.append(data)
            if "fsync" not in self._ablate:
                self._file.sync()
        except OSError as error:
            self._failed = error
            raise

    def _check_usable(self) -> None:
        if self._failed is not None:
            raise OSError(errno.EIO, f"{self._name} failed before: {self._failed}")

    def _append_raw(self, data: bytes) -> None:
        self._pending.append(data)
        self._end += len(data)

    def _put(self, payload: bytes) -> None:
        if len(payload) > _LONGEST:
            raise ValueError(f"a record of {len(payload)} bytes could not be read back")
        if not self._pending:
            self._mark()
        self._append_raw(_encode(payload, self._end))
        self._unvouched = True

    def _mark(self) -> None:
        """Claim that everything so far is durable; only where nothing is pending."""
        self._append_raw(_encode(_MARK.pack(b"S", self._end), self._end))
        self._unvouched = False

    def add(self, command: bytes, idx: int, term: int) -> None:
        self._put(_ENTRY.pack(b"E", idx, term) + command)
        self._log.append((command, idx, term))
        if self.watcher is not None:
            self.watcher.added(command, idx)

    def clear(self) -> None:
        self._put(b"C")
        self._log = []
        if self.watcher is not None:
            self.watcher.cleared()

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        if entryFrom < len(self._log):
            index = self._log[entryFrom][1]
            self._put(_CUT.pack(b"T", index))
            del self._log[entryFrom:]
            if self.watcher is not None:
                self.watcher.cut(index)

    def deleteEntriesTo(self, entryTo: int) -> None:
        """Compact: a new file holds the ballot and the entries from position `entryTo` on, and replaces the old one once it is durable.

        Where it cannot be written, on a full disk say, the old file stays in use, untouched: what it holds too much is skipped when it is
        opened next, and it is tried again after as much growth.
        """
        self._check_usable()
        kept, fresh = self._log[entryTo:], self._name + _FRESH
        data = self._compacted(kept)
        try:
            self._write_file(fresh, data)
        except OSError as error:
            _logger.error("%s is not compacted: %s; it goes on growing", self._name, error)
            self._disk.remove(fresh)
            self._log, self._base = kept, self._end
            return
        try:
            self._disk.replace(fresh, self._name)
            self._file.close()
            self._file = self._disk.open_append(self._name)
        except OSError as error:
            self._failed = error  # Nobody knows which of the two files will be found.
            raise
        self._log, self._pending, self._unvouched = kept, [], False
        self._end = self._base = len(data)

    def _compacted(self, kept: list[LogEntry]) -> bytes:
        parts, end = [MAGIC], len(MAGIC)
        for payload in (self._ballot(), *(_ENTRY.pack(b"E", index, term) + command for command, index, term in kept)):
            parts.append(_encode(payload, end))
            end += len(parts[-1])
        # The file gets its name when all of it is durable: any damage to it is damage, which the closing mark says.
        parts.append(_encode(_MARK.pack(b"S", end), end))
        return b"".join(parts)

    def _write_file(self, name: str, data: bytes) -> None:
        self._disk.remove(name)
        file = self._disk.open_append(name)
        try:
            file.append(data)
            file.sync()
        finally:
            file.close()

    def _ballot(self) -> bytes:
        return _BALLOT.pack(b"V", self._term) + (self._vote or "").encode()

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        if (term, votedForNodeId) != (self._term, self._vote):
            self._term, self._vote = term, votedForNodeId
            self._put(self._ballot())

    # -- reading ---------------------------------------------------------------------------------------------------

    def __getitem__(self, item: Any) -> Any:
        return self._log[item]

    def __len__(self) -> int:
        return len(self._log)

    def getCurrentTerm(self) -> int:
        return self._term

    def getVotedForNodeId(self) -> str | None:
        return self._vote

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Not kept: it is found again from the leader, and one that is too high is dangerous."""

    def getRaftCommitIndex(self) -> int:
        return 1

    def onOneSecondTimer(self) -> None:
        """Vouch for the last group where no other follows it."""
        if self._unvouched and not self._pending:
            self._mark()

    def close(self) -> None:
        """Vouch for what was synced; what was not, nobody has answered for. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._failed is None and self._unvouched and not self._pending:
                self._mark()
                self.sync()
        except OSError as error:
            _logger.error("%s is closed without its last mark: %s", self._name, error)
        finally:
            self._file.close()

    def _destroy(self) -> None:
        self.close()


_REJOIN = (
    "If the other servers are well, empty the data directory and start this one with --rejoin: it gets everything back from them. "
    "Where there are no others, restore the directory from a copy"
)


def _checksum(payload: bytes, offset: int) -> int:
    return zlib.crc32(payload, (offset ^ offset >> 32) & 0xFFFFFFFF)


def _encode(payload: bytes, offset: int) -> bytes:
    return _HEAD.pack(len(payload), _checksum(payload, offset)) + payload


def _record(data: bytes, at: int) -> bytes | None:
    """The payload of the record at `at`; None where there is no whole and sound one."""
    if at < 0 or at + _HEAD.size > len(data):
        return None
    length, checksum = _HEAD.unpack_from(data, at)
    start = at + _HEAD.size
    if not 0 < length <= _LONGEST or start + length > len(data):
        return None
    payload = data[start : start + length]
    return payload if _checksum(payload, at) == checksum else None
