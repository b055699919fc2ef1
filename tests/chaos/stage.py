"""One fault's stage: the cluster, the dice, and the note of what the fault itself touches."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from tests.chaos.cluster import HEAL_S, SERVERS, Box, ChaosCluster
from tests.chaos.verdicts import Findings, two_of_a_pod

FAKETIME = next((path for path in Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
NO_CLOCK = "" if FAKETIME else "libfaketime is not installed"
WALL_CLOCK_ONLY = {"FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_FORCE_MONOTONIC_FIX": "0"}
"""Without the last, libfaketime 0.9.10 reckons timed waits by the monotonic clock with the time of day: each ends at once. A thread that
waits for Python's lock then spins with the lock's mutex in hand, and whoever has the lock may not get to give it up for seconds."""
STEADY = "steady"
SAMPLE_S = 1.0


class Stage:
    def __init__(self, cluster: ChaosCluster, dice: random.Random, findings: Findings) -> None:
        self.cluster = cluster
        self.dice = dice
        self.findings = findings
        self.touched: set[str] = set()
        """Names of pods whose container the fault ends or moves: they may start anew, all others must not."""
        self.clocked = ""
        """Whose clock can be set."""

    def hold(self, seconds: float) -> None:
        """Let the fault work, and look now and then at what runs."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(SAMPLE_S, left))
            self.findings.orphaned += two_of_a_pod(self.boxes())

    def boxes(self) -> list[Box]:
        return self.cluster.boxes()

    # -- processes ---------------------------------------------------------------------------------------------------

    def kill(self, *names: str) -> None:
        for name in names:
            self.cluster.processes[name].signal(signal.SIGKILL)
        for name in names:
            self.cluster.processes[name].kill()

    def start(self, *names: str) -> None:
        for name in names:
            self.cluster.processes[name].start()

    def pause(self, name: str, seconds: float) -> None:
        process = self.cluster.processes[name]
        process.signal(signal.SIGSTOP)
        try:
            self.hold(seconds)
        finally:
            process.signal(signal.SIGCONT)

    def refuses_to_start(self, name: str, *words: str) -> bool:
        """Whether the server ends by itself, saying one of `words`, instead of becoming a follower."""
        process = self.cluster.processes[name]
        said = process.log.stat().st_size
        process.start()
        until = time.monotonic() + HEAL_S
        while process.running and time.monotonic() < until:
            if self._follows(name):
                return False
            time.sleep(0.05)
        last = process.log.read_text(errors="replace")[said:]
        if not process.running and not any(word in last for word in words):
            self.findings.other.append(f"{name} ended and does not say why: {last[-500:]}")
        return not process.running

    def _follows(self, name: str) -> bool:
        answer = self.cluster.ask(name, "GET", "/ready", timeout_s=1.0)
        return answer is not None and answer.status == 200

    def rejoin(self, name: str) -> None:
        """Start with an empty directory, as an operator does whose server lost its disk."""
        process, cluster = self.cluster.processes[name], self.cluster
        words = process.arguments
        process.kill()
        cluster.empty_disk(name)
        process.arguments = (*words, "--rejoin")
        process.start()
        process.arguments = words

    # -- whom --------------------------------------------------------------------------------------------------------

    def leader(self) -> str:
        return self.cluster.leader()

    def follower(self) -> str:
        return self.dice.choice(self.cluster.followers())

    def any_server(self) -> str:
        return self.dice.choice(SERVERS)

    def busy_agent(self) -> str:
        """The agent whose node runs the most."""
        boxes = self.boxes()
        return max(self.cluster.agents, key=lambda agent: sum(box.node == self.cluster.node(agent) for box in boxes))

    def pods_on(self, agent: str) -> set[str]:
        return {box.pod_name for box in self.boxes() if box.node == self.cluster.node(agent)}

    def pod(self) -> Box:
        return self.dice.choice([box for box in self.boxes() if box.pod_name.startswith(f"{STEADY}-")])

    # -- clocks ------------------------------------------------------------------------------------------------------

    def clock_file(self, name: str) -> Path:
        return self.cluster.directory / f"{name}.clock"

    def give_clock(self, name: str) -> None:
        """Start it anew under a clock that can be set."""
        process = self.cluster.processes[name]
        self.set_clock(name, 0)
        process.stop()
        kept = dict(process.environment)
        process.environment.update(WALL_CLOCK_ONLY, FAKETIME_TIMESTAMP_FILE=str(self.clock_file(name)), LD_PRELOAD=str(FAKETIME))
        process.start()
        process.environment = kept
        self.cluster.until("the cluster with a clock that can be set", self.cluster.healthy)

    def set_clock(self, name: str, seconds: int) -> None:
        fresh = self.clock_file(name).with_suffix(".new")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.replace(self.clock_file(name))


class Fault(Struct, frozen=True, kw_only=True):
    name: str
    run: Callable[[Stage], None]
    """Injects it, lets it work, takes it away."""
    prepare: Callable[[Stage], None] | None = None
    """Before the load begins."""
    docker: bool | None = None
    """True: only with engines; False: only with plain processes; None: both."""
    lacks: str = ""
    """Why it cannot be had here; empty where it can."""
