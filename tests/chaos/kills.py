"""Kills servers and agents at every failpoint, again and again, under load, and judges as after every other fault.

    python -m tests.chaos.kills --times 20 --out kills.jsonl      the points that were killed at least often come first
    python -m tests.chaos.kills --action error --times 5          what is written, synced, renamed and started fails there instead
    python -m tests.chaos.kills --report kills.jsonl

Each server and each agent has its own failpoint armed, dies at it, and is started again; another is armed as soon as the cluster is
whole. A cluster lives for a number of deaths and is then judged: nothing acknowledged lost or doubled, no container restarted that ran,
none orphaned.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from tests.chaos.campaign import IMAGE, deploy_steady
from tests.chaos.cluster import SERVERS, ChaosCluster
from tests.chaos.failpoints import AGENT, DOCKER, POLL_S, PROCESS, SERVER
from tests.chaos.load import Load
from tests.chaos.nursery import Nursery
from tests.chaos.record import check_record
from tests.chaos.registry import Registry
from tests.chaos.registry import why_none as why_no_registry
from tests.chaos.stage import STEADY
from tests.chaos.verdicts import Findings, check_nodes, check_state, two_of_a_pod
from tests.e2e.netns import why_none
from tests.integration.engine import why_none as why_no_engine

REACHED_S = 6.0
"""A point not reached in that time is disarmed, and another has its turn."""
PARCEL_S = 120.0
"""So long a cluster's load runs before it is judged."""
CHURN = "churn"
REJOIN = "--rejoin"
STARTING = ("restore", "register")
"""Places that are come to at a start and hardly ever later."""
INSTALLING = ("incoming", "receive.snapshot-piece")
"""Those of a follower that gets a snapshot: it must have been away for long enough to need one."""
SENDING = ("send.snapshot-piece",)
VOTING = ("send.ask-vote", "send.vote")
LEAVING = ("hand-over",)
MEETING = ("identity",)
"""Those of a server whose disk was lost, and that rejoins."""
LEADING = ("send.entries", "receive.ack", "receive.proposals", "append", *SENDING, *LEAVING)
FOLLOWING = ("send.ack", "send.proposals", "receive.entries", *VOTING, *INSTALLING, *MEETING)
"""Those that only a leader, and that only a follower, comes to."""
RARE = ("snapshot", "compaction", *STARTING, *INSTALLING, *SENDING, *VOTING, *LEAVING, *MEETING)
AWAY_S = 1.5
LEASE_S = 60.0
"""An agent that dies again and again may be silent for longer than the usual lease; here its pods must not be moved for that."""
FAILING = ("journal", "compaction", "snapshot.", "incoming", "identity", "notes", "process", "docker")
NEVER_FAILING = ("snapshot.begin", "snapshot.adopt", "process.signal")
"""Places where a disk, a kernel or an engine may say no; at the others an error would be a bug of ours."""
SNAPSHOT_ENTRIES = 40
"""Few, so that a snapshot is made every second."""


class Parcel(Struct, frozen=True, kw_only=True):
    """One cluster's load with deaths in it."""

    at: float
    deaths: dict[str, int]
    calls: int
    acknowledged: int
    unknown: int
    findings: Findings


