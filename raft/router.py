"""Which way to a member: its own connection, or one hop over a member that has one.

When only the path between two members fails, both still see the others; without a detour the cut-off follower would neither hear
the leader nor be able to serve. Members tell each other whom they hear, and pass frames on. A path may fail in one direction only, and
the end that still hears takes it for whole: missing from what the other hears is how it learns to go round. Raft does not mind:
its messages may be late, and each carries what is needed to judge it.
"""

from collections.abc import Callable, Iterable

from raft.contract import Wire
from raft.messages import Message, Reach, Relayed, encode
from raft.pipeline import NEVER

_ANNOUNCE_S = 1.0
_LISTEN_S = 0.2
"""How often a member looks whom it hears."""
_SILENT_S = 1.0
"""Leader and follower exchange many messages in this time; a connection that brought none carries nothing this way."""
_QUIET_S = 2.5 * _ANNOUNCE_S
"""The same between followers, who tell each other nothing but whom they hear."""


class Router:
    """Sends frames directly or over a third member, and says who can be reached."""

    def __init__(self, me: str, wire: Wire, on_change: Callable[[str, bool], None]) -> None:
        self._me = me
        self._peers: list[str] = []
        self._wire = wire
        self._on_change = on_change
        self._direct: dict[str, float] = {}
        """When each member with a connection was last heard over it."""
        self._deaf: set[str] = set()
        """Those among them that do not hear this member over it."""
        self._reach: dict[str, frozenset[str]] = {}
        self._ways: dict[str, bool] = {}
        """Who can be reached: True over its own connection, False over a third member."""
        self._leader: str | None = None
        self._heard: list[str] = []
        self._announced_at = self._listened_at = self._awake_at = NEVER

    def set_peers(self, ids: Iterable[str]) -> None:
        """Talk with these and no others; called before those that go are forgotten elsewhere."""
        peers = sorted(ids)
        if peers == self._peers:
            return
        for gone in sorted(set(self._peers) - set(peers)):
            self._lose(gone)
            if self._ways.pop(gone, None) is not None:
                self._on_change(gone, False)
        self._peers = peers
        self._reach = {via: frozenset(id for id in reached if id in peers) for via, reached in self._reach.items()}

    def connected(self, peer: str, now: float) -> None:
        self._direct[peer] = now
        self.settle(anew=peer)
        self._announce(now)

    def disconnected(self, peer: str, now: float) -> None:
        self._lose(peer)
        self.settle(anew=peer)
        self._announce(now)

    def _lose(self, peer: str) -> None:
        self._direct.pop(peer, None)
        self._deaf.discard(peer)
        self._reach.pop(peer, None)

    def is_direct(self, peer: str) -> bool:
        return peer in self._direct

    # -- who hears whom --------------------------------------------------------------------------------------------

    def heard(self, peer: str, now: float) -> None:
        """A frame of `peer` came over its own connection."""
        if peer in self._direct:
            self._direct[peer] = now

    def woke(self, now: float) -> None:
        """This process itself was not running: that it heard nobody says nothing."""
        self._awake_at = now

    def is_heard(self, peer: str) -> bool:
        """Whether `peer` gets what is sent to it, as far as is known."""
        return (peer in self._direct and peer not in self._deaf) or self._via(peer) is not None

    @property
    def due(self) -> float:
        return self._announced_at + _ANNOUNCE_S if self._peers else float("inf")

    def step(self, now: float, leader: str | None) -> None:
        """Tell the peers whom this member hears, at once where that changed; also the sign of life between those with nothing to say."""
        if now - self._listened_at >= _LISTEN_S or now >= self.due:
            self._listened_at, self._leader = now, leader
            if now >= self.due or self._hears(now) != self._heard:
                self._announce(now)

    def _hears(self, now: float) -> list[str]:
        leads = self._leader == self._me
        return sorted(
            peer
            for peer, at in self._direct.items()
            if now - max(at, self._awake_at) < (_SILENT_S if leads or peer == self._leader else _QUIET_S)
        )

    def _announce(self, now: float) -> None:
        self._announced_at, self._heard = now, self._hears(now)
        frame = encode(Reach(peers=self._heard))
        for peer in sorted(self._direct):
            self._wire.send(peer, frame)

    def on_reach(self, peer: str, message: Reach) -> None:
        known = frozenset(member for member in message.peers if member in self._peers)
        deaf = self._me not in message.peers and peer in self._direct
        if self._reach.get(peer) != known or deaf != (peer in self._deaf):
            self._reach[peer] = known
            (self._deaf.add if deaf else self._deaf.discard)(peer)
            self.settle()

    # -- ways ------------------------------------------------------------------------------------------------------

    def _via(self, peer: str) -> str | None:
        for via in self._peers:
            if via in self._direct and via not in self._deaf and peer in self._reach.get(via, ()):
                return via
        return None

    def settle(self, *, anew: str = "") -> None:
        """See who can be reached now. A new connection (to `anew`) or another way is a new conversation: what was on its way over the old
        one is lost."""
        for peer in self._peers:
            before, own, via = self._ways.get(peer), peer in self._direct, self._via(peer)
            now = None if not own and via is None else own and (via is None or peer not in self._deaf)
            if now is before and (peer != anew or now is None):
                continue
            if before is not None:
                del self._ways[peer]
                self._on_change(peer, False)
            if now is not None:
                self._ways[peer] = now
                self._on_change(peer, True)

    def send(self, peer: str, message: Message) -> bool:
        """False if it certainly does not arrive."""
        frame = encode(message)
        if self._ways.get(peer):
            return self._wire.send(peer, frame)
        via = self._via(peer)
        return via is not None and self._wire.send(via, encode(Relayed(origin=self._me, target=peer, frame=frame)))

    def on_relayed(self, peer: str, message: Relayed) -> tuple[str, bytes] | None:
        """Pass it on, or (origin, frame) if it is for this member."""
        if message.target == self._me and message.origin in self._peers:
            return message.origin, message.frame
        if message.origin == peer and message.target in self._direct:
            self._wire.send(message.target, encode(message))
        return None
