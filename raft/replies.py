"""The first answer to each request, kept for retries: a bounded table inside the replicated state.

Whoever proposes again under the same id gets the first answer, on any replica and after any failover, as far back as the table reaches.
Eviction follows the order of application, so that every replica keeps the same answers. A proposal also says how far its replica had
applied when it was first sent: once the table no longer reaches back to there, nobody can tell a retry from the first try, and the entry
is passed over instead of being applied twice.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Struct

from raft.contract import Reply

_CHUNK = 2000


class _Header(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: int
    applied: int
    forgotten: int
    replies: int
    """How many chunks of replies follow."""


_encoder = msgspec.msgpack.Encoder()
_header_decoder = msgspec.msgpack.Decoder(_Header)
_chunk_decoder = msgspec.msgpack.Decoder(list[tuple[bytes, int, bytes]])


class Replies:
    """How many proposals were applied, and the answers to the last of them."""

    def __init__(self, limit: int) -> None:
        self.applied = 0
        self.forgotten = 0
        """Index of the newest answer thrown away."""
        self._limit = limit
        self._replies: OrderedDict[bytes, Reply] = OrderedDict()
        """The oldest first. In a plain dict it would have to be looked for behind all the places that those before it left."""

    def find(self, request_id: bytes) -> Reply | None:
        return self._replies.get(request_id)

    def record(self, request_id: bytes, result: bytes) -> Reply:
        """Keep the answer to proposal number `applied`."""
        reply = Reply(self.applied, result)
        self._replies[request_id] = reply
        if len(self._replies) > self._limit:
            self.forgotten = self._replies.popitem(last=False)[1].index
        return reply

    def capture(self) -> tuple[int, int, list[tuple[bytes, Reply]]]:
        """A copy that stays as it is; encode it with `encode`, on any thread."""
        return self.applied, self.forgotten, list(self._replies.items())

    def restore(self, chunks: Iterator[bytes]) -> None:
        """Take the state from the first chunks of a snapshot, leaving the rest to the caller."""
        header = _header_decoder.decode(next(chunks))
        if header.version != 1:
            raise ValueError(f"snapshot of unknown version {header.version}")
        replies = OrderedDict(
            (request_id, Reply(index, result))
            for _ in range(header.replies)
            for request_id, index, result in _chunk_decoder.decode(next(chunks))
        )
        self.applied, self.forgotten, self._replies = header.applied, header.forgotten, replies


def encode(captured: tuple[int, int, list[tuple[bytes, Reply]]]) -> Iterable[bytes]:
    """The chunks `Replies.restore` reads."""
    applied, forgotten, replies = captured
    chunks = [replies[start : start + _CHUNK] for start in range(0, len(replies), _CHUNK)]
    yield _encoder.encode(_Header(1, applied, forgotten, len(chunks)))
    for chunk in chunks:
        yield _encoder.encode([(request_id, reply.index, reply.result) for request_id, reply in chunk])
