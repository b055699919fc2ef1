"""Three servers of one product, as real processes with their data on disk: Kago's, and etcd's members beside them.

On loopback, or each on a machine of its own in a network of namespaces, where links can be cut.
"""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tests.benchmarks.attempts import NUMBER
from tests.benchmarks.load import connect
from tests.benchmarks.wire import Http, http_request
from tests.e2e.netns import Network

Result = TypeVar("Result")
NAMES = ("s1", "s2", "s3")
USER = "user"
"""The machine of whoever asks, where there are machines."""
UP_S = 60.0
_STOP_S = 15.0


class Process:
    """A program that can be killed and started again."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.command = tuple(command)
        self.log = log
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("KAGO_")} | dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "it was never started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=self._environment
            )

    def kill(self) -> None:
        if self._process is not None and self.running:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        if self._process is None or not self.running:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-1500:] if self.log.exists() else ""


class Group(Protocol):
    """What a benchmark asks of three servers, whosever they are."""

    @property
    def processes(self) -> Mapping[str, Process]: ...

    @property
    def inside(self) -> tuple[str, ...]:
        """Words before a command that asks them."""

    def target(self, name: str) -> str:
        """host:port of a server's API."""

    def leader(self) -> str:
        """Waits until there is one and all three are in step."""

    def write(self) -> bytes:
        """The HTTP request of a small write that always succeeds; NUMBER in it is to be replaced each time."""


class _Members:
    def __init__(self, place: Path, network: Network | None) -> None:
        self.place = place
        self.network = network
        self.inside = network.inside(USER) if network is not None else ()
        self.processes: dict[str, Process] = {}
        ports = free_ports(6)
        self.at = {name: network.addresses[name] if network is not None else "127.0.0.1" for name in NAMES}
        self.api = dict(zip(NAMES, ports[:3], strict=True))
        self.raft = dict(zip(NAMES, ports[3:], strict=True))

    def target(self, name: str) -> str:
        return f"{self.at[name]}:{self.api[name]}"

    def command(self, name: str, *words: str) -> list[str]:
        return [*(self.network.inside(name) if self.network is not None else ()), *words]

    def fetch(self, name: str, path: str, body: object = None, method: str = "GET") -> Any:
        if self.network is None:
            return ask(self.target(name), method, path, body)
        return fetch(f"http://{self.target(name)}{path}", body, method, inside=self.inside)

    def __enter__(self) -> "_Members":
        for process in self.processes.values():
            process.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()


class KagoServers(_Members):
    def __init__(self, place: Path, network: Network | None = None, *flags: str) -> None:
        super().__init__(place, network)
        peers = ",".join(f"{self.at[name]}:{self.raft[name]}" for name in NAMES)
        for name in NAMES:
            words = ["serve", "--host", self.at[name], "--port", str(self.api[name]), "--peers", peers]
            words += ["--address", f"{self.at[name]}:{self.raft[name]}", "--data-dir", str(place / name), *flags]
            words += ["--insecure"] if network is not None else []
            self.processes[name] = Process(self.command(name, sys.executable, "-m", "kago.cli.main", *words), place / f"{name}.log")

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(f"http://{self.target(name)}" for name in NAMES)

    def __enter__(self) -> "KagoServers":
        super().__enter__()
        self.leader()
        return self

    def leader(self) -> str:
        def look() -> str | None:
            cluster = self.cluster()
            members = cluster["members"]
            roles = sorted(member["role"] for member in members)
            if roles != ["follower", "follower", "leader"] or any((member["lag"] or 0) > 50 for member in members):
                return None
            return next(name for name in NAMES if cluster["leader"] == f"{self.at[name]}:{self.raft[name]}")

        return until("three Kago servers in step", look, self.diary)

    def cluster(self) -> dict[str, Any]:
        """As the first server that answers sees it."""
        return first_of(lambda name: dict(self.fetch(name, "/cluster")))

    def write(self) -> bytes:
        """Of the deployment that `make_probe` makes; a change each time, if the number in it is another."""
        return http_request("PUT", "/deployments/probe", json.dumps({"labels": {"number": NUMBER.decode()}}).encode())

    def make_probe(self) -> None:
        spec = {"name": "probe", "runtime": "process", "command": ["/bin/true"], "replicas": 0}
        self.fetch(self.leader(), "/deployments", spec, "POST")

    def check_on_disk(self) -> None:
        """Three servers run, each of its own, and each keeps a log that has grown."""
        for name in NAMES:
            assert self.processes[name].running, f"{name} does not run: {self.processes[name].last_words()}"
            assert sum(file.stat().st_size for file in (self.place / name).rglob("*") if file.is_file()) > 1000, f"{name} keeps nothing"

    def diary(self) -> str:
        return "\n".join(process.last_words() for process in self.processes.values())


