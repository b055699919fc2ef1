"""Three replicas in one process on fakes of their seams: a clock that is moved by hand, disks of bytes, wires that can be cut."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from random import Random

from raft.contract import ChangeKind, File, Invitation, RaftConfig, Reply, Seat, WireEvents
from raft.errors import LogError
from raft.replica import Replica

MEMBERS = ("a:1", "b:1", "c:1")
STEP_S = 0.005


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class _File:
    def __init__(self, disk: "MemoryDisk", content: bytearray) -> None:
        self._disk, self._content = disk, content

    def append(self, data: bytes) -> None:
        self._content += data

    def sync(self) -> None:
        if self._disk.fails:
            raise OSError(5, "Input/output error")
        self._disk.syncs += 1

    def size(self) -> int:
        return len(self._content)

    def close(self) -> None:
        """Nothing is held."""


class MemoryDisk:
    """`contract.Disk` over a dictionary."""

    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}
        self.fails = False
        self.syncs = 0

    def list(self) -> list[str]:
        return sorted(self.files)

    def read(self, name: str) -> bytes:
        if name not in self.files:
            raise FileNotFoundError(name)
        return bytes(self.files[name])

    def open_append(self, name: str, *, truncate_to: int | None = None) -> File:
        content = self.files.setdefault(name, bytearray())
        if truncate_to is not None:
            del content[truncate_to:]
        return _File(self, content)

    def replace(self, source: str, target: str) -> None:
        self.files[target] = self.files.pop(source)

    def remove(self, name: str) -> None:
        self.files.pop(name, None)

    def sync_directory(self) -> None:
        """Names are as durable as the dictionary."""


class MemoryWire:
    """`contract.Wire` of one member of a `Cluster`."""

    def __init__(self, cluster: "Cluster", me: str) -> None:
        self.cluster, self.me = cluster, me
        self.events: WireEvents | None = None
        self.addresses: dict[str, str] = {}
        self.sent: list[tuple[str, bytes]] = []
        self.closed = False

    def start(self, events: WireEvents) -> None:
        self.events = events

    def set_peers(self, addresses: Mapping[str, str]) -> None:
        gone = self.addresses.keys() - addresses.keys()
        self.addresses = dict(addresses)
        for peer in sorted(gone):
            self.cluster.disconnect(self.me, peer, by="")

    def send(self, peer: str, frame: bytes) -> bool:
        self.sent.append((peer, frame))
        if not self.is_connected(peer):
            return False
        self.cluster.in_flight.append((self.me, peer, frame))
        return True

    def is_connected(self, peer: str) -> bool:
        return not self.closed and (min(self.me, peer), max(self.me, peer)) in self.cluster.links

    def drop(self, peer: str) -> None:
        self.cluster.disconnect(self.me, peer)

    def close(self) -> None:
        self.closed = True
        for peer in sorted(self.cluster.disks):
            self.cluster.disconnect(self.me, peer, by=self.me)


class ListMachine:
    def __init__(self) -> None:
        self.entries: list[bytes] = []

    def apply(self, index: int, entry: bytes) -> bytes:
        if entry == b"bug":
            raise ZeroDivisionError("a bug in the state machine")
        self.entries.append(entry)
        assert index == len(self.entries)
        return b"r:" + entry

    def snapshot(self) -> Callable[[], Iterator[bytes]]:
        entries = list(self.entries)
        return lambda: iter(entries)

    def restore(self, index: int, chunks: Iterable[bytes]) -> None:
        self.entries = [bytes(chunk) for chunk in chunks]
        assert index == len(self.entries)


class Outcome:
    """What a callback was told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def __call__(self, outcome: Reply | LogError | int | str) -> None:
        self.told.append(outcome)

    @property
    def reply(self) -> Reply:
        assert len(self.told) == 1 and isinstance(self.told[0], Reply), self.told
        return self.told[0]


