"""The log, the term and the vote of one replica, in one append-only file.

The file is a magic word and then groups of records; one group is what one sync made durable. A record is

    payload length u32 · checksum u32 · payload (its first byte the type)

little-endian; the checksum is CRC-32 over the payload, seeded with the record's own offset, so that neither a stale nor a moved
record passes for one. Each group begins with a MARK that says up to which offset the file was durable before the group was written.
That is what tells damage from a crash: power loss can leave anything behind in the one group that was never synced, hence a bad
record is cut off with all that follows, unless a later mark claims that the place was durable before: then somebody has read
or answered for what stood there, and the file is refused.

Nothing is rewritten in place. A truncation is a record; compaction writes a new file and renames it over the old one.
"""

import errno
import logging
import struct
import zlib
from typing import Any

from raft.contract import Disk
from raft.errors import Corrupt, StartRefused

_logger = logging.getLogger(__name__)
MAGIC = b"KAGOJNL1"
_HEAD = struct.Struct("<II")
_MARK = struct.Struct("<cQ")
_ENTRY = struct.Struct("<cQQ")
_CUT = struct.Struct("<cQ")
_BALLOT = struct.Struct("<cQ")
_LONGEST = 16 * 1024 * 1024
"""No record is longer; a length beyond it is damage, not a length."""

LogEntry = tuple[bytes, int, int]
"""(command, index, term), as PySyncObj keeps them."""


class Journal:
    """PySyncObj's journal interface (its names), plus `dirty` and `sync`.

    `snapshot` are the last two entries that the newest snapshot holds. Corrupt or StartRefused where what is on disk would lose what was
    acknowledged.
    """

    def __init__(
        self, disk: Disk, *, name: str = "journal", snapshot: tuple[LogEntry, LogEntry] | None = None, ablate: frozenset[str] = frozenset()
    ) -> None:
        self._disk = disk
        self._name = name
        self._ablate = ablate
        self._log: list[LogEntry] = []
        self._term = 0
        self._vote: str | None = None
        self._pending: list[bytes] = []
        self._failed: OSError | None = None
        data = self._read(snapshot)
        good = self._replay(data)
        self._file = disk.open_append(name, truncate_to=good)
        self._end = good
        if good == 0:
            self._append_raw(MAGIC)
            disk.sync_directory()
        else:
            # What a killed process wrote may still be in the page cache only, and from here on it is answered for.
            self._file.sync()
        if snapshot is not None:
            self._align(*snapshot)
        self._base = self._end - sum(len(entry[0]) for entry in self._log)
        self.sync()

    # -- opening ---------------------------------------------------------------------------------------------------

    def _read(self, snapshot: tuple[LogEntry, LogEntry] | None) -> bytes:
        try:
            data = self._disk.read(self._name)
        except FileNotFoundError:
            data = b""
        if (len(data) < len(MAGIC) and MAGIC.startswith(data)) or not data.strip(b"\0"):
            if snapshot is not None:
                raise Corrupt(f"{self._name} is missing or empty beside a snapshot: what was acknowledged since is lost with it. {_REJOIN}")
            return b""
        if not data.startswith(MAGIC):
            raise Corrupt(f"{self._name} at offset 0: this is no journal, or one of a version unknown here. {_REJOIN}")
        return data

    def _replay(self, data: bytes) -> int:
        """Take in every whole record; where they end."""
        at = len(MAGIC) if data else 0
        while at < len(data):
            payload = _record(data, at)
            if payload is None:
                self._refuse_damage(data, at)
                return at
            self._take(payload, at)
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

    def _align(self, before: LogEntry, last: LogEntry) -> None:
        """Let the journal begin where the snapshot ends: PySyncObj throws a journal away that does not, acknowledged tail and all (H2)."""
        if not self._log:
            return
        first = self._log[0][1]
        if first > before[1]:
            raise StartRefused(
                f"{self._name} begins at entry {first}, after the end of the newest usable snapshot ({last[1]}): "
                f"what lies between is lost. {_REJOIN}"
            )
        skip = before[1] - first
        if "align" not in self._ablate and 0 < skip < len(self._log) - 1 and self._log[skip : skip + 2] == [before, last]:
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
        if self._failed is not None:
            raise OSError(errno.EIO, f"{self._name} failed before: {self._failed}")
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

    def _append_raw(self, data: bytes) -> None:
        self._pending.append(data)
        self._end += len(data)

    def _put(self, payload: bytes) -> None:
        if len(payload) > _LONGEST:
            raise ValueError(f"a record of {len(payload)} bytes could not be read back")
        if not self._pending:
            self._append_raw(_encode(_MARK.pack(b"S", self._end), self._end))
        self._append_raw(_encode(payload, self._end))

    def add(self, command: bytes, idx: int, term: int) -> None:
        self._put(_ENTRY.pack(b"E", idx, term) + command)
        self._log.append((command, idx, term))

    def clear(self) -> None:
        self._put(b"C")
        self._log = []

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        if entryFrom < len(self._log):
            self._put(_CUT.pack(b"T", self._log[entryFrom][1]))
            del self._log[entryFrom:]

    def deleteEntriesTo(self, entryTo: int) -> None:
        """Compact: a new file holds the ballot and the entries from position `entryTo` on, and replaces the old one once it is durable.

        With a full disk the old file stays in use: what it holds too much is skipped when it is opened next.
        """
        kept = self._log[entryTo:]
        fresh = self._name + ".new"
        parts = [MAGIC]
        end = len(MAGIC)
        for payload in (self._ballot(), *(_ENTRY.pack(b"E", index, term) + command for command, index, term in kept)):
            parts.append(_encode(payload, end))
            end += len(parts[-1])
        # The file gets its name when all of it is durable: any damage to it is damage, which the closing mark says.
        parts.append(_encode(_MARK.pack(b"S", end), end))
        end += len(parts[-1])
        self._disk.remove(fresh)
        file = self._disk.open_append(fresh)
        try:
            file.append(b"".join(parts))
            file.sync()
        except OSError as error:
            file.close()
            self._disk.remove(fresh)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            _logger.error("%s is not compacted: %s; it goes on growing", self._name, error)
            self._log = kept
            return
        file.close()
        self._disk.replace(fresh, self._name)
        self._file.close()
        self._file = self._disk.open_append(self._name)
        self._log, self._pending = kept, []
        self._end = self._base = end

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
        """Nothing is done by time."""

    def close(self) -> None:
        self._file.close()

    def _destroy(self) -> None:
        self.close()


_REJOIN = "If the other servers are well, empty the data directory and start this one with --rejoin: it gets everything back from them"


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
