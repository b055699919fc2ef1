"""What may be wrong with a cluster though it works: facts that servers and clients gather, and the judgement of them in words.

Pure, so that `kago serve` at its start and `kago doctor` say the same, and each sentence has a test.
"""

from collections.abc import Iterable, Iterator
from enum import StrEnum

from msgspec import Struct

from kago.core.model.cluster import advice

MIN_FREE_BYTES = 64 * 1024 * 1024
"""Below this much room for its data a server takes no changes; a journal and a snapshot of the usual size fit into it."""
WARN_FREE_BYTES = 1024 * 1024 * 1024
MIN_OPEN_FILES = 4096
"""Each agent holds two connections, each watch one."""
SLOW_SYNC_SHARE = 0.1
"""Of the election timeout: an fdatasync that takes longer makes elections by itself under load."""
MAX_CLOCK_OFF_S = 2.0
DAY_S = 24 * 3600.0
LATE_CERTIFICATE_S = 7 * DAY_S
"""Certificates of 30 days are renewed when 15 are left: with fewer than this something keeps one from it."""
LATE_CA_S = 180 * DAY_S


class Level(StrEnum):
    ERROR = "error"
    """Something does not work, or the next failure will stop it."""
    WARNING = "warning"


class Finding(Struct, frozen=True, kw_only=True):
    level: Level
    subject: str
    """The server, node or cluster it is about."""
    problem: str
    remedy: str


class ServerFacts(Struct, frozen=True, kw_only=True):
    """GET /checks: what a server can find out about itself alone."""

    id: str
    version: str
    schema: int
    """The highest it understands."""
    now: float
    """Seconds since the epoch by its clock."""
    sync_s: float | None
    """Of one fdatasync of a page in its data directory, the median of a few; None where it failed."""
    election_min_s: float
    free_bytes: int
    open_files: int
    """How many it may have."""
    agent_clocks_off_s: dict[str, float] = {}
    """By node, of agents heard here: their clock minus this server's, where that is much."""
    certificate_left_s: float | None = None
    """Until its certificate runs out; None where it is not secured."""
    ca_left_s: float | None = None
    agent_certificates_left_s: dict[str, float] = {}
    """By node, of agents heard here whose certificates should have been renewed by now."""
    read_only: bool = False
    """No changes are taken because the disk is nearly full."""


class MemberFacts(Struct, frozen=True, kw_only=True):
    """A member as the cluster lists it, and what it said of itself."""

    id: str
    role: str
    voter: bool = True
    facts: ServerFacts | None = None
    silent: str = ""
    """Why there are no facts."""
    clock_off_s: float = 0.0
    """Its clock minus that of who asks."""


class NodeFacts(Struct, frozen=True, kw_only=True):
    name: str
    status: str
    status_since: float
    reason: str = ""
    pods: int = 0


def check_size(voters: int) -> Iterator[Finding]:
    """What a cluster of so many voting servers can bear."""
    if hint := advice(voters):
        remedy = "kago cluster add" if voters == 2 else "kago cluster add, or remove"
        yield Finding(level=Level.WARNING, subject="cluster", problem=hint, remedy=remedy)


def quorum(members: Iterable[MemberFacts]) -> tuple[int, int]:
    """Voting servers that are up, and how many must be."""
    voters = [member for member in members if member.voter]
    return sum(member.role != "down" for member in voters), len(voters) // 2 + 1


def check_server(facts: ServerFacts) -> Iterator[Finding]:
    """One server's own state."""
    if facts.sync_s is None:
        yield Finding(
            level=Level.ERROR,
            subject=facts.id,
            problem="its disk cannot be written",
            remedy="look at the server's log and its file system; replace the disk or free room on it",
        )
    elif facts.sync_s > SLOW_SYNC_SHARE * facts.election_min_s:
        yield Finding(
            level=Level.WARNING,
            subject=facts.id,
            problem=f"its disk is slow: an fdatasync takes {facts.sync_s * 1000:.0f} ms, and every change waits for one; "
            f"beyond {facts.election_min_s * 1000:.0f} ms leaders are deposed for nothing",
            remedy="put --data-dir on a local SSD that nothing else writes to",
        )
    if facts.read_only or facts.free_bytes < MIN_FREE_BYTES:
        yield Finding(
            level=Level.ERROR,
            subject=facts.id,
            problem=f"only {mebibytes(facts.free_bytes)} are free for its data: it takes no changes below {mebibytes(MIN_FREE_BYTES)}",
            remedy="free room on the file system of --data-dir; it goes on by itself then",
        )
    elif facts.free_bytes < WARN_FREE_BYTES:
        yield Finding(
            level=Level.WARNING,
            subject=facts.id,
            problem=f"only {mebibytes(facts.free_bytes)} are free for its data",
            remedy=f"free room on the file system of --data-dir before it is {mebibytes(MIN_FREE_BYTES)}",
        )
    yield from _check_certificate(facts.id, facts.certificate_left_s, "look at the server's log; at a restart it makes itself a new one")
    if facts.open_files < MIN_OPEN_FILES:
        yield Finding(
            level=Level.WARNING,
            subject=facts.id,
            problem=f"it may open {facts.open_files} files only; agents and watches hold a connection each",
            remedy="raise the limit: ulimit -n, or LimitNOFILE= in its unit",
        )


