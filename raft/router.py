"""Which way to a member: its own connection, or one hop over a member that has one.

When only the path between two members fails, both still see the others; without a detour the cut-off follower would neither hear
the leader nor be able to serve. Members tell each other whom they reach, and pass frames on. Raft does not mind:
its messages may be late, and each carries what is needed to judge it.
"""

from collections.abc import Callable, Iterable

from raft.contract import Wire
from raft.messages import Message, Reach, Relayed, encode


class Router:
    """Sends frames directly or over a third member, and says who can be reached."""

    def __init__(self, me: str, wire: Wire, on_change: Callable[[str, bool], None]) -> None:
        self._me = me
        self._peers: list[str] = []
        self._wire = wire
        self._on_change = on_change
        self._direct: set[str] = set()
        self._reach: dict[str, frozenset[str]] = {}
        self._reachable: set[str] = set()

    def set_peers(self, ids: Iterable[str]) -> None:
        """Talk with these and no others; called before those that go are forgotten elsewhere."""
        peers = sorted(ids)
        if peers == self._peers:
            return
        for gone in sorted(set(self._peers) - set(peers)):
            self._direct.discard(gone)
            self._reach.pop(gone, None)
            if gone in self._reachable:
                self._reachable.discard(gone)
                self._on_change(gone, False)
        self._peers = peers
        self._reach = {via: frozenset(id for id in reached if id in peers) for via, reached in self._reach.items()}

    def settle(self) -> None:
        """See who can be reached now, after `set_peers`."""
        self._settle()

    def connected(self, peer: str) -> None:
        # A new connection is a new conversation: whatever was on its way over the old one is lost.
        self._direct.add(peer)
        if peer in self._reachable:
            self._on_change(peer, False)
            self._reachable.discard(peer)
        self._settle()
        self.announce()

    def disconnected(self, peer: str) -> None:
        self._direct.discard(peer)
        self._reach.pop(peer, None)
        if peer in self._reachable:
            self._on_change(peer, False)
            self._reachable.discard(peer)
        self._settle()
        self.announce()

    def is_direct(self, peer: str) -> bool:
        return peer in self._direct

    def announce(self) -> None:
        """Tell the peers whom this member reaches; also the sign of life between members that have nothing to say."""
        frame = encode(Reach(peers=sorted(self._direct)))
        for peer in sorted(self._direct):
            self._wire.send(peer, frame)

    def on_reach(self, peer: str, message: Reach) -> None:
        known = frozenset(member for member in message.peers if member in self._peers)
        if self._reach.get(peer) != known:
            self._reach[peer] = known
            self._settle()

    def _via(self, peer: str) -> str | None:
        for via in self._peers:
            if via in self._direct and peer in self._reach.get(via, ()):
                return via
        return None

    def _settle(self) -> None:
        for peer in self._peers:
            now = peer in self._direct or self._via(peer) is not None
            if now != (peer in self._reachable):
                (self._reachable.add if now else self._reachable.discard)(peer)
                self._on_change(peer, now)

    def send(self, peer: str, message: Message) -> bool:
        """False if it certainly does not arrive."""
        frame = encode(message)
        if peer in self._direct:
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