class Killer:
    """Arms points on one cluster's processes, and starts again what died of it."""

    def __init__(self, cluster: ChaosCluster, deaths: Counter[str], dice: random.Random, findings: Findings, *, action: str) -> None:
        self.cluster = cluster
        self._findings = findings
        self._action = action
        self.deaths = deaths
        """Over all parcels, by point."""
        self.mine: Counter[str] = Counter()
        self._dice = dice
        self._armed: dict[str, tuple[str, float]] = {}
        self._down_until: dict[str, float] = {}
        self._unreached: Counter[str] = Counter()
        self._fired: dict[str, int] = {}
        self._churned_at = 0.0

    def step(self, times: int) -> None:
        """Look at every process once."""
        now = time.monotonic()
        for name, process in self.cluster.processes.items():
            running = process.running
            if name in self._armed and (not running or self._action != "exit"):
                self._note(name, now)
            if not running:
                if now >= self._down_until.get(name, 0.0):
                    process.start()
                    self._down_until[name] = now + 0.1
            elif name in self._armed:
                if now - self._armed[name][1] > REACHED_S:
                    self._unreached[self._armed[name][0]] += 1
                    self._disarm(name)
            elif now >= self._down_until.get(name, 0.0) and self._may_die(name):
                if REJOIN in process.arguments:
                    if not self.cluster.in_step():
                        continue  # its directory may still be nobody's
                    process.arguments = tuple(word for word in process.arguments if word != REJOIN)
                self._arm(name, times, now)
        self._churn(now)

    def end(self) -> None:
        """Disarm all, start all, and wait until the cluster is whole."""
        for name in self.cluster.processes:
            if name in self._armed and (self._action != "exit" or not self.cluster.processes[name].running):
                self._note(name, time.monotonic())
            self._disarm(name)
            self.cluster.failpoint(name).write_text("")
        self.cluster.until("the cluster to heal", self._is_whole)

    def _is_whole(self) -> bool:
        """One may have come to its place just as it was disarmed, so that it dies after it was last looked at."""
        for process in self.cluster.processes.values():
            if not process.running:
                process.start()
        return self.cluster.healthy()

    def _may_die(self, name: str) -> bool:
        """One server at a time, while there is a leader: two of three down would only stop the load. Beside engines, agents only."""
        if self.cluster.engines or name not in SERVERS:
            return name not in SERVERS
        others_well = all(other not in self._armed and self.cluster.processes[other].running for other in SERVERS)
        return others_well and bool(self.cluster.roles())

    def _points(self, name: str) -> Sequence[str]:
        if name not in SERVERS:
            return fitting((*AGENT, *(DOCKER if self.cluster.engines else PROCESS)), self._action)
        others = FOLLOWING if self.cluster.roles().get(name) == "leader" else LEADING
        if not self.cluster.in_step():
            others = (*others, *MEETING)  # nobody empties a disk while another server is catching up
        return fitting((point for point in SERVER if not point.startswith(others)), self._action)

    def _arm(self, name: str, times: int, now: float) -> None:
        rank = {p: (self.deaths[p] + self._unreached[p], self._dice.random()) for p in self._points(name) if self.deaths[p] < times}
        if not rank:
            return
        point = min(rank, key=lambda point: rank[point])
        count = 1 if point.startswith(RARE) else self._dice.choice((1, 1, 2, 5))
        self.cluster.failpoint(name).write_text(f"{point}:{count}:{self._action}\n")
        self._armed[name] = (point, now)
        self._lead_to(point, name)

    def _lead_to(self, point: str, name: str) -> None:
        """Bring about what makes a process come to a rare place."""
        process = self.cluster.processes[name]
        if point.startswith((*STARTING, *INSTALLING, *MEETING)):
            self._away(name, AWAY_S if point.startswith(INSTALLING) else 0.1)
        if point.startswith(MEETING):
            self.cluster.empty_disk(name)
            process.arguments = (*process.arguments, REJOIN)
        if point.startswith(SENDING):
            self._away(self._dice.choice([other for other in SERVERS if other != name]), AWAY_S)
        if point.startswith((*VOTING, *LEAVING)):
            time.sleep(3 * POLL_S)
        if point.startswith(VOTING):
            self._away(self.cluster.leader(), 1.0)
        if point.startswith(LEAVING):
            process.signal(signal.SIGTERM)

    def _away(self, name: str, seconds: float) -> None:
        self.cluster.processes[name].kill()
        self._down_until[name] = time.monotonic() + seconds

    def _note(self, name: str, now: float) -> None:
        """Whether it came to its place, and died or went on."""
        fired = Path(f"{self.cluster.failpoint(name)}.fired")
        lines = fired.read_text().splitlines() if fired.exists() else []
        if len(lines) > self._fired.get(name, 0):
            self._fired[name] = len(lines)
            self.deaths[lines[-1]] += 1
            self.mine[lines[-1]] += 1
            self._disarm(name)
            self._down_until[name] = now

    def _disarm(self, name: str) -> None:
        if self._armed.pop(name, None) is not None:
            self.cluster.failpoint(name).write_text("")

    def _churn(self, now: float) -> None:
        """Give the runtimes something to do: pods come and go. None may run twice meanwhile, whenever an agent died."""
        if now - self._churned_at < 1.5:
            return
        self._churned_at = now
        self._findings.orphaned += two_of_a_pod(self.cluster.boxes())
        server = self._dice.choice(SERVERS)
        body = {"replicas": self._dice.randrange(5), "env": {"N": str(self._dice.randrange(3))}}
        self.cluster.ask(server, "PUT", f"/deployments/{CHURN}", body, timeout_s=2.0)


def fitting(points: Iterable[str], action: str) -> list[str]:
    """Those of them at which there can be that action."""
    return [point for point in points if action == "exit" or (point.startswith(FAILING) and not point.startswith(NEVER_FAILING))]


