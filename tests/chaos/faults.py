"""Faults of the servers: killed, paused, cut off, on bad links, under wrong clocks, on full, torn and damaged disks."""

import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from raft.journal import MAGIC
from tests.chaos.cluster import SERVERS
from tests.chaos.stage import NO_CLOCK, Fault, Stage

_DOWN_S = 0.5
_CUT_S = 5.0
_BAD_LINK_S = 8.0
_HOUR_S = 3600
_BULK = 10
"""Large writes: more than fits into the zeros that stand in the journal already."""
REFUSALS = ("rejoin", "damaged", "another data directory", "checksum")


def _killed(choose: Callable[[Stage], list[str]]) -> Callable[[Stage], None]:
    def run(stage: Stage) -> None:
        victims = choose(stage)
        stage.kill(*victims)
        stage.hold(_DOWN_S)
        stage.start(*victims)

    return run


def _two(stage: Stage) -> list[str]:
    return [stage.leader(), stage.follower()]


def _leader_stopped(stage: Stage) -> None:
    leader = stage.leader()
    stage.cluster.processes[leader].stop()
    stage.start(leader)


def _paused(choose: Callable[[Stage], str], seconds: float) -> Callable[[Stage], None]:
    return lambda stage: stage.pause(choose(stage), seconds)


def _cut(choose: Callable[[Stage], str]) -> Callable[[Stage], None]:
    def run(stage: Stage) -> None:
        victim = choose(stage)
        stage.cluster.network.cut(victim)
        try:
            stage.hold(_CUT_S)
        finally:
            stage.cluster.network.join(victim)

    return run


def _deaf_leader(stage: Stage) -> None:
    network, leader = stage.cluster.network, stage.leader()
    network.deafen(leader)
    try:
        stage.hold(_CUT_S)
    finally:
        network.hear_again(leader)


def _mute_leader(stage: Stage) -> None:
    network, leader = stage.cluster.network, stage.leader()
    network.silence(leader)
    try:
        stage.hold(_CUT_S)
    finally:
        network.hear_again(leader)


def _bad_link(choose: Callable[[Stage], str]) -> Callable[[Stage], None]:
    def run(stage: Stage) -> None:
        network, victim = stage.cluster.network, choose(stage)
        network.worsen(victim, delay_s=0.2, loss=0.2)
        try:
            stage.hold(_BAD_LINK_S)
        finally:
            network.mend(victim)

    return run


def _give_clock(stage: Stage) -> None:
    stage.clocked = stage.any_server()
    stage.give_clock(stage.clocked)


def _clock_jumps(stage: Stage) -> None:
    """An hour forward, an hour back, and right again."""
    try:
        for seconds in (_HOUR_S, -_HOUR_S):
            stage.set_clock(stage.clocked, seconds)
            stage.hold(3.0)
            answer = stage.cluster.ask(stage.clocked, "GET", "/health")
            if answer is None:
                stage.findings.other.append(f"{stage.clocked} does not answer while its clock is {seconds} s off")
            elif abs(answer.at - time.time() - seconds) > 60:
                off_s = answer.at - time.time()
                stage.findings.other.append(f"the clock of {stage.clocked} was to be {seconds} s off and is {off_s:.0f} s off")
    finally:
        stage.set_clock(stage.clocked, 0)
        stage.clock_file(stage.clocked).unlink()


def _disk_full(stage: Stage) -> None:
    """Nothing can be written any more; then there is room again, and who ended by it is started, as a service manager does."""
    victim = stage.leader()
    process, filler = stage.cluster.processes[victim], stage.cluster.directory / victim / "filler"
    said = process.log.stat().st_size
    with open(filler, "wb", buffering=0) as file, suppress(OSError):
        while file.write(b"\0" * 4096):
            pass  # until nothing more fits: root has no reserve here
    try:
        for n in range(_BULK):
            _write_bulk(stage, n)
        stage.hold(_CUT_S)
    finally:
        filler.unlink()
    if "No space left" not in process.log.read_text(errors="replace")[said:]:
        stage.findings.other.append(f"the disk of {victim} was full, and it {'goes on' if process.running else 'ended'} without saying so")
    stage.start(victim)


def _write_bulk(stage: Stage, n: int) -> None:
    """50 kB, through one server or another; the first one makes what the others change."""
    body = {"name": "bulk", "image": "nginx:alpine", "replicas": 0, "env": {str(n): "x" * 50_000}}
    stage.cluster.ask(SERVERS[n % len(SERVERS)], "PUT" if n else "POST", "/deployments/bulk" if n else "/deployments", body)


