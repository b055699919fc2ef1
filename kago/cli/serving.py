"""From the flags of `kago serve` and `kago agent` to their settings: which member we are, where we are reached, where we keep things."""

import os
import socket
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path

from kago.cli.failures import Code, VerbFailed
from kago.config import API_PORT, RAFT_PORT, AgentConfig, ServeConfig
from kago.core.model.deployment import STRATEGY_ALIASES, Runtime, Strategy
from kago.core.model.quantity import parse_cpu, parse_memory, parse_whole
from kago.core.model.resources import Resources
from kago.security.keyring import Keyring, KeyringError

ANY = ("0.0.0.0", "::")
OwnTest = Callable[[str], bool]


def serve_config(
    *,
    host: str,
    port: int,
    peers: str,
    address: str,
    data_dir: Path | None,
    scheduler: str,
    rejoin: bool,
    insecure: bool,
    node_lease_s: float,
    join: str = "",
    joins: bool = False,
) -> ServeConfig:
    """VerbFailed (usage) where the flags do not tell which server this is. `joins`: it has a token, or begins a secured cluster."""
    directory = data_dir or default_data_dir(f"server-{port}")
    if join and not address:
        raise VerbFailed("--join needs --address HOST:PORT: under which the other servers reach this one", Code.USAGE)
    if join:  # whatever the API's port: as `kago cluster add` takes it
        address = raft_address(address)
    me, members = membership("" if join else peers, address, api_port=port, is_own=is_own_host, used=_holds_something(directory))
    raft_host = split_address(me)[0]
    secured = not insecure and (joins or _holds_ca(directory))
    scheme = "https" if secured else "http"
    exposed = [member for member in members if not _is_loopback(split_address(member)[0])]
    if exposed and not insecure and not secured:
        raise VerbFailed(
            f"{exposed[0]} is not a loopback address, and this server holds no certificate: anybody who reaches that port could change "
            "the cluster. Make the first server's with `kago cluster init` (or `kago serve --init`), and let the others join with "
            "the token it gives, in KAGO_TOKEN or --token-file. On a network where every machine is trusted there is --insecure.",
            Code.USAGE,
        )
    return ServeConfig(
        host=host,
        port=port,
        me=me,
        members=members,
        guessed=not address and (not peers or me not in members),
        join=tuple(split_list(join)),
        api_url=f"{scheme}://{_bracketed(_api_host(host, raft_host, single=not peers and not address))}:{port}",
        data_dir=directory,
        scheduler=parse_strategy(scheduler),
        rejoin=rejoin,
        insecure=insecure,
        node_lease_s=node_lease_s,
    )


def _holds_ca(data_dir: Path) -> bool:
    try:
        return Keyring(data_dir).held
    except KeyringError as error:
        raise VerbFailed(str(error)) from None


def membership(peers: str, address: str, *, api_port: int, is_own: OwnTest, used: bool = False) -> tuple[str, tuple[str, ...]]:
    """(own Raft address, every member's), each host:port. `is_own` tells whether a host name is one of this machine's.

    A `used` data directory knows which server this is, so that a list of peers from another time does no harm.
    """
    if not peers.strip():
        host, port = split_address(address) if address else ("127.0.0.1", None)
        me = f"{_bracketed(host)}:{port or _single_raft_port(api_port)}"
        return me, (me,)
    members = tuple(raft_address(peer) for peer in peers.split(",") if peer.strip())
    if len(set(members)) != len(members):
        raise VerbFailed(f"--peers names a server twice: {peers}", Code.USAGE)
    if address:
        host, port = split_address(address)
        mine = [m for m in members if split_address(m)[0] == host and (port is None or split_address(m)[1] == port)]
        how = f"--address {address}"
    else:
        mine = [member for member in members if is_own(split_address(member)[0])]
        how = "this machine's own addresses"
    if len(mine) == 1:
        return mine[0], members
    if used and not mine:
        return (raft_address(address) if address else _single_member(api_port)), members
    fits = "none of them fits" if not mine else f"{', '.join(mine)} all fit"
    raise VerbFailed(
        f"cannot tell which of --peers {','.join(members)} this server is: by {how}, {fits}. Say it with --address HOST:PORT, "
        "exactly as it stands in --peers.",
        Code.USAGE,
    )