def _check_certificate(subject: str, left_s: float | None, remedy: str) -> Iterator[Finding]:
    if left_s is not None and left_s < LATE_CERTIFICATE_S:
        when = f"runs out in {left_s / DAY_S:.1f} days and was not renewed" if left_s > 0 else f"ran out {-left_s / DAY_S:.1f} days ago"
        yield Finding(level=Level.WARNING if left_s > 0 else Level.ERROR, subject=subject, problem=f"its certificate {when}", remedy=remedy)


def _check_authority(left_s: list[float]) -> Iterator[Finding]:
    """The CA as the servers have it; all have the same."""
    if left_s and (least_s := min(left_s)) < LATE_CA_S:
        when = f"runs out in {least_s / DAY_S:.0f} days" if least_s > 0 else f"ran out {-least_s / DAY_S:.0f} days ago"
        yield Finding(
            level=Level.WARNING if least_s > 0 else Level.ERROR,
            subject="cluster",
            problem=f"its CA {when}, and with it every certificate",
            remedy="plan an hour in which servers and agents get a new one: see Security in README.md",
        )


def check_members(members: Iterable[MemberFacts], *, schema: int) -> Iterator[Finding]:
    """The servers beside each other."""
    members = list(members)
    yield from check_size(sum(member.voter for member in members))
    up, needed = quorum(members)
    if up < needed:
        yield Finding(
            level=Level.ERROR,
            subject="cluster",
            problem=f"{up} of {sum(member.voter for member in members)} servers are up and {needed} are needed: nothing can be changed",
            remedy="start the servers that are down; if a majority is gone for good: kago recover --plan",
        )
    for member in members:
        if member.role == "down":
            yield Finding(
                level=Level.ERROR,
                subject=member.id,
                problem="the other servers do not hear it" + ("; no further one may fail" if up == needed else ""),
                remedy="start it, or look at its network; if its machine is gone for good, replace it (kago cluster replace)",
            )
        elif member.facts is None:
            yield Finding(
                level=Level.WARNING,
                subject=member.id,
                problem=f"it cannot be asked from here: {member.silent}",
                remedy="look at its API's address and at the network between; this machine sees only what the others say of it",
            )
        elif abs(member.clock_off_s) > MAX_CLOCK_OFF_S:
            yield _clock(member.id, member.clock_off_s, "this machine's")
    yield from _check_versions([member.facts for member in members if member.facts is not None], schema)
    yield from _check_authority([member.facts.ca_left_s for member in members if member.facts and member.facts.ca_left_s is not None])
    off_s: dict[str, float] = {}
    left_s: dict[str, float] = {}
    for member in members:
        if member.facts is not None:
            yield from check_server(member.facts)
            off_s |= member.facts.agent_clocks_off_s
            for name, left in member.facts.agent_certificates_left_s.items():
                left_s[name] = max(left, left_s.get(name, left))
    for name in sorted(off_s):
        yield _clock(f"node/{name}", off_s[name], "the servers'")
    remedy = "look at its agent's log; one whose certificate has run out comes back with a token: kago token create --role agent"
    for name in sorted(left_s):
        yield from _check_certificate(f"node/{name}", left_s[name], remedy)


def _clock(subject: str, off_s: float, whose: str) -> Finding:
    return Finding(
        level=Level.WARNING,
        subject=subject,
        problem=f"its clock is {abs(off_s):.0f} s {'ahead of' if off_s > 0 else 'behind'} {whose}",
        remedy="let chrony or another NTP client keep the clocks of all machines",
    )


def _check_versions(facts: list[ServerFacts], schema: int) -> Iterator[Finding]:
    versions = sorted({fact.version for fact in facts})
    newest = max((fact.schema for fact in facts), default=schema)
    if len(versions) > 1 or any(fact.schema < newest for fact in facts):
        said = ", ".join(f"{fact.id} runs {fact.version}" for fact in sorted(facts, key=lambda fact: (fact.version, fact.id)))
        yield Finding(
            level=Level.WARNING, subject="cluster", problem=f"versions are mixed: {said}", remedy="upgrade the others, one after the other"
        )
    elif schema < newest:
        yield Finding(
            level=Level.WARNING,
            subject="cluster",
            problem=f"its schema is {schema} though every server that answers knows {newest}: what the new version brought is refused",
            remedy="start the servers that are down in the new version, or remove those that are gone",
        )


def check_nodes(nodes: Iterable[NodeFacts], *, now: float) -> Iterator[Finding]:
    """The machines with agents."""
    for node in nodes:
        if node.status != "ready":
            why = f" ({node.reason})" if node.reason else ""
            yield Finding(
                level=Level.ERROR if node.status == "unknown" else Level.WARNING,
                subject=f"node/{node.name}",
                problem=f"it is {node.status} for {max(0.0, now - node.status_since):.0f} s{why}; {node.pods} pods are bound to it",
                remedy="start its agent, or look at its network; if the machine is gone for good: kago delete node/" + node.name,
            )


def mebibytes(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB" if count >= 1024**3 else f"{count // 1024**2} MiB"
