"""One run of a whole cluster: servers, agents, engines and users in one world; break it, heal it, judge it."""

import gc
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import structs

from kago.core.model.deployment import Strategy
from kago.core.model.node import NodeStatus
from kago.core.state.commands import SCHEMA_VERSION
from kago.core.state.tables import Tables
from raft.contract import RaftConfig
from tests.simulation.cluster.agent import AgentNode
from tests.simulation.cluster.api import quick_blueprints
from tests.simulation.cluster.containers import Harbour
from tests.simulation.cluster.engine import CALM, Mood
from tests.simulation.cluster.faults import PROFILES, ClusterNemesis
from tests.simulation.cluster.history import History
from tests.simulation.cluster.ledger import Ledger
from tests.simulation.cluster.notes import forgetful_disks
from tests.simulation.cluster.server import ServerProcess
from tests.simulation.cluster.users import User
from tests.simulation.cluster.web import Manners, Web
from tests.simulation.members import Roster
from tests.simulation.network import Latency, Network
from tests.simulation.process import Pace
from tests.simulation.simulation import NARROW, PORT, ROOMY, WRITE_BACK_S, Options, Outcome, _durable, apply_s, squeezed
from tests.simulation.world import World

CONVERGE_S = 100.0
"""Once everything works again, what is wanted must run within this: a crash loop's longest delay, a rollout, and some."""
STEADY_S = 3.0
READS_S = 1.0
FIRST_NEWCOMER = 30
"""Number of the first server that joins, past those of all other machines."""