class Cluster:
    def __init__(
        self, *, seed: int = 1, members: tuple[str, ...] = MEMBERS, ablate: frozenset[str] = frozenset(), **settings: object
    ) -> None:
        self.clock = FakeClock()
        self.random = Random(seed)
        self.members = members
        self.ablate = ablate
        self.settings = settings
        self.links: set[tuple[str, str]] = set()
        self.blocked: set[tuple[str, str]] = set()
        self.mute: set[tuple[str, str]] = set()
        """(source, target): frames this way are lost and nobody notices."""
        self.in_flight: deque[tuple[str, str, bytes]] = deque()
        self.disks = {member: MemoryDisk() for member in members}
        self.replicas: dict[str, Replica] = {}
        self.wires: dict[str, MemoryWire] = {}
        self.machines: dict[str, ListMachine] = {}
        self.fatal: dict[str, LogError] = {}
        self.addresses: dict[str, str] = {}
        for member in members:
            self.start(member)

    def start(self, member: str, *, rejoin: bool = False, address: str = "", invitation: Invitation | None = None) -> None:
        """`address`: where it is reached, if not under its id."""
        self.fatal.pop(member, None)
        wire, machine = MemoryWire(self, member), ListMachine()
        self.addresses[member] = address or member
        self.disks.setdefault(member, MemoryDisk())
        config = RaftConfig(
            me=address or member,
            members=() if invitation else self.members,
            ablate=self.ablate,
            rejoin=rejoin,
            invitation=invitation,
            **self.settings,  # type: ignore[arg-type]
        )
        replica = Replica(
            config,
            machine,
            disk=self.disks[member],
            wire=wire,
            clock=self.clock,
            random=Random(self.random.random()),
            on_fatal=lambda error: self.fatal.__setitem__(member, error),
        )
        self.replicas[member], self.wires[member], self.machines[member] = replica, wire, machine
        replica.start()

    def kill(self, member: str) -> None:
        """As kill -9 does: the process is gone, the kernel closes its connections."""
        self.wires[member].closed = True
        del self.replicas[member]
        for peer in sorted(self.disks):
            self.disconnect(member, peer, by=member)

    def cut(self, a: str, b: str, *, seen: bool = True) -> None:
        """No way between two members from now on; `seen`: both ends notice at once."""
        self.blocked.add((min(a, b), max(a, b)))
        if seen:
            self.disconnect(a, b)

    def heal(self) -> None:
        self.blocked.clear()

    def disconnect(self, a: str, b: str, *, by: str | None = None) -> None:
        link = (min(a, b), max(a, b))
        if link in self.links:
            self.links.discard(link)
            self.in_flight = deque(item for item in self.in_flight if {item[0], item[1]} != {a, b})
            for end, peer in ((a, b), (b, a)):
                if end in self.replicas and end != by:
                    self.replicas[end].disconnected(peer, by_peer=by == peer)

    def _connect(self) -> None:
        alive = sorted(self.replicas)
        for a in alive:
            for b in alive:
                link = (a, b)
                if a < b and link not in self.links and link not in self.blocked and not self.wires[a].closed and not self.wires[b].closed:
                    if self._dials(a, b):
                        self._shake_hands(a, b)
                    elif self._dials(b, a):
                        self._shake_hands(b, a)

    def _dials(self, a: str, b: str) -> bool:
        return self.wires[a].addresses.get(b) == self.addresses[b]

    def _shake_hands(self, a: str, b: str) -> None:
        for me, peer in ((a, b), (b, a)):
            try:
                self.replicas[me].welcome(self.replicas[peer].introduce(me))
            except ValueError as error:
                self.replicas[peer].handshake_refused(me, str(error))
                return
        self.links.add((min(a, b), max(a, b)))
        for me, peer in ((a, b), (b, a)):
            self.replicas[me].connected(peer)

    def tick(self) -> None:
        """A few milliseconds: connections, deliveries, one step of each."""
        self.clock.now += STEP_S
        self._connect()
        for _ in range(len(self.in_flight)):
            if not self.in_flight:
                break
            source, target, frame = self.in_flight.popleft()
            if (min(source, target), max(source, target)) in self.blocked or (source, target) in self.mute:
                continue
            if target in self.replicas:
                self.replicas[target].received(source, frame)
        for _, replica in sorted(self.replicas.items()):
            replica.step()

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds / STEP_S)):
            self.tick()

    def until(self, condition: Callable[[], bool], seconds: float = 5.0) -> float:
        """Run until it holds; the seconds it took."""
        began = self.clock.now
        while not condition():
            assert self.clock.now - began < seconds, "it did not happen"
            self.tick()
        return self.clock.now - began

    def leader(self) -> str:
        """The one leader that everybody alive agrees on, once there is one."""

        def agreed() -> bool:
            names = {replica.engine.leader for replica in self.replicas.values()}
            return (
                len(names) == 1
                and all(name in self.replicas and self.replicas[name].engine.leads_own_term for name in names if name)
                and None not in names
            )

        self.until(agreed)
        name = next(iter(self.replicas.values())).engine.leader
        assert name is not None
        return name

    def followers(self) -> list[str]:
        leader = self.leader()
        return [member for member in sorted(self.replicas) if member != leader]

    def propose(self, member: str, entry: bytes, *, request_id: bytes | None = None, timeout_s: float = 5.0) -> Outcome:
        outcome = Outcome()
        self.replicas[member].submit(entry, request_id, self.clock.now + timeout_s, outcome)
        return outcome

    def write(self, member: str, entry: bytes, **options: object) -> Reply:
        outcome = self.propose(member, entry, **options)  # type: ignore[arg-type]
        self.until(lambda: bool(outcome.told), 10.0)
        return outcome.reply

    def read(self, member: str, *, timeout_s: float = 5.0) -> Outcome:
        outcome = Outcome()
        self.replicas[member].read(self.clock.now + timeout_s, outcome)
        return outcome

    # -- members ---------------------------------------------------------------------------------------------------

    def change(self, at: str, kind: ChangeKind, subject: str = "", *, timeout_s: float = 5.0) -> Outcome:
        outcome = Outcome()
        self.replicas[at].ask_change(kind, subject, self.clock.now + timeout_s, outcome)
        return outcome

    def changed(self, at: str, kind: ChangeKind, subject: str = "", *, timeout_s: float = 5.0) -> object:
        """What the change came to: an id, or the error."""
        outcome = self.change(at, kind, subject, timeout_s=timeout_s)
        self.until(lambda: bool(outcome.told), timeout_s + 1)
        return outcome.told[0]

    def invitation(self, id: str, by: str) -> Invitation:
        """What a server that joins as `id` is told."""
        status = self.replicas[by].status()
        seats = tuple(Seat(member.id, member.address, member.voter) for member in status.members)
        return Invitation(cluster=status.cluster, id=id, seats=seats)

    def grow(self, address: str, *, at: str) -> str:
        """A new member, until it votes; its id."""
        id = self.changed(at, ChangeKind.ADD, address)
        assert isinstance(id, str), id
        self.start(id, address=address, invitation=self.invitation(id, at))
        self.until(lambda: all(id in replica.membership.voters for replica in self.replicas.values()))
        return id
