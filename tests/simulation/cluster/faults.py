"""What goes wrong in a whole cluster: what does for servers, and agents, nodes, engines, wall clocks and old backups beside it."""

from collections import deque
from collections.abc import Callable, Mapping
from random import Random
from typing import Protocol

from tests.simulation.cluster.actor import Actor, Clock
from tests.simulation.cluster.agent import AgentNode
from tests.simulation.faults import KILL, NET, POWER, Fault, Victim
from tests.simulation.members import Operator
from tests.simulation.network import Network
from tests.simulation.world import World

NODE = {
    "node-kill": 4, "node-pause": 3, "node-cut": 3, "node-part": 3, "node-oneway": 2, "node-off": 1, "engine-away": 2, "notes-old": 2,
    "wall-jump": 1,
}
PROFILES: dict[str, dict[str, int]] = {
    "cluster-calm": {},
    "cluster-net": NET | {"node-part": 3, "user-cut": 1, "alone": 2},
    "cluster-leaders": {"handover": 8, "pause": 3, "partition": 2, "oneway": 2, "kill": 2, "alone": 2},
    "cluster-views": {"alone": 5, "node-kill": 5, "pause": 2, "wall-jump": 1},
    "cluster-nodes": NODE,
    "cluster-servers": POWER | {"user-cut": 2, "wall-jump": 1},
    "cluster-members": {
        "add": 7, "remove": 6, "move": 4, "lead": 2, "partition": 2, "oneway": 1, "pause": 2, "kill": 3, "power": 2, "killall": 1,
        "node-kill": 2, "node-cut": 1, "node-part": 2, "user-cut": 1, "alone": 1,
    },
    "cluster-power": {
        "node-off": 3, "node-midoff": 8, "node-midkill": 4, "node-kill": 1, "node-cut": 2,
        "alone": 1, "partition": 1, "kill": 1, "killall": 1,
    },
    "cluster": KILL | NODE | {"user-cut": 1, "alone": 1},
}
LEASE_S = 5.0
SAMPLE_S = 0.1
PARTLY = 0.25
"""A node that some servers cannot hear must find the others anew after each trouble; by itself that is never enough to lose it."""
MOVED = 5.0
"""Samples for each time that a server was lost to a node, which may be the one that it tries next: two of them in a lease may be too
much, one is not."""
WINDOW = round((LEASE_S + 1.0) / SAMPLE_S)


class Server(Victim, Protocol):
    clock: Clock

    @property
    def url(self) -> str: ...