def agent_config(
    *,
    name: str,
    masters: str,
    port: int,
    address: str,
    cpu: str,
    memory: str,
    runtime: str,
    labels: Sequence[str],
    data_dir: Path | None,
) -> AgentConfig:
    """VerbFailed (usage)."""
    try:
        capacity = Resources(cpu_millis=parse_cpu(cpu), memory_mb=parse_memory(memory))
    except ValueError as error:
        raise VerbFailed(f"--cpu or --memory: {error}", Code.USAGE) from None
    if runtime not in ("auto", *Runtime):
        raise VerbFailed(f"--runtime {runtime!r} is none of docker, process, auto", Code.USAGE)
    return AgentConfig(
        name=name,
        masters=tuple(split_list(masters)),
        port=port,
        address=address or socket.gethostname(),
        capacity=capacity,
        runtime=None if runtime == "auto" else Runtime(runtime),
        labels=parse_labels(labels),
        data_dir=data_dir or default_data_dir(f"agent-{name}"),
    )


def parse_labels(pairs: Iterable[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise VerbFailed(f"--label {pair!r} is not KEY=VALUE", Code.USAGE)
        labels[key] = value
    return labels


def parse_strategy(text: str) -> Strategy:
    if text in STRATEGY_ALIASES:
        return STRATEGY_ALIASES[text]
    try:
        return Strategy(text)
    except ValueError:
        raise VerbFailed(f"--scheduler {text!r} is none of {', '.join([*Strategy, *STRATEGY_ALIASES])}", Code.USAGE) from None


def split_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def split_address(text: str) -> tuple[str, int | None]:
    """`host`, `host:port`, `[v6]:port`; VerbFailed (usage)."""
    text = text.strip()
    host, colon, port = text.rpartition(":")
    if text.endswith("]") or not colon or ("]" not in text and text.count(":") > 1):
        host, port = text, ""
    host = host.removeprefix("[").removesuffix("]")
    number = parse_whole(port)
    if not host or (port and not 0 < (number or 0) < 65536):
        raise VerbFailed(f"{text!r} is not HOST or HOST:PORT", Code.USAGE)
    return host, number


def is_own_host(host: str) -> bool:
    """Whether `host` is an address of this machine: only then can a socket be bound to it."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except OSError:
        return False
    for family, kind, _, _, target in found:
        try:
            with socket.socket(family, kind) as probe:
                probe.bind((target[0], 0))
        except OSError:
            continue
        return True
    return False


def default_data_dir(name: str) -> Path:
    """/var/lib/kago for root, else where a user's own data belongs."""
    if os.geteuid() == 0:
        return Path("/var/lib/kago") / name
    home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return home / "kago" / name


def raft_address(peer: str) -> str:
    """host:port of a server's Raft address, the port 7080 where it is left out. VerbFailed (usage)."""
    host, port = split_address(peer)
    return f"{_bracketed(host)}:{port or RAFT_PORT}"


def _single_member(api_port: int) -> str:
    return f"127.0.0.1:{_single_raft_port(api_port)}"


def _holds_something(directory: Path) -> bool:
    return directory.is_dir() and any(directory.iterdir())


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _single_raft_port(api_port: int) -> int:
    """7080 beside 8080, and for any other port one of its own, so that single servers on one machine do not meet."""
    return api_port - (API_PORT - RAFT_PORT) if api_port > 2 * (API_PORT - RAFT_PORT) else api_port + 20_000


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _api_host(host: str, raft_host: str, *, single: bool) -> str:
    """The host that agents and clients are told: what the API binds, or where it binds everything, what others know us by."""
    if host not in ANY:
        return host
    return primary_address() if single else raft_host


def primary_address() -> str:
    """The address this machine's packets to others carry; nothing is sent to find out."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"
