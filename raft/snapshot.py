"""Snapshots: the state at a point of the log, checksummed on disk and over the wire, made by a thread while the log goes on.

A file is named by the log index it reaches to, so that an older one can never replace a newer one, and holds

    magic · header length u32 · header (msgpack) · chunks, each after its length u32 · END u32 · length so far u64 · CRC-32 so far

It is written under another name, synced and renamed; the newest two are kept. What comes over the wire is the file itself and is checked
whole before it gets its name.
"""

import errno
import logging
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Protocol

import msgspec
from msgspec import Struct
from pysyncobj.config import SERIALIZER_STATE

from raft.configuration import Configuration
from raft.contract import Disk
from raft.errors import Corrupt
from raft.journal import LogEntry

_logger = logging.getLogger(__name__)
MAGIC = b"KAGOSNP1"
_LENGTH = struct.Struct("<I")
_TRAILER = struct.Struct("<IQI")
_END = 0xFFFFFFFF
_PREFIX = "snapshot-"
_WRITING = "snapshot.writing"
_INCOMING = "snapshot.incoming"
_KEPT = 2
TRANSFER_BYTES = 256 * 1024


class Executor(Protocol):
    """Runs a job on another thread; in the simulation, later."""

    def submit(self, fn: Callable[[], int], /) -> "Future[int]": ...


class Configurations(Protocol):
    """Where the members at a log index are known."""

    def carried_by(self, index: int) -> tuple[int, Configuration] | None: ...
    def based_on(self, base: tuple[int, Configuration] | None) -> None: ...