class ClusterSimulation:
    def __init__(self, seed: int, options: Options) -> None:
        if options.profile not in PROFILES:
            raise ValueError(f"no profile {options.profile!r}; there are {', '.join(PROFILES)}")
        self.seed = seed
        self.options = options
        world = self.world = World(seed, keep_trace=options.keep_trace)
        chance = world.random("shape")
        faulty = bool(PROFILES[options.profile]) or options.only is not None
        self.changing = "add" in PROFILES[options.profile]
        """Whether servers come and go."""
        self.names = [f"s{i}:{PORT}" for i in range(1, options.members + 1)]
        longest_s = chance.choice((0.002, 0.005, 0.03))
        slow_share, slow_s = chance.choice((0.0, 0.01, 0.05)), chance.choice((0.1, 0.4, 1.2))
        self.network = Network(world, self.names, Latency(longest_s=longest_s, slow_share=slow_share, slow_s=slow_s))
        rough = faulty and chance.random() < 0.7
        self.web = Web(
            world,
            self.network,
            Manners(
                longest_s=longest_s, slow_share=slow_share, slow_s=slow_s, lost_share=0.02 if rough else 0.0,
                repeated_share=chance.choice((0.05, 0.3)) if rough else 0.0,
            ),
        )
        self.history = History(world)
        self.ledger = Ledger(world, self.names, self._holds, self.history)
        self.harbour = Harbour(world, self.ledger)
        self.ledger.has_container = self.harbour.has_container
        self.sizes = chance.choice((ROOMY, NARROW))
        entries, strategy = chance.choice((15, 40, 200)), chance.choice(list(Strategy))
        self.servers: dict[str, ServerProcess] = {}
        """All there ever were."""
        self.roster = Roster(world, self.network, self.names, self.servers, self._newcomer)
        self.roster.faults_until = options.seconds
        self.ledger.is_majority = self.roster.rolls.is_majority
        for name in tuple(self.names):
            config = RaftConfig(
                me=name, members=tuple(self.names), max_replies=5_000, snapshot_every_bytes=200_000, snapshot_every_entries=entries,
                level=SCHEMA_VERSION, apply_s=apply_s(world), ablate=options.ablate,
            )
            pace = Pace(
                snapshot_s=chance.choice((0.005, 0.1, 0.6)), sync_s=chance.choice((0.0, 0.0, 0.004)), transfer_bytes=self.sizes.transfer
            )
            self.template = config, pace, strategy
            self.roster.enrol(self._server(config, len(self.servers) + 1))
        mood = Mood(ends_after_s=chance.choice((0.0, 20.0, 120.0))) if faulty else CALM
        self.nodes = {
            name: AgentNode(world, name, self.web, self.harbour, mood, 11 + number)
            for number, name in enumerate(("n1", "n2", "n3"))
        }
        self.users = {
            name: User(world, name, self.web, self.history, 21 + number, every_s=chance.choice((0.5, 1.5)))
            for number, name in enumerate(("u1", "u2", "u3"))
        }
        self.nemesis = ClusterNemesis(
            world, self.network, self._active, self.nodes, self.users, options.profile, options.fault_every_s, only=options.only
        )
        self.nemesis.run_with(self.roster)
        self.ledger.trouble_s = self.nemesis.trouble_s

    @property
    def _active(self) -> dict[str, ServerProcess]:
        """Servers that were not removed."""
        return self.roster.active  # type: ignore[return-value]

    def _server(self, config: RaftConfig, number: int) -> ServerProcess:
        _, pace, strategy = self.template
        rolls = self.roster.rolls
        return ServerProcess(
            self.world, self.network, self.ledger, config, pace, rolls, web=self.web, strategy=strategy, number=number
        )

    def _newcomer(self, id: str, told: RaftConfig) -> ServerProcess:
        config = structs.replace(self.template[0], me=told.me, members=(), invitation=told.invitation)
        return self._server(config, FIRST_NEWCOMER + len(self.servers))

    def _holds(self, name: str, entry: bytes) -> bool:
        server = self.servers[name]
        return any(_durable(inode, entry) for inode in server.platter.durable.values())

    def run(self) -> Outcome:
        if not gc.get_freeze_count():
            gc.freeze()  # Modules are never garbage. Once only: what is frozen stays for ever, and runs before this one must not.
        gc.disable()  # what is collected when must not depend on what ran before
        try:
            with squeezed(self.sizes), _seeded_ids(self.world), quick_blueprints(), forgetful_disks():
                try:
                    return self._run()
                finally:
                    self._bury()
        finally:
            gc.enable()

    def _run(self) -> Outcome:
        world = self.world
        for server in self.servers.values():
            server.start()
        for actor in (*self.nodes.values(), *self.users.values()):
            actor.start()
        self.nemesis.start(4.0)
        world.after(WRITE_BACK_S, self._write_back)
        world.run_until(self.options.seconds)
        self._heal()
        return self._outcome()

    def _bury(self) -> None:
        """Coroutines of the dead complain when they are closed, to a hook that nobody needs to hear."""
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            for server in self.servers.values():
                server.bury()
            for actor in (*self.nodes.values(), *self.users.values()):
                actor.bury()
            gc.collect()
        finally:
            sys.unraisablehook = hook

    def _write_back(self) -> None:
        for _, server in sorted(self.servers.items()):
            server.platter.write_back()
        for node in self.nodes.values():
            node.platter.write_back()
        self.world.after(WRITE_BACK_S, self._write_back)

    # -- the end ---------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        world = self.world
        self.nemesis.heal()
        world.log("healed")
        if self.changing:
            self.roster.settle()
        for _, node in sorted(self.nodes.items()):
            node.engine.mood = CALM
        for _, user in sorted(self.users.items()):
            user.resting = True
        healed_at, steady_since, wrong = world.now, 0.0, ["nothing looked at"]
        while world.now < healed_at + CONVERGE_S:
            self._give_addresses()
            world.run_until(world.now + 0.5)
            wrong = self._unfinished()
            if wrong:
                steady_since = 0.0
            elif not steady_since:
                steady_since = world.now
            elif world.now - steady_since >= STEADY_S:
                break
        for what in wrong[:5]:
            world.violate("stuck", f"{CONVERGE_S:.0f} s after everything was healed: {what}")
        world.counts["heal-ms"] += int(1000 * ((steady_since or world.now) - healed_at))
        world.run_until(world.now + READS_S)
        self.history.judge()
        self._compare_states()
        for _, server in sorted(self.servers.items()):
            server.check_disk()
            if server.server is not None:
                world.log("end", server.name, server.server.store.tables.index, server.server.store.machine.digest)

    def _compare_states(self) -> None:
        """Equal index, equal bytes: whether it came there by entries or by a snapshot."""
        states: dict[int, tuple[str, bytes]] = {}
        for name, server in sorted(self.servers.items()):
            if server.server is not None and server.alive:
                machine = server.server.store.machine
                state = b"".join(machine.snapshot()())
                other, known = states.setdefault(machine.tables.index, (name, state))
                if state != known:
                    self.world.violate("state-differs", f"{name} and {other} differ at index {machine.tables.index}")

    def _unfinished(self) -> list[str]:
        """What keeps the cluster from being exactly as it is wanted, by the state of every server and by what really runs."""
        members = {name: self.servers[name] for name in self.roster.members()}
        wrong = [f"{server.name} does not run" for server in members.values() if not server.alive]
        wrong += [f"{node.name} does not run" for node in self.nodes.values() if not node.alive]
        stores = {name: server.server.store for name, server in members.items() if server.alive and server.server is not None}
        if wrong:
            return wrong
        indexes = {name: store.tables.index for name, store in stores.items()}
        if max(indexes.values()) - min(indexes.values()) > 3:
            return [f"not converged: {indexes}"]
        tables = stores[max(indexes, key=lambda name: indexes[name])].tables
        wrong += self._unlearnt(tables)
        for name, (replicas, image) in self.history.all().items():
            deployment = tables.deployments.get(name)
            if deployment is None or (deployment.replicas, deployment.image) != (replicas, image):
                wrong.append(f"deployment {name} is {deployment}, not {replicas} of {image}")
            elif not deployment.ready_replicas == deployment.updated_replicas == deployment.total_replicas == replicas:
                counts = (deployment.ready_replicas, deployment.updated_replicas, deployment.total_replicas)
                reasons = {(pod.status.value, pod.reason, pod.node_name) for pod in tables.pods_of_deployment(name) if not pod.ready}
                wrong.append(f"deployment {name} wants {replicas}, (ready, updated, total) are {counts}: {sorted(map(str, reasons))}")
        for name in sorted(set(tables.deployments) - set(self.history.all())):
            wrong.append(f"deployment {name} is there and should not")
        for node in tables.nodes.values():
            if node.status is not NodeStatus.READY:
                wrong.append(f"node {node.name} is {node.status}: {node.reason}")
        wanted = {pod.id: pod.node_name for pod in tables.pods.values()}
        engines = {name: node.engine for name, node in self.nodes.items()}
        found = {one.pod_id: name for name, engine in engines.items() for one in engine.containers.values() if one.running}
        kept = sum(len(engine.containers) for engine in engines.values())
        if wanted != found or kept != len(found):
            wrong.append(f"pods are {sorted(wanted.items())}, containers {sorted(found.items())}, {kept} in all")
        return wrong

    def _unlearnt(self, tables: Tables) -> list[str]:
        """Whoever has not heard by itself which servers there are now."""
        urls = {self.servers[name].url for name in self.roster.members()}
        told = {server.id: server.api for server in tables.servers.values()}
        wrong = [] if set(told) == set(self.roster.members()) and set(told.values()) == urls else [f"the servers are {told}, not {urls}"]
        for actor in self._asking():
            if not urls <= actor.known_servers:
                wrong.append(f"{actor.name} knows {sorted(actor.known_servers)} of the servers {sorted(urls)}")
        return wrong

    def _asking(self) -> list[AgentNode | User]:
        return [*self.nodes.values(), *self.users.values()]

    def _has_lost_touch(self, actor: AgentNode | User) -> bool:
        """Whether every server it knows was removed or has moved, while it could not hear of it: a removed one may not know it either."""
        hosts = {self.servers[name].host for name in self.roster.members()}
        return actor.alive and not any(url.partition("://")[2] in hosts for url in actor.known_servers)

    def _give_addresses(self) -> None:
        """Whoever has lost touch hears from a person where the servers are now, and only they do."""
        for actor in self._asking() if self.changing else ():
            if self._has_lost_touch(actor):
                self.world.log("readdressed", actor.name)
                self.world.counts["readdressed"] += 1
                actor.die()
                actor.start()

    def _outcome(self) -> Outcome:
        world, history = self.world, self.history
        answers = dict(history.outcomes) | {
            "done": history.acknowledged,
            "unknown": sum(n for kind, n in history.outcomes.items() if kind.endswith("-unknown")),
            "reads": history.outcomes["get-ok"] + history.outcomes["list-ok"],
            "reads-done": history.outcomes["get-ok"] + history.outcomes["list-ok"],
        }
        return Outcome(
            seed=self.seed,
            trace=world.trace_hash(),
            violations=tuple(world.violations),
            kinds=dict(world.violation_kinds),
            struck=tuple(self.nemesis.struck),
            counts=dict(world.counts),
            answers=answers,
            elections=len(self.ledger.leaders),
            newest_term=self.ledger.newest_term,
            stale_leader_s=round(sum(server.stale_leader_s for server in self.servers.values()), 3),
            worst_gap_s=round(history.worst_gap_s, 3),
            simulated_s=world.now,
        )


@contextmanager
def _seeded_ids(world: World) -> Iterator[None]:
    """Production draws its UUIDs from the system's chance; for the length of a run they come from the seed."""
    dice, real = world.random("uuid"), uuid.uuid4
    uuid.uuid4 = lambda: uuid.UUID(int=dice.getrandbits(128), version=4)
    try:
        yield
    finally:
        uuid.uuid4 = real
