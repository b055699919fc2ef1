"""What a step wants said, held back until what it rests on is durable."""

from raft.guard import Guard
from raft.messages import AppendEntries, Message
from raft.router import Router


class Outbox:
    """Messages of one step, in their order; `attach` comes before the first one leaves."""

    def __init__(self) -> None:
        self._held: list[tuple[str, Message]] = []
        self._durable_term = -1
        self._guard: Guard
        self._router: Router

    def attach(self, guard: Guard, router: Router) -> None:
        self._guard, self._router = guard, router

    def __bool__(self) -> bool:
        return bool(self._held)

    def emit(self, peer: str, message: Message) -> None:
        self._held.append((peer, message))

    def clear(self) -> None:
        self._held.clear()

    def synced(self) -> None:
        """All that was held rests on is durable, the term above all."""
        self._durable_term = self._guard.engine.term

    def send_log(self) -> None:
        """Before the sync: the leader's entries, which claim nothing but its term. It counts itself as holding them a step later."""
        engine = self._guard.engine
        if engine.is_leader and engine.term == self._durable_term:
            early = [item for item in self._held if type(item[1]) is AppendEntries]
            self._held = [item for item in self._held if type(item[1]) is not AppendEntries]
            self._send(early)

    def beat(self, now: float) -> float:
        """While the journal is being synced, which holds up every step: a leader's sign of life, if it is due; when to call this again."""
        engine = self._guard.engine
        if not engine.is_leader:
            return float("inf")
        if now >= engine.heartbeat_due:
            engine.send_log()
            self.send_log()
        return engine.heartbeat_due

    def flush(self) -> None:
        held, self._held = self._held, []
        self._send(held)

    def _send(self, items: list[tuple[str, Message]]) -> None:
        for peer, message in items:
            if peer in self._guard.peers and not self._router.send(peer, message):
                self._guard.peers[peer].forget_flight()