def parcel(
    directory: Path,
    *,
    with_docker: bool,
    secured: bool,
    action: str,
    times: int,
    deaths: Counter[str],
    dice: random.Random,
    nursery: Nursery,
) -> Parcel:
    """One cluster, its deaths and its judgement."""
    findings, began = Findings(), time.time()
    registry = Registry(directory) if with_docker else None
    cluster = ChaosCluster(
        directory,
        with_docker=with_docker,
        failpoints=True,
        secured=secured,
        nursery=nursery,
        snapshot_entries=SNAPSHOT_ENTRIES,
        lease_s=LEASE_S,
    )
    load = Load(cluster.ways, mark="k", dice=dice)
    killer = Killer(cluster, deaths, dice, findings, action=action)
    points = aims(with_docker=with_docker, action=action)
    try:
        cluster.start()
        for engine in cluster.engines.values():
            engine.make_image(IMAGE, marker="chaos")
        deploy_steady(cluster)
        deploy_steady(cluster, name=CHURN, replicas=1, image=registry.publish(cluster.engines["a1"], "churn:1") if registry else IMAGE)
        before = [box for box in cluster.boxes() if box.pod_name.startswith(f"{STEADY}-")]
        cluster.user.do(load.prepare())
        running = cluster.user.begin(load.run())
        until = time.monotonic() + PARCEL_S
        while time.monotonic() < until and any(deaths[point] < times for point in points):
            killer.step(times)
            time.sleep(0.02)
        killer.end()
        cluster.user.loop.call_soon_threadsafe(load.stop)
        running.result(30)
        check_state(cluster, load, findings)
        check_record(load, findings)
        check_nodes(cluster, before, (), findings)
    except Exception as error:  # a cluster that does not heal is a finding like others
        findings.other.append(f"{type(error).__name__}: {error}")
    finally:
        findings.other += cluster.tracebacks()
        cluster.close()
        if registry is not None:
            registry.close()
    sure = sum(call.returned_at is not None and not call.refused for call in load.calls)
    unknown = sum(call.returned_at is None and call.kind != "read" for call in load.calls)
    return Parcel(at=began, deaths=dict(killer.mine), calls=len(load.calls), acknowledged=sure, unknown=unknown, findings=findings)


def aims(*, with_docker: bool, action: str) -> list[str]:
    """Every point that has to be come to. Beside engines only those of agents are armed."""
    return fitting((*AGENT, *DOCKER) if with_docker else (*SERVER, *AGENT, *PROCESS), action)


def report(parcels: Iterable[Parcel]) -> str:
    done = list(parcels)
    deaths: Counter[str] = Counter()
    for one in done:
        deaths.update(one.deaths)
    groups = {"server": SERVER, "agent": AGENT, "process runtime": PROCESS, "Docker": DOCKER}
    rows: list[tuple[str, ...]] = [("places of", "how many", "deaths", "fewest at one", "most at one"), ("---",) * 5]
    for name, points in groups.items():
        each = [deaths[point] for point in points]
        rows.append((name, *map(str, (len(points), sum(each), min(each), max(each)))))
    kinds = {kind: sum(len(getattr(one.findings, kind)) for one in done) for kind in Findings.__struct_fields__}
    return "\n".join(
        [
            *(f"{point:34} {deaths[point]}" for points in groups.values() for point in points),
            *(f"| {' | '.join(row)} |" for row in rows),
            f"{sum(deaths.values())} deaths at {len(deaths)} points in {len(done)} clusters",
            f"{sum(one.calls for one in done)} calls, {sum(one.acknowledged for one in done)} acknowledged, "
            f"{sum(one.unknown for one in done)} writes of unknown outcome",
            ", ".join(f"{kind} {count}" for kind, count in kinds.items()),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="until every point was killed at so often")
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--runtime", choices=("docker", "process"), default="process")
    parser.add_argument("--secured", action="store_true", help="with a CA and tokens, everything over mutual TLS")
    parser.add_argument("--action", choices=("exit", "error"), default="exit")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--report", type=Path, nargs="+")
    arguments = parser.parse_args()
    decoder = msgspec.json.Decoder(Parcel)
    earlier = [path for path in (arguments.report or [arguments.out]) if path is not None and path.exists()]
    done = [decoder.decode(line) for path in earlier for line in path.read_bytes().splitlines()]
    with_docker = arguments.runtime == "docker"
    why = why_none() or (why_no_engine() or why_no_registry() if with_docker else "")
    if why and not arguments.report:
        print(f"no kills can be made here: {why}", file=sys.stderr)
        return 2
    deaths = sum((Counter(one.deaths) for one in done), Counter[str]())
    dice, until = random.Random(arguments.seed), time.monotonic() + 60 * arguments.minutes
    points = aims(with_docker=with_docker, action=arguments.action)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)  # so that what was made goes in that case, too
    nursery = Nursery()
    while not arguments.report and time.monotonic() < until and min(deaths[point] for point in points) < arguments.times:
        directory = Path(tempfile.mkdtemp(prefix="kago-kills-"))
        one = parcel(
            directory,
            with_docker=with_docker,
            secured=arguments.secured,
            action=arguments.action,
            times=arguments.times,
            deaths=deaths,
            dice=dice,
            nursery=nursery,
        )
        done.append(one)
        if arguments.out is not None:
            with arguments.out.open("ab") as file:
                file.write(msgspec.json.encode(one) + b"\n")
        left = sum(max(0, arguments.times - deaths[point]) for point in points)
        print(
            f"{sum(one.deaths.values())} deaths, {one.calls} calls, {one.findings.total()} findings; {left} to go",
            file=sys.stderr,
            flush=True,
        )
        if not one.findings.total():
            shutil.rmtree(directory, ignore_errors=True)
        else:
            print(
                f"  logs in {directory}: "
                + "; ".join(getattr(one.findings, k)[0][:500] for k in Findings.__struct_fields__ if getattr(one.findings, k)),
                file=sys.stderr,
            )
    nursery.close()
    print(report(done))
    return 1 if any(one.findings.total() for one in done) else 0


if __name__ == "__main__":
    sys.exit(main())
