"""A backup: the whole state at one index, in one file that is checked to its last byte before anything of it is believed.

    magic · header length u32 · header (msgpack) · chunks, each after its length u32 · END u32 · BLAKE2b-256 of all before

The chunks are those of `snapshot.py`. What starts again from a backup is a new life of the same cluster: `reborn` gives it indexes that
its past, as far as that went on after the backup, cannot have used. Ids of pods are minted from them, watches and ETags go by them, and
agents believe no view that is older than one they saw: all of these would otherwise take the two lives for one.
"""

import struct
from collections.abc import Iterable, Iterator
from hashlib import blake2b

import msgspec
from msgspec import Struct

from kago.core.model.cluster import Server
from kago.core.state.changes import Put, Removed
from kago.core.state.snapshot import Snapshot, read_snapshot
from kago.core.state.tables import Tables

MAGIC = b"KAGOBAK1"
FORMAT = 1
INDEX_LEAP = 1_000_000_000
"""Further than any cluster comes between a backup and its loss: eleven days of a thousand changes a second."""
TERM_LEAP = 1000
_LENGTH = struct.Struct("<I")
_END = 0xFFFFFFFF
_HASH_BYTES = 32


class Header(Struct, frozen=True, kw_only=True):
    format: int = FORMAT
    cluster_id: str
    index: int
    epoch: int
    term: int
    raft_index: int
    """Of the log entry that brought the state to `index`."""
    schema: int
    digest: str
    """Of the state; equal on every server at this index."""
    taken_at: float
    """Seconds since the epoch."""
    taken_by: str
    """Raft address of the server that was asked."""
    software_version: str
    members: tuple[Server, ...]


class Backup(Struct, frozen=True):
    header: Header
    tables: Tables
    digest: bytes


def encode(header: Header, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The file, piece by piece; `chunks` are asked for one at a time."""
    check = blake2b(digest_size=_HASH_BYTES)
    encoded = msgspec.msgpack.encode(header)
    piece = MAGIC + _LENGTH.pack(len(encoded)) + encoded
    check.update(piece)
    yield piece
    for chunk in chunks:
        piece = _LENGTH.pack(len(chunk)) + chunk
        check.update(piece)
        yield piece
    end = _LENGTH.pack(_END)
    check.update(end)
    yield end + check.digest()


def decode(data: bytes) -> Backup:
    """Everything in a backup file. Raises ValueError with what is wrong with it."""
    if not data.startswith(MAGIC):
        raise ValueError("this is not a backup that `kago snapshot save` wrote" + ("" if data else ": it is empty"))
    end = len(data) - _HASH_BYTES
    view = memoryview(data)
    if end < len(MAGIC) or blake2b(view[:end], digest_size=_HASH_BYTES).digest() != data[end:]:
        raise ValueError(f"it is cut off or damaged: its checksum does not fit its {len(data)} bytes")
    try:
        pieces = list(_pieces(view[len(MAGIC) : end]))
        format = msgspec.msgpack.decode(pieces[0], type=_Format).format
        if format != FORMAT:
            raise ValueError(f"it is of format {format}, this version of Kago reads {FORMAT}: use the version that wrote it")
        header = msgspec.msgpack.decode(pieces[0], type=Header)
    except (msgspec.MsgspecError, struct.error, IndexError) as error:
        raise ValueError(f"its header cannot be read: {error}") from error
    tables, digest = read_snapshot(header.index, (bytes(piece) for piece in pieces[1:]))
    if digest.hex() != header.digest:
        raise ValueError(f"its header is of the state {header.digest}, but it holds {digest.hex()}")
    return Backup(header, tables, digest)


def reborn(tables: Tables, digest: bytes) -> tuple[int, Iterator[bytes]]:
    """The state that a new life of the cluster begins with, as its index and the chunks of a snapshot.

    Everything is as it was, but that the servers are forgotten (each announces itself anew) and nobody leads.
    """
    index, kept = tables.index + INDEX_LEAP, tables.copy()
    leaderless = msgspec.structs.replace(tables.cluster, leader="")
    kept.absorb(index, [Put(leaderless, tables.cluster), *map(Removed, tables.servers.values())])
    return index, Snapshot(kept, digest).chunks()


class _Format(Struct):
    """The one field of a header that every format has."""

    format: int


def _pieces(view: memoryview) -> Iterator[memoryview]:
    at = 0
    while True:
        length = _LENGTH.unpack_from(view, at)[0]
        at += _LENGTH.size
        if length == _END:
            break
        yield view[at : at + length]
        at += length
    if at != len(view):
        raise ValueError("its parts do not end where it says")