class Header(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where in the log a snapshot stands: the last two entries it covers, which PySyncObj keeps in its log."""

    before: LogEntry
    last: LogEntry
    configuration: tuple[int, Configuration] | None = None
    """In force at `last`, and where in the log it stands; left out while the cluster is as it began, as it was before there was one."""

    @property
    def index(self) -> int:
        return self.last[1]


_header_decoder = msgspec.msgpack.Decoder(Header)


class SnapshotStore:
    """The snapshot files of one data directory. Corrupt where there are some and none is whole."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.latest: Header | None = None
        self._damaged: list[str] = []
        for name in (_WRITING, _INCOMING):
            disk.remove(name)
        damaged = ""
        for name in reversed(self._names()):
            try:
                self.latest = parse(disk.read(name))[0]
                break
            except ValueError as error:
                damaged = damaged or f"{name}: {error}"
                self._damaged.append(name)
                _logger.error("%s is damaged (%s); trying the one before", name, error)
        if damaged and self.latest is None:
            raise Corrupt(f"{damaged}; no other snapshot is whole. If the other servers are well, empty the directory and use --rejoin")

    def latest_entries(self) -> tuple[LogEntry, LogEntry] | None:
        """The last two log entries the newest snapshot covers."""
        return None if self.latest is None else (self.latest.before, self.latest.last)

    def read(self) -> bytes:
        """The newest snapshot, as a file. Corrupt where it was damaged since."""
        assert self.latest is not None
        name = _name(self.latest.index)
        data = self._disk.read(name)
        try:
            parse(data)
        except ValueError as error:
            raise Corrupt(f"{name}: {error}") from error
        return data

    def write(self, header: Header, chunks: Iterable[bytes]) -> None:
        """Make a snapshot durable under its name; `adopt` makes it the latest. Runs on a thread of its own."""
        self._disk.remove(_WRITING)
        file = self._disk.open_append(_WRITING)
        try:
            total, checksum = 0, 0
            for piece in _pieces(header, chunks):
                file.append(piece)
                total, checksum = total + len(piece), zlib.crc32(piece, checksum)
            file.append(_TRAILER.pack(_END, total, checksum))
            file.sync()
        except BaseException:
            file.close()
            self._disk.remove(_WRITING)
            raise
        file.close()
        self._disk.replace(_WRITING, _name(header.index))

    def adopt(self, header: Header, *, even_if_older: bool = False) -> bool:
        """Use it from now on, unless a newer one was installed meanwhile (H3); forget all but the newest two."""
        if self.latest is not None and header.index <= self.latest.index and not even_if_older:
            return False
        self.latest = header
        for name in self._damaged:
            if name != _name(header.index):
                self._disk.remove(name)
        self._damaged.clear()
        names = self._names()
        newer = [name for name in names if name > _name(header.index)]
        for name in newer + names[: -_KEPT - len(newer)]:
            self._disk.remove(name)
        return True

    def _names(self) -> list[str]:
        return sorted(name for name in self._disk.list() if name.startswith(_PREFIX))

    # -- from the wire ---------------------------------------------------------------------------------------------

    def receive(self, data: bytes, *, first: bool, last: bool) -> bool:
        """Take a piece of the leader's newest snapshot; True once it is whole, durable and the latest. OSError: it is forgotten."""
        if first:
            self._disk.remove(_INCOMING)
        file = self._disk.open_append(_INCOMING)
        try:
            file.append(data)
            if last:
                file.sync()
        except OSError:
            file.close()
            self._disk.remove(_INCOMING)
            raise
        file.close()
        if not last:
            return False
        try:
            header = parse(self._disk.read(_INCOMING))[0]
        except ValueError as error:
            _logger.error("the snapshot the leader sent is damaged: %s", error)
            self._disk.remove(_INCOMING)
            return False
        if self.latest is not None and header.index <= self.latest.index:
            self._disk.remove(_INCOMING)
            return False
        self._disk.replace(_INCOMING, _name(header.index))
        return self.adopt(header)


class _Transfer:
    __slots__ = ("data", "last", "offset")

    def __init__(self, data: bytes, last: tuple[int, int]) -> None:
        self.data = data
        self.last = last
        self.offset = 0


class SnapshotSerializer:
    """Stands where PySyncObj has its Serializer (whose method names these are); never forks, never pickles."""

    def __init__(
        self,
        store: SnapshotStore,
        *,
        capture: Callable[[], Callable[[], Iterator[bytes]]],
        restore: Callable[[Iterable[bytes]], None],
        executor: Executor | None,
        configurations: Configurations,
        ablate: frozenset[str] = frozenset(),
        transfer_bytes: int = TRANSFER_BYTES,
    ) -> None:
        self._store = store
        self._capture = capture
        self._restore = restore
        self._executor = executor
        self._configurations = configurations
        self._ablate = ablate
        self._transfer_bytes = transfer_bytes
        self._writing: tuple[Header, Future[int]] | None = None
        self._transfers: dict[object, _Transfer] = {}
        self._sent_last = (0, 0)
        self._unsendable = 0
        self._receiving = False

    @property
    def busy(self) -> bool:
        """Whether a snapshot is being written."""
        return self._writing is not None

    def exists(self) -> bool:
        return self._store.latest is not None

    # -- making one ------------------------------------------------------------------------------------------------

    def serialize(self, data: tuple[object, LogEntry, LogEntry, object], id: int) -> None:
        if self._writing is not None:
            return
        header = Header(before=data[2], last=data[1], configuration=self._configurations.carried_by(data[1][1]))
        chunks = self._capture()

        def job() -> int:
            self._store.write(header, chunks())
            return header.index

        if self._executor is None:
            future: Future[int] = Future()
            try:
                future.set_result(job())
            except OSError as error:
                future.set_exception(error)
        else:
            future = self._executor.submit(job)
        self._writing = (header, future)

    def checkSerializing(self) -> tuple[int, int | None]:
        if self._writing is None:
            return SERIALIZER_STATE.NOT_SERIALIZING, None
        header, future = self._writing
        before = header.before[1]
        if not future.done():
            return SERIALIZER_STATE.SERIALIZING, before
        self._writing = None
        error = future.exception()
        if isinstance(error, OSError):
            _logger.error("no snapshot at log index %d: %s; the journal goes on growing", header.index, error)
            return SERIALIZER_STATE.FAILED, before
        if error is not None:
            raise error
        if not self._store.adopt(header, even_if_older="abandon" in self._ablate):
            return SERIALIZER_STATE.FAILED, before
        return SERIALIZER_STATE.SUCCESS, before

    def deserialize(self) -> tuple[None, LogEntry, LogEntry, frozenset[object]]:
        data = self._store.read()
        header, chunks = parse(data)
        self._restore(chunks)
        self._configurations.based_on(header.configuration)
        return None, header.last, header.before, frozenset()

    # -- sending and receiving one ---------------------------------------------------------------------------------

    def getTransmissionData(self, transmissionID: object) -> tuple[bytes, bool, bool] | None:
        """The next piece for one peer: (bytes, is it the first, is it the last). The last complete snapshot is sent even while
        another is being written (H17); a peer halfway through one gets the rest of that one."""
        transfer = self._transfers.get(transmissionID) or self._begin_transfer(transmissionID)
        if transfer is None:
            return None
        start = transfer.offset
        piece = transfer.data[start : start + self._transfer_bytes]
        transfer.offset += len(piece)
        last = transfer.offset >= len(transfer.data)
        self._sent_last = transfer.last
        if last:
            del self._transfers[transmissionID]
        return piece, start == 0, last

    def _begin_transfer(self, transmissionID: object) -> _Transfer | None:
        if self._store.latest is None or self._store.latest.index == self._unsendable:
            return None
        _, index, term = self._store.latest.last
        data = next((other.data for other in self._transfers.values() if other.last == (index, term)), None)
        if data is None:
            try:
                data = self._store.read()
            except (Corrupt, OSError) as error:
                # The state in memory is well, so this server goes on; who needs a snapshot waits for its next one.
                self._unsendable = index
                _logger.error("the newest snapshot cannot be sent: %s", error)
                return None
        transfer = self._transfers[transmissionID] = _Transfer(data, (index, term))
        return transfer

    def transmission_last(self, transmissionID: object) -> tuple[int, int]:
        """Index and term of the last entry covered by the snapshot that the last piece was of."""
        transfer = self._transfers.get(transmissionID)
        return self._sent_last if transfer is None else transfer.last

    def cancelTransmisstion(self, transmissionID: object) -> None:
        self._transfers.pop(transmissionID, None)

    def setTransmissionData(self, data: tuple[bytes, bool, bool] | None) -> bool:
        if data is None:
            return False
        piece, first, last = data
        if not first and not self._receiving:
            return False
        self._receiving = not last
        try:
            return self._store.receive(piece, first=first, last=last)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._receiving = False
            _logger.error("the leader's snapshot does not fit on the disk: %s", error)
            return False


def _name(index: int) -> str:
    return f"{_PREFIX}{index:020d}"


def _pieces(header: Header, chunks: Iterable[bytes]) -> Iterator[bytes]:
    encoded = msgspec.msgpack.encode(header if header.configuration is not None else (header.before, header.last))
    yield MAGIC + _LENGTH.pack(len(encoded)) + encoded
    for chunk in chunks:
        yield _LENGTH.pack(len(chunk)) + chunk


def parse(data: bytes) -> tuple[Header, Iterator[bytes]]:
    """Header and chunks of a whole snapshot file. ValueError says what is wrong with it."""
    if not data.startswith(MAGIC):
        raise ValueError("not a snapshot, or of a version unknown here")
    end = len(data) - _TRAILER.size
    if end < len(MAGIC):
        raise ValueError("it ends too early")
    mark, total, checksum = _TRAILER.unpack_from(data, end)
    view = memoryview(data)
    if mark != _END or total != end or zlib.crc32(view[:end]) != checksum:
        raise ValueError(f"its checksum does not match its {len(data)} bytes")
    length = _LENGTH.unpack_from(data, len(MAGIC))[0]
    start = len(MAGIC) + _LENGTH.size
    try:
        header = _header_decoder.decode(view[start : start + length])
    except msgspec.MsgspecError as error:
        raise ValueError(f"its header cannot be read, perhaps of a later version: {error}") from error
    at = start + length
    while at < end:
        at += _LENGTH.size + _LENGTH.unpack_from(data, at)[0]
    if at != end:
        raise ValueError("its chunks do not end where it says")
    return header, _chunks(data, start + length, end)


def _chunks(data: bytes, at: int, end: int) -> Iterator[bytes]:
    while at < end:
        length = _LENGTH.unpack_from(data, at)[0]
        at += _LENGTH.size
        yield data[at : at + length]
        at += length