class ClusterNemesis(Operator):
    def __init__(
        self,
        world: World,
        network: Network,
        servers: Mapping[str, Server],
        nodes: dict[str, AgentNode],
        users: Mapping[str, Actor],
        profile: str,
        every_s: float,
        *,
        only: tuple[Fault, ...] | None = None,
    ) -> None:
        """`servers` are those there are at any time."""
        victims: dict[str, Victim] = servers  # type: ignore[assignment]
        super().__init__(world, network, victims, profile, every_s, only=only)
        self._servers = servers
        self._nodes = nodes
        self._users = users
        self._changing = "add" in self._weights
        self._troubles: dict[str, deque[float]] = {name: deque(maxlen=WINDOW) for name in nodes}
        self._everyone = frozenset(servers)
        self._within_reach: dict[str, frozenset[str]] = {}
        self._node_kinds: dict[str, Callable[[AgentNode], None]] = {
            "node-kill": self._kill_agent,
            "node-pause": self._pause_agent,
            "node-cut": self._cut_off,
            "node-part": self._cut_from_some,
            "node-oneway": self._cut_one_way,
            "node-off": self._switch_off,
            "node-midoff": self._switch_off_in_operation,
            "node-midkill": self._kill_in_operation_of_node,
            "engine-away": self._engine_away,
            "notes-old": self._restore_notes,
        }

    def start(self, at: float) -> None:
        super().start(at)
        self._sample()

    def _profile(self, name: str) -> dict[str, int]:
        return PROFILES[name]

    def _victim_of(self, kind: str) -> str:
        dice = self._dice
        if kind in self._node_kinds:
            return dice.choice(sorted(self._nodes))
        if kind == "user-cut":
            return dice.choice(sorted(self._users))
        if kind == "wall-jump":
            return dice.choice(sorted({**self._servers, **self._nodes}))
        return super()._victim_of(kind)

    def _cause(self, fault: Fault) -> None:
        if fault.kind in self._node_kinds:
            self._node_kinds[fault.kind](self._nodes[fault.victim])
        elif fault.kind == "user-cut":
            self._cut(self._links(fault.victim, self._chance.sample(sorted(self._servers), 1)), self._chance.uniform(0.5, 5.0))
        elif fault.kind == "alone":  # from its peers, but neither from nodes nor from users
            others = [name for name in sorted(self._servers) if name != fault.victim]
            self._cut(self._links(fault.victim, others), self._away_s(self._chance))
        elif fault.kind == "wall-jump" and fault.victim in {**self._nodes, **self._servers}:
            machine: Server | AgentNode = self._nodes[fault.victim] if fault.victim in self._nodes else self._servers[fault.victim]
            machine.clock.offset_s += self._chance.choice((-3600.0, -10.0, 10.0, 3600.0))
        else:
            super()._cause(fault)

    def heal(self) -> None:
        super().heal()
        for _, node in sorted(self._nodes.items()):
            node.engine.away = ""
            node.platter.crash_at = None
            if node.paused:
                node.resume()
            self._back(node, 0.5)

    # -- how well each node can be heard, by true time ---------------------------------------------------------------

    def trouble_s(self, node: str) -> float:
        """Seconds of the last lease and one more in which it was the node, or its way to the leader, that failed."""
        return SAMPLE_S * sum(self._troubles[node])

    def _sample(self) -> None:
        leaders = [s for _, s in sorted(self._servers.items()) if s.leads() and not s.paused]
        up = all(server.alive and not server.paused for server in self._servers.values())
        whole = up and not self._changing and not any(self._network.cuts.values())
        for name, node in self._nodes.items():
            away = not node.alive or node.paused or node.waits
            if away or (leaders and not whole and not self._hears(name, leaders[-1].name)):
                self._troubles[name].append(1.0)
            else:
                reached = self._everyone if whole else frozenset(s for s in self._servers if self._answers(name, s))
                moved = MOVED if self._within_reach.get(name, reached) - reached else 0.0
                self._troubles[name].append(moved + (0.0 if len(reached) == len(self._servers) else PARTLY))
                self._within_reach[name] = reached
        self._world.after(SAMPLE_S, self._sample)

    def _hears(self, node: str, leader: str) -> bool:
        """Whether there is a server that hears the node, which knows of it, and is heard by the leader: a member, where they change."""
        known = self._nodes[node].known_servers if self._changing else set()
        members = self._roster.members() if self._changing else ()
        return any(
            server.alive and self._answers(node, name) and (name == leader or self._both_ways(name, leader))
            for name, server in self._servers.items()
            if not self._changing or (server.url in known and name in members)
        )

    def _answers(self, node: str, server: str) -> bool:
        """One that is dead refuses at once; on one that is paused a node waits."""
        return not self._servers[server].paused and self._both_ways(node, server)

    def _both_ways(self, a: str, b: str) -> bool:
        return not self._network.is_cut(a, b) and not self._network.is_cut(b, a)

    # -- nodes -----------------------------------------------------------------------------------------------------

    def _away_s(self, chance: Random) -> float:
        """Less than the lease, about as long, or longer."""
        return chance.choice((chance.uniform(0.1, 3.0), chance.uniform(3.0, 7.0), chance.uniform(7.0, 20.0)))

    def _back(self, node: AgentNode, within_s: float) -> None:
        self._world.after(self._chance.uniform(0.02, within_s), lambda: None if node.alive else node.start())

    def _kill_agent(self, node: AgentNode) -> None:
        node.die()
        self._world.after(self._away_s(self._chance), lambda: None if node.alive else node.start())

    def _pause_agent(self, node: AgentNode) -> None:
        node.pause()
        self._world.after(self._away_s(self._chance), node.resume)

    def _links(self, name: str, servers: list[str]) -> list[tuple[str, str]]:
        return [link for server in servers for link in ((name, server), (server, name))]

    def _cut_off(self, node: AgentNode) -> None:
        self._cut(self._links(node.name, sorted(self._servers)), self._away_s(self._chance))

    def _cut_from_some(self, node: AgentNode) -> None:
        names = sorted(self._servers)
        some = self._chance.sample(names, self._chance.randrange(1, max(2, len(names))))
        self._cut(self._links(node.name, some), self._away_s(self._chance))

    def _cut_one_way(self, node: AgentNode) -> None:
        links, first = self._links(node.name, sorted(self._servers)), self._chance.randrange(2)
        self._cut(links[first::2], self._away_s(self._chance))

    def _switch_off(self, node: AgentNode) -> None:
        node.lose_power()
        self._world.after(self._away_s(self._chance), lambda: None if node.alive else node.start())

    def _switch_off_in_operation(self, node: AgentNode) -> None:
        self._end_in_operation(node, power=True)

    def _kill_in_operation_of_node(self, node: AgentNode) -> None:
        self._end_in_operation(node, power=False)

    def _end_in_operation(self, node: AgentNode, *, power: bool) -> None:
        """At one of the next operations of its disk, which come when it has something to note."""
        node.platter.crash_at, node.powers_off = node.platter.operations + self._chance.randrange(1, 12), power

        def end() -> None:
            node.platter.crash_at = None
            if not node.alive:
                node.start()

        self._world.after(max(2.0, self._away_s(self._chance)), end)

    def _engine_away(self, node: AgentNode) -> None:
        node.engine.away = self._chance.choice(("refuses", "hangs"))
        self._world.after(self._away_s(self._chance), lambda: setattr(node.engine, "away", ""))

    def _restore_notes(self, node: AgentNode) -> None:
        """The agent's directory is put back as a backup has it, from a life or more ago."""
        if node.copies:
            node.die()
            node.restore_copy(node.copies[0] if self._chance.random() < 0.5 else self._chance.choice(node.copies))
            self._back(node, 3.0)