class EtcdMembers(_Members):
    """At its defaults: heartbeats of 100 ms, elections after 1 s, every write synced."""

    def __init__(self, place: Path, network: Network | None = None) -> None:
        super().__init__(place, network)
        cluster = ",".join(f"{name}=http://{self.at[name]}:{self.raft[name]}" for name in NAMES)
        for name in NAMES:
            client, peer = f"http://{self.target(name)}", f"http://{self.at[name]}:{self.raft[name]}"
            words = ["etcd", "--name", name, "--data-dir", str(place / name)]
            words += ["--listen-client-urls", client, "--advertise-client-urls", client]
            words += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", cluster]
            words += ["--initial-cluster-state", "new", "--logger", "zap", "--log-level", "error"]
            self.processes[name] = Process(self.command(name, *words), place / f"{name}.log")

    def __enter__(self) -> "EtcdMembers":
        super().__enter__()
        self.leader()
        return self

    def leader(self) -> str:
        def look() -> str | None:
            said = {name: self.fetch(name, "/v3/maintenance/status", {}, "POST") for name in NAMES}
            leaders = {status.get("leader") for status in said.values()}
            if len(leaders) != 1 or None in leaders or "0" in leaders:
                return None
            return next((name for name, status in said.items() if status["header"]["member_id"] in leaders), None)

        return until("three members of etcd with one leader", look, lambda: "\n".join(one.last_words() for one in self.processes.values()))

    def write(self) -> bytes:
        """Through the gateway, as a client without gRPC would; the number is not that of base64, but its digits are of its letters."""
        value = json.dumps({"key": encoded(b"probe"), "value": NUMBER.decode() + "AA"}).encode()
        return http_request("POST", "/v3/kv/put", value)


@contextmanager
def linked(network: Network) -> Iterator[Network]:
    """The network while it is used."""
    try:
        network.up()
        yield network
    finally:
        network.down()


def why_no_etcd() -> str:
    return "" if shutil.which("etcd") else "not installed: etcd (Debian: apt-get install etcd-server, or unpack it and put it on PATH)"


def fetch(url: str, body: object = None, method: str = "GET", *, inside: Sequence[str] = ()) -> Any:
    """JSON by way of curl, so that it can be asked from within a network of namespaces. OSError where there is no good answer."""
    command = [*inside, "curl", "-s", "-m", "5", "-X", method, "-w", "\n%{http_code}", url]
    if body is not None:
        command += ["-H", "Content-Type: application/json", "--data-binary", json.dumps(body)]
    text, _, status = subprocess.run(command, capture_output=True, text=True, check=False).stdout.rpartition("\n")
    if not status.startswith("2"):
        raise OSError(f"{method} {url}: {status} {text[:300]}")
    return json.loads(text)


def ask(target: str, method: str, path: str, body: object = None) -> Any:
    """One request and its JSON (None where it is none); bytes are sent as they are. OSError where the answer is no success."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    with connect(target) as connection:
        connection.settimeout(60.0)
        connection.sendall(http_request(method, path, content))
        wire, answer = Http(), None
        while answer is None and (data := connection.recv(262_144)):
            answer, _ = wire.feed(data)
    if answer is None or not answer.ok:
        raise OSError(f"{method} {path}: {answer.status if answer is not None else 'no answer'}")
    found = _unchunked(answer.body)
    return json.loads(found) if found[:1] in (b"{", b"[") else None


def first_of(ask: Callable[[str], Result]) -> Result:
    """The answer of the first server that gives one."""
    for name in NAMES[:-1]:
        try:
            return ask(name)
        except OSError:
            continue
    return ask(NAMES[-1])


def until(what: str, look: Callable[[], Result | None], diary: Callable[[], str] = lambda: "", *, within_s: float = UP_S) -> Result:
    """The first true value of `look`; one that does not answer is none yet."""
    deadline, why = time.monotonic() + within_s, ""
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
        except OSError as error:
            why = f" ({error})"
        time.sleep(0.1)
    raise TimeoutError(f"waited {within_s:.0f} s in vain for {what}{why}\n{diary()}")


def encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _unchunked(body: bytes) -> bytes:
    """Without the sizes of chunks, where it has them."""
    if body[:1] in (b"{", b"[") or b"\r\n" not in body:
        return body
    parts, at = [], 0
    while (end := body.find(b"\r\n", at)) >= 0 and (size := int(body[at:end], 16)):
        parts.append(body[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return b"".join(parts)


def free_ports(count: int) -> list[int]:
    """Held all at once while they are chosen, so that none is chosen twice."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in probes]
