"""Tables for people: pure text from things and a time. No borders, one row a thing, safe to cut and awk."""

from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from kago.client.status import ClusterStatus
from kago.core.model.deployment import Deployment
from kago.core.model.history import ChangeRecord
from kago.core.model.node import Node, NodeStatus
from kago.core.model.pod import Pod, PodStatus
from kago.core.model.token import TokenView

NONE = "<none>"
GAP = "   "

Row = tuple[str, ...]


class Table(Struct, frozen=True, kw_only=True):
    """One kind's columns: titles, and a row of cells for a thing at a time (seconds since the epoch)."""

    titles: Row
    wide_titles: Row
    cells: Callable[..., Row]
    """(thing, now) -> cells of titles and wide_titles."""

    def render(self, things: Iterable[object], now: float, *, wide: bool = False) -> str:
        """Title line and rows, each column as wide as its widest cell."""
        titles = self.titles + (self.wide_titles if wide else ())
        rows = [self.cells(thing, now)[: len(titles)] for thing in things]
        return columns([titles, *rows])


def columns(rows: Sequence[Row]) -> str:
    """Left-aligned columns; nothing behind the last cell of a line."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def duration(seconds: float) -> str:
    """Its two greatest units: 12s, 3m5s, 4h, 4d2h."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        amount, left = divmod(left, size)
        if amount:
            parts.append(f"{amount}{unit}")
        elif parts:
            break  # 4d0h5m is 4d: the next unit, not the next that is not zero
    return "".join(parts[:2]) or "0s"


def deployment_cells(deployment: Deployment, now: float) -> Row:
    return (
        deployment.name,
        f"{deployment.ready_replicas}/{deployment.replicas}",
        str(deployment.updated_replicas),
        str(deployment.ready_replicas),
        _age(deployment.created_at, now),
        str(deployment.revision),
        deployment.runtime.value,
        deployment.image or NONE,
    )


def pod_cells(pod: Pod, now: float) -> Row:
    return (
        pod.name,
        f"{int(pod.ready)}/1",
        pod_word(pod),
        str(pod.restarts),
        _age(pod.created_at, now),
        pod.node_name or NONE,
        str(pod.revision),
        pod.image or NONE,
    )


def node_cells(node: Node, now: float) -> Row:
    labels = ",".join(f"{key}={value}" for key, value in sorted(node.labels.items()))
    return (
        node.name,
        {NodeStatus.READY: "Ready", NodeStatus.NOTREADY: "NotReady", NodeStatus.UNKNOWN: "Unknown"}[node.status],
        f"{_number(node.used.cpu_millis / 1000)}/{_number(node.allocatable.cpu_millis / 1000)}",
        f"{_number(node.used.memory_mb / 1024)}/{_number(node.allocatable.memory_mb / 1024)}Gi",
        str(node.pods),
        _age(node.created_at, now),
        f"{node.address}:{node.port}",
        ",".join(runtime.value for runtime in node.runtimes) or NONE,
        labels or NONE,
    )


def pod_word(pod: Pod) -> str:
    """Status in the words kubectl's users know; the reason where there is a better one."""
    match pod.status:
        case PodStatus.PENDING:
            return "Pending"
        case PodStatus.CREATING:
            return pod.reason or "ContainerCreating"
        case PodStatus.RUNNING:
            return "Running" if pod.ready or not pod.reason else pod.reason
        case PodStatus.SUCCEEDED:
            return "Completed"
        case PodStatus.FAILED:
            return pod.reason or "Error"
        case PodStatus.TERMINATING:
            return "Terminating"
        case PodStatus.TERMINATED:
            return "Terminated"


def change_cells(record: ChangeRecord, now: float) -> Row:
    seen = (record.name, record.verb, str(record.index), record.actor or NONE, _age(record.at, now))
    return (*seen, record.source or NONE, record.summary or NONE)


DEPLOYMENTS = Table(
    titles=("NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"), wide_titles=("REV", "RUNTIME", "IMAGE"), cells=deployment_cells
)
PODS = Table(titles=("NAME", "READY", "STATUS", "RESTARTS", "AGE"), wide_titles=("NODE", "REV", "IMAGE"), cells=pod_cells)
NODES = Table(
    titles=("NAME", "STATUS", "CPU", "MEM", "PODS", "AGE"), wide_titles=("ADDRESS", "RUNTIMES", "LABELS"), cells=node_cells
)

CHANGES = Table(titles=("NAME", "WHAT", "INDEX", "WHO", "AGE"), wide_titles=("FROM", "CHANGES"), cells=change_cells)


def cluster_table(cluster: ClusterStatus) -> str:
    """Members, and how many more may fail before nothing can be written."""
    rows: list[Row] = [("ADDRESS", "ROLE", "INDEX", "LAG", "API")]
    for member in cluster.members:
        place = (NONE, NONE) if member.lag is None else (str(member.index), str(member.lag))
        rows.append((member.address, member.role, *place, member.api or NONE))
    voters = [member for member in cluster.members if member.voter]
    size = len(voters)
    live = sum(member.role in ("leader", "follower") for member in voters)
    needed = size // 2 + 1
    if live < needed:
        verdict = f"no quorum: {live} of {size} live, {needed} needed; nothing can be written until {needed - live} more are back"
    else:
        verdict = f"quorum {live}/{size} live; tolerates {live - needed} more failure{'' if live - needed == 1 else 's'}"
    return f"{columns(rows)}\n{verdict}\nterm {cluster.term}, index {cluster.index}, leader {cluster.leader or NONE}"


def members_table(cluster: ClusterStatus) -> str:
    """Every server by its id."""
    rows: list[Row] = [("ID", "ADDRESS", "ROLE", "VOTES", "LAG")]
    for member in cluster.members:
        rows.append(
            (member.id, member.address, member.role, "yes" if member.voter else "no", NONE if member.lag is None else str(member.lag))
        )
    return columns(rows)


def token_table(tokens: Iterable[TokenView], now: float) -> str:
    """Tokens, the present time being `now`."""
    rows: list[Row] = [("ID", "ROLE", "EXPIRES", "USES", "AGE", "DESCRIPTION")]
    for token in tokens:
        left = "never" if token.expires_at is None else duration(token.expires_at - now) if token.expires_at > now else "expired"
        uses = "any" if token.uses_left is None else str(token.uses_left)
        rows.append((token.id, token.role.value, left, uses, _age(token.created_at, now), token.description or NONE))
    return columns(rows)


def context_table(contexts: Iterable[tuple[str, tuple[str, ...], bool, bool]], *, current: str) -> str:
    """Of (name, servers, whether a CA is known, whether a token is)."""
    rows: list[Row] = [("NAME", "CURRENT", "TLS", "TOKEN", "SERVERS")]
    for name, servers, tls, token in contexts:
        rows.append((name, "*" if name == current else "", "yes" if tls else "no", "yes" if token else "no", ",".join(servers)))
    return columns(rows)


def _age(created_at: float, now: float) -> str:
    return duration(now - created_at) if created_at else NONE


def _number(value: float) -> str:
    """One decimal at most, none where it would be 0."""
    return f"{value:.1f}".removesuffix(".0")
