"""A network as TCP shows it: connections that keep order, hold bytes while a path is cut, and lose them only by breaking.

`SimWire` is one process's end (`contract.Wire`). Everything that arrives is posted to the inbox of the receiving process, so a paused or
busy process hears late, and a process that was killed never. A kill lets the peer see the close; a power loss or a cut lets it see nothing.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from msgspec import Struct

from raft.contract import WireEvents

from .world import World

MAX_QUEUED_BYTES = 8 * 1024 * 1024
BYTES_PER_S = 50_000_000.0


class Host(Protocol):
    """What the network needs of a process."""

    name: str
    powered: bool

    def post(self, event: Callable[[], None]) -> None:
        """Put into the process's inbox."""


class Latency(Struct, frozen=True, kw_only=True):
    """Seconds; `slow_share` of the messages take up to `slow_s` longer."""

    shortest_s: float = 0.0003
    longest_s: float = 0.004
    slow_share: float = 0.01
    slow_s: float = 0.3
    redial_s: float = 0.2
    idle_s: float = 3.0
    """Silence after which an end gives a connection up."""


class Connection:
    """Between one pair of members; `epoch` counts attempts, what belongs to an older one never arrives."""

    __slots__ = ("epoch", "heard", "held", "last_arrival", "opened_at", "queued", "up")

    def __init__(self) -> None:
        self.epoch = 0
        self.up: dict[str, bool] = {}
        self.heard: dict[str, float] = {}
        self.held: dict[tuple[str, str], list[tuple[int, Callable[[], None]]]] = {}
        self.last_arrival: dict[tuple[str, str], float] = {}
        self.queued: dict[tuple[str, str], int] = {}
        self.opened_at = -1e9


class Network:
    def __init__(self, world: World, names: list[str], latency: Latency) -> None:
        self.world = world
        self.names = names
        self.latency = latency
        self.calm = False
        """True while nothing may be slow, after the faults were healed."""
        self.wires: dict[str, SimWire] = {}
        self.places: dict[str, str] = {}
        """Whose process is at an address, where it is not the process of that name."""
        self.cuts: dict[tuple[str, str], int] = {}
        self._chance = world.random("network")
        self._connections: dict[tuple[str, str], Connection] = {}

    def connection(self, a: str, b: str) -> Connection:
        pair = (a, b) if a < b else (b, a)
        link = self._connections.get(pair)
        if link is None:
            link = self._connections[pair] = Connection()
        return link

    def is_cut(self, a: str, b: str) -> bool:
        return self.cuts.get((a, b), 0) > 0

    def cut(self, links: list[tuple[str, str]]) -> None:
        for link in links:
            self.cuts[link] = self.cuts.get(link, 0) + 1

    def heal(self, links: list[tuple[str, str]]) -> None:
        """End one cut of each link; bytes held back travel on, in order."""
        for a, b in links:
            self.cuts[(a, b)] = max(0, self.cuts.get((a, b), 0) - 1)
            if not self.is_cut(a, b):
                held = self.connection(a, b).held.pop((a, b), [])
                for size, item in held:
                    self.transmit(a, b, size, item)

    def heal_all(self) -> None:
        for link in sorted(self.cuts):
            self.cuts[link] = min(1, self.cuts[link])
            self.heal([link])

    def transmit(self, a: str, b: str, size: int, item: Callable[[], None]) -> None:
        """Carry `item` from `a` to `b` behind everything sent there before it."""
        link = self.connection(a, b)
        if self.is_cut(a, b):
            link.held.setdefault((a, b), []).append((size, item))
            return
        latency, chance = self.latency, self._chance
        delay = chance.uniform(latency.shortest_s, latency.longest_s) + size / BYTES_PER_S
        if chance.random() < latency.slow_share and not self.calm:
            delay += chance.uniform(0, latency.slow_s)
        arrival = max(link.last_arrival.get((a, b), 0.0), self.world.now + delay) + 1e-6
        link.last_arrival[(a, b)] = arrival
        self.world.at(arrival, item)

    def break_connection(self, a: str, b: str, *, seen_as_reset: bool) -> None:
        """Both ends lose it at once, with all that is under way: a middlebox forgot it, or sent resets."""
        link = self.connection(a, b)
        self.forget(link)
        for end, peer in ((a, b), (b, a)):
            wire = self.wires.get(end)
            if wire is not None:
                wire.host.post(partial(wire.lost, peer, link.epoch - 1, by_peer=seen_as_reset))

    def process_gone(self, name: str, *, power: bool) -> None:
        """`power`: nobody is told. Otherwise the kernel closes the dead process's sockets, behind what it had sent."""
        self.wires.pop(name, None)
        for peer in self.names:
            if peer == name:
                continue
            link = self.connection(name, peer)
            was_up = link.up.get(name, False)
            link.up[name] = False
            link.held.pop((peer, name), None)
            if power:
                self.forget(link)
            elif was_up:
                self.send_close(name, peer, link)

    def forget(self, link: Connection) -> None:
        link.epoch += 1
        link.held.clear()
        link.queued.clear()
        link.opened_at = -1e9

    def send_close(self, a: str, b: str, link: Connection) -> None:
        epoch = link.epoch

        def arrive() -> None:
            wire = self.wires.get(b)
            if wire is not None and link.epoch == epoch:
                wire.host.post(lambda: wire.lost(a, epoch, by_peer=True))

        self.transmit(a, b, 0, arrive)

    def close(self, a: str, b: str) -> None:
        link = self.connection(a, b)
        if link.up.get(a):
            link.up[a] = False
            self.send_close(a, b, link)


