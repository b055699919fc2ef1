"""Rubbish at the Raft port: messages, log entries, introductions, and the byte stream that carries them."""

import asyncio
from random import Random

import msgspec

from raft.contract import RaftConfig
from raft.errors import LogHalted, StartRefused
from raft.identity import Identity
from raft.messages import Malformed, Message, decode, decode_batch, encode_batch
from raft.transport import AsyncioWire, _Link
from tests.fuzz.mutations import RUN, WORDS, Case, mutated, nested, packed, shaped
from tests.unit.raft.cluster import MEMBERS, Cluster
from tests.unit.raft.memory_disk import MemoryDisk


def frames(chance: Random) -> Case:
    """Messages between members, decoded."""
    seeds = [packed(shaped(chance, Message)) for _ in range(300)]

    def case(chance: Random) -> str:
        kind = chance.random()
        frame = packed(shaped(chance, Message)) if kind < 0.3 else mutated(chance, chance.choice(seeds), seeds)
        if kind > 0.999:
            frame = nested(chance, b"\x91", b"\xc0")
        try:
            decode(frame)
        except Malformed:
            return "refused"
        return "taken"

    return case


def batches(chance: Random) -> Case:
    """Log entries as members keep them."""
    seeds = [encode_batch([(bytes(16), b"entry", 3), (b"r" * 64, b"", 0)])]

    def case(chance: Random) -> str:
        try:
            decode_batch(mutated(chance, seeds[0], seeds))
        except msgspec.MsgspecError:
            return "refused"
        return "taken"

    return case


def hellos(chance: Random) -> Case:
    """Introductions at the Raft port, by strangers."""
    identity = Identity(RaftConfig(me="a:1", members=("a:1", "b:1", "c:1")), MemoryDisk(), Random(1))
    other = Identity(RaftConfig(me="b:1", members=("a:1", "b:1", "c:1")), MemoryDisk(), Random(2))
    good = other.hello("a:1")

    def case(chance: Random) -> str:
        before = identity.incarnation
        hello = mutated(chance, good, [good]) if chance.random() < 0.9 else chance.randbytes(chance.randrange(100))
        if chance.random() < 0.01:
            hello = nested(chance, good[:1] + b"\x91", b"\xc0")
        try:
            identity.check(hello)
        except ValueError:
            return "refused"
        finally:
            assert (identity.id, identity.incarnation) == ("a:1", before)
        return "taken"

    return case


class Clock:
    def monotonic(self) -> float:
        return 0.0


class Nobody:
    """Wire events of a member that welcomes one peer, whoever says so."""

    id = "a:1"
    most = 0

    def connected(self, peer: str) -> None: ...
    def disconnected(self, peer: str, *, by_peer: bool) -> None: ...
    def handshake_refused(self, peer: str, reason: str) -> None: ...
    def received(self, peer: str, frame: bytes) -> None:
        self.most = max(self.most, len(frame))

    def introduce(self, peer: str) -> bytes:
        return b"hello"

    def welcome(self, hello: bytes, certified: str | None = None) -> str:
        if hello != b"b:1":
            raise ValueError("unknown")
        return "b:1"


class Transport(asyncio.Transport):
    """Takes what is written and closes when told."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.written = 0
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += len(data)

    def close(self) -> None:
        self.closed = True

    abort = close


def links(chance: Random) -> Case:
    """The Raft port's byte stream, in pieces of any size: frames too long, cut short, empty, before and after the handshake."""
    loop = asyncio.new_event_loop()
    greeting = b"\x00\x00\x00\x04Hb:1"

    async def once(chance: Random) -> str:
        wire = AsyncioWire(clock=Clock(), random=chance)
        events = Nobody()
        wire.events = events
        link, transport = _Link(wire, None), Transport()
        link.connection_made(transport)
        stream = greeting + b"".join(packed(chance.choice(WORDS[:7])).rjust(chance.randrange(4, 8), b"\x00") for _ in range(4))
        data = mutated(chance, stream, [greeting]) if chance.random() < 0.9 else chance.randbytes(chance.randrange(200))
        while data:
            size = chance.randrange(1, 40)
            link.data_received(data[:size])
            data = data[size:]
            if link.closing:
                break
        assert len(link._buffer) < 5000 and transport.written < 5000 and link.closing == transport.closed
        link.connection_lost(None)
        assert not wire._links and not wire._strangers
        return "refused" if transport.closed else "taken"

    def case(chance: Random) -> str:
        return loop.run_until_complete(once(chance))

    return case


class members:
    """A running member, told well-formed nonsense under a peer's name: it may hang up or halt with a reason, but never stumble."""

    def __init__(self, chance: Random) -> None:
        self._renew()

    def _renew(self) -> None:
        self._cluster = Cluster(seed=1)
        leader = self._cluster.leader()
        for n in range(5):
            self._cluster.write(leader, b"entry %d" % n)
        self._count = 0

    def __call__(self, chance: Random) -> str:
        if self._count == RUN:
            self._renew()
        self._count += 1
        cluster = self._cluster
        source, target = chance.sample(MEMBERS, 2)
        engine = cluster.replicas[target].engine
        near = [engine.commit_index, engine.last_index, engine.last_index + 1, engine.last_index + 2**20, 0, 1, 2**53]
        likely: dict[str, list[int]] = dict.fromkeys(("commit", "prev_index", "next_index", "snapshot_index", "last_index", "index"), near)
        terms = [engine.last_term, engine.last_term + 1, engine.last_term, 0, 2**53]
        likely |= dict.fromkeys(("term", "prev_term", "last_term", "snapshot_term"), terms)
        likely |= {"seq": [0, 1, 2, 3, 2**53], "round": [0, 1, 2, 2**48], "offset": [0, 1, 100]}
        cluster.replicas[target].received(source, packed(shaped(chance, Message, WORDS, likely)))
        for _ in range(chance.choice((1, 1, 5))):
            cluster.tick()
        if cluster.fatal:
            assert all(isinstance(error, LogHalted | StartRefused) for error in cluster.fatal.values()), cluster.fatal
            said = " ".join(map(str, cluster.fatal.values()))
            self._renew()
            assert "Error" not in said and "Exception" not in said, said
            return "halted"
        return "heard"