def _torn_tail(stage: Stage) -> None:
    """What a power cut in the midst of a write leaves: a record of which only a part is there."""
    victim = stage.any_server()
    stage.kill(victim)
    journal = stage.cluster.data_dir(victim) / "journal"
    with open(journal, "r+b") as file:
        file.seek(_records_end(journal.read_bytes()))
        file.write(struct.pack("<II", 300, stage.dice.getrandbits(32)) + stage.dice.randbytes(stage.dice.randrange(1, 250)))
    stage.start(victim)


def _records_end(journal: bytes) -> int:
    """Where its last record ends; zeros may follow."""
    at = len(MAGIC)
    while at + 8 <= len(journal) and (length := struct.unpack_from("<I", journal, at)[0]):
        at += 8 + int(length)
    return min(at, len(journal))


def _flipped(path: Path, stage: Stage, end: Callable[[bytes], int]) -> None:
    """One bit, before what `end` says of the content."""
    content = bytearray(path.read_bytes())
    at = stage.dice.randrange(end(bytes(content)))
    content[at] ^= 1 << stage.dice.randrange(8)
    path.write_bytes(content)


def _flipped_journal(stage: Stage) -> None:
    """Damage to what was durable: it must be refused, then the server comes back from the others."""
    victim = stage.any_server()
    stage.kill(victim)
    _flipped(stage.cluster.data_dir(victim) / "journal", stage, lambda content: int(_records_end(content) * 0.8))
    if not stage.refuses_to_start(victim, *REFUSALS):
        stage.findings.other.append(f"{victim} started from a damaged journal")
    stage.rejoin(victim)


def _flipped_snapshot(stage: Stage) -> None:
    """The newest snapshot is damaged: the one before is used if the journal reaches back to it, else it is refused; never silently."""
    victim = stage.any_server()
    data = stage.cluster.data_dir(victim)
    stage.cluster.until("a snapshot", lambda: list(data.glob("snapshot-*")), timeout_s=90)
    stage.kill(victim)
    _flipped(max(data.glob("snapshot-*")), stage, len)
    process = stage.cluster.processes[victim]
    said = process.log.stat().st_size
    if stage.refuses_to_start(victim, *REFUSALS):
        stage.rejoin(victim)
    elif "is damaged" not in process.log.read_text(errors="replace")[said:]:
        stage.findings.other.append(f"{victim} started from a damaged snapshot and says nothing of it")


def _emptied_disk(stage: Stage) -> None:
    """An empty directory under a used name is refused; with --rejoin it comes back."""
    victim = stage.any_server()
    stage.kill(victim)
    stage.cluster.empty_disk(victim)
    if not stage.refuses_to_start(victim, *REFUSALS):
        stage.findings.other.append(f"{victim} started with an empty disk under a used name")
    stage.rejoin(victim)


SERVER_FAULTS = (
    Fault(name="kill-leader", run=_killed(lambda stage: [stage.leader()])),
    Fault(name="kill-follower", run=_killed(lambda stage: [stage.follower()])),
    Fault(name="kill-two", run=_killed(_two)),
    Fault(name="kill-all", run=_killed(lambda stage: list(SERVERS))),
    Fault(name="stop-leader", run=_leader_stopped),
    Fault(name="pause-leader-5s", run=_paused(Stage.leader, 5.0)),
    Fault(name="pause-leader-30s", run=_paused(Stage.leader, 30.0)),
    Fault(name="pause-follower-5s", run=_paused(Stage.follower, 5.0)),
    Fault(name="pause-follower-30s", run=_paused(Stage.follower, 30.0)),
    Fault(name="cut-leader", run=_cut(Stage.leader)),
    Fault(name="cut-follower", run=_cut(Stage.follower)),
    Fault(name="deaf-leader", run=_deaf_leader),
    Fault(name="mute-leader", run=_mute_leader),
    Fault(name="bad-link-leader", run=_bad_link(Stage.leader)),
    Fault(name="bad-link-follower", run=_bad_link(Stage.follower)),
    Fault(name="clock-jump", run=_clock_jumps, prepare=_give_clock, lacks=NO_CLOCK),
    Fault(name="disk-full", run=_disk_full),
    Fault(name="torn-tail", run=_torn_tail),
    Fault(name="flipped-journal", run=_flipped_journal),
    Fault(name="flipped-snapshot", run=_flipped_snapshot),
    Fault(name="empty-disk", run=_emptied_disk),
)