class SimWire:
    """`contract.Wire` of one process life."""

    def __init__(self, network: Network, host: Host) -> None:
        self.network = network
        self.host = host
        self._me = host.name
        self._events: WireEvents | None = None
        self._addresses: dict[str, str] = {}
        self._closed = False
        self.sent = 0
        self._chance = network.world.random(f"dial/{host.name}/{network.world.now}")

    # -- contract.Wire -------------------------------------------------------------------------------------------

    def start(self, events: WireEvents) -> None:
        self._events = events
        self.network.wires[self._me] = self
        for peer in self._addresses:
            self._redial(peer, self._chance.uniform(0.0, 0.02))
        self._watch_idle()

    def set_peers(self, addresses: Mapping[str, str]) -> None:
        before, self._addresses = self._addresses, dict(addresses)
        if self._events is None or not self.live:
            return
        for peer in before:
            if peer not in addresses and self.is_connected(peer):
                self.network.close(self._me, peer)
                self._tell().disconnected(peer, by_peer=False)
        for peer in addresses:
            if peer not in before:
                self._redial(peer, 0.0)

    def send(self, peer: str, frame: bytes) -> bool:
        network, me = self.network, self._me
        link = network.connection(me, peer)
        if self._closed or not link.up.get(me) or link.queued.get((me, peer), 0) + len(frame) > MAX_QUEUED_BYTES:
            return False
        epoch, size, data = link.epoch, len(frame), bytes(frame)
        link.queued[(me, peer)] = link.queued.get((me, peer), 0) + size
        self.sent += 1
        network.world.counts["sent-bytes"] += size

        def arrive() -> None:
            if link.epoch != epoch:
                return
            link.queued[(me, peer)] -= size
            wire = network.wires.get(peer)
            if wire is not None:
                wire.host.post(lambda: wire.deliver(me, epoch, data))

        network.transmit(me, peer, size, arrive)
        return True

    def is_connected(self, peer: str) -> bool:
        return not self._closed and bool(self.network.connection(self._me, peer).up.get(self._me))

    def drop(self, peer: str) -> None:
        if self.is_connected(peer):
            self._give_up(peer)

    def close(self) -> None:
        if self._closed:
            return
        for peer in self.network.names:
            if peer != self._me:
                self.network.close(self._me, peer)
        self._closed = True
        if self.network.wires.get(self._me) is self:
            del self.network.wires[self._me]

    # -- what happens to this end; all in the process's own turn --------------------------------------------------

    @property
    def live(self) -> bool:
        return not self._closed and self.network.wires.get(self._me) is self

    def _tell(self) -> WireEvents:
        if self._events is None:
            raise RuntimeError("wire not started")
        return self._events

    def deliver(self, peer: str, epoch: int, frame: bytes) -> None:
        link = self.network.connection(self._me, peer)
        if self.live and link.epoch == epoch and link.up.get(self._me):
            link.heard[self._me] = self.network.world.now
            self._tell().received(peer, frame)

    def lost(self, peer: str, epoch: int, *, by_peer: bool) -> None:
        link = self.network.connection(self._me, peer)
        if not self.live or link.epoch not in (epoch, epoch + 1) or not link.up.get(self._me):
            return
        link.up[self._me] = False
        self.network.world.log("lost", self._me, peer, by_peer)
        self._tell().disconnected(peer, by_peer=by_peer)
        self._redial(peer, 0.0)

    def _give_up(self, peer: str) -> None:
        self.network.close(self._me, peer)
        self._tell().disconnected(peer, by_peer=False)
        self._redial(peer, self.network.latency.redial_s)

    def _watch_idle(self) -> None:
        if not self.live:
            return
        network = self.network
        for peer in network.names:
            link = network.connection(self._me, peer)
            if link.up.get(self._me) and network.world.now - link.heard[self._me] > network.latency.idle_s:
                network.world.log("idle", self._me, peer)
                self._give_up(peer)
        network.world.after(0.5, lambda: self.host.post(self._watch_idle))

    # -- dialling ------------------------------------------------------------------------------------------------

    def _redial(self, peer: str, delay_s: float) -> None:
        self.network.world.after(delay_s, lambda: self.host.post(lambda: self._dial(peer)))

    def _dial(self, peer: str) -> None:
        network, me, now = self.network, self._me, self.network.world.now
        link = network.connection(me, peer)
        if not self.live or link.up.get(me) or peer not in self._addresses:
            return
        address = self._addresses[peer]
        wire = network.wires.get(peer) if network.places.get(address, address) == peer else None
        if wire is None or network.is_cut(me, peer) or network.is_cut(peer, me) or now - link.opened_at < 0.5:
            self._redial(peer, network.latency.redial_s * self._chance.uniform(0.8, 1.2))
            return
        network.forget(link)
        link.opened_at = now
        epoch, hello = link.epoch, self._tell().introduce(peer)
        network.transmit(me, peer, len(hello), lambda: self._hand_over(network.wires.get(peer), lambda w: w.answer(self, epoch, hello)))
        self._redial(peer, 1.0)

    def _hand_over(self, wire: "SimWire | None", event: "Callable[[SimWire], None]") -> None:
        if wire is not None and wire.live:
            wire.host.post(lambda: event(wire))

    def answer(self, dialler: "SimWire", epoch: int, hello: bytes) -> None:
        """The dialled end: check the hello, answer the very process that dialled with ours or with a refusal."""
        me, peer = self._me, dialler.host.name
        link = self.network.connection(me, peer)
        if not self.live or link.epoch != epoch:
            return
        if link.up.get(me):
            link.up[me] = False
            self._tell().disconnected(peer, by_peer=False)
        try:
            known = self._tell().welcome(hello)
        except ValueError as error:
            reason = str(error)
            self.network.transmit(me, peer, len(reason), lambda: self._hand_over(dialler, lambda w: w.refused(me, epoch, reason)))
            return
        if known != peer:
            self.network.world.violate("identity", f"{me} took the hello of {peer} for one of {known}")
        reply = self._tell().introduce(peer)
        self.network.transmit(me, peer, len(reply), lambda: self._hand_over(dialler, lambda w: w.accepted(me, epoch, reply)))
        self._up(peer, link)

    def accepted(self, peer: str, epoch: int, hello: bytes) -> None:
        """The dialling end: its hello was taken, here is the peer's."""
        link = self.network.connection(self._me, peer)
        if not self.live or link.epoch != epoch or link.up.get(self._me):
            return
        try:
            self._tell().welcome(hello)
        except ValueError:
            self.network.send_close(self._me, peer, link)
            return
        self._up(peer, link)

    def refused(self, peer: str, epoch: int, reason: str) -> None:
        if self.live and self.network.connection(self._me, peer).epoch == epoch:
            self.network.world.log("refused", self._me, peer, reason)
            self._tell().handshake_refused(peer, reason)

    def _up(self, peer: str, link: Connection) -> None:
        link.up[self._me] = True
        link.heard[self._me] = self.network.world.now
        self.network.world.log("up", self._me, peer)
        self._tell().connected(peer)
