"""A whole cluster of real `kago` processes on this machine's loopback, for the demo and for the end-to-end tests."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from msgspec import Struct

LOOPBACK = "127.0.0.1"
STOP_S = 10.0
KILLED_S = 5.0


class KagoProcess:
    """One `kago serve` or `kago agent`: can be killed and started again with the same settings, data and log."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path) -> None:
        self.name = name
        self.arguments = tuple(arguments)
        self.log = log
        self.module = "kago.cli.main"
        self.prefix: tuple[str, ...] = ()
        """Words before the command, of a program that ends by executing it."""
        self.environment: dict[str, str] = {}
        """Set for it beside what we have ourselves."""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """In a session of its own, so that a Ctrl-C at the terminal is ours to handle."""
        if self.running:
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", self.module, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**{name: value for name, value in os.environ.items() if not name.startswith("KAGO_")}, **self.environment},
            )

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None and self.running:
            self._process.kill()
            self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            self._process.send_signal(number)

    def stop(self) -> None:
        """SIGTERM; SIGKILL where that does not do."""
        if self._process is None or not self.running:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def last_words(self, lines: int = 15) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""


class Ports(Struct, frozen=True):
    api: tuple[int, ...]
    raft: tuple[int, ...]
    agent: tuple[int, ...]


class LocalCluster:
    """`servers` control-plane servers and `agents` agents below one directory; started one by one or all at once."""

    def __init__(
        self,
        directory: Path,
        *,
        servers: int = 3,
        agents: int = 2,
        node_prefix: str = "node",
        serve_flags: Sequence[str] = (),
        agent_flags: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.ports = _free_ports(servers, agents)
        self.node_names = tuple(f"{node_prefix}-{n + 1}" for n in range(agents))
        peers = ",".join(f"{LOOPBACK}:{port}" for port in self.ports.raft)
        self.servers = tuple(
            self._process(
                f"server-{n + 1}",
                ["serve", "--host", LOOPBACK, "--port", str(api), "--peers", peers, "--address", f"{LOOPBACK}:{raft}", *serve_flags],
            )
            for n, (api, raft) in enumerate(zip(self.ports.api, self.ports.raft, strict=True))
        )
        self.agents = tuple(
            self._process(
                f"agent-{n + 1}",
                ["agent", "--name", name, "--master", ",".join(self.urls), "--port", str(port), "--address", LOOPBACK, *agent_flags],
            )
            for n, (name, port) in enumerate(zip(self.node_names, self.ports.agent, strict=True))
        )

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(f"http://{LOOPBACK}:{port}" for port in self.ports.api)

    def server_at(self, raft_address: str) -> KagoProcess:
        """The server whose Raft address that is."""
        return self.servers[[f"{LOOPBACK}:{port}" for port in self.ports.raft].index(raft_address)]

    def start(self) -> None:
        for process in self.processes():
            process.start()

    def processes(self) -> Iterator[KagoProcess]:
        yield from self.servers
        yield from self.agents

    def stop(self) -> None:
        """All of them at once; what still runs after that is killed."""
        for process in self.processes():
            process.signal(signal.SIGTERM)
        for process in self.processes():
            process.stop()

    def leftovers(self) -> list[int]:
        """Pids of pods' processes on our nodes that are still there (process runtime)."""
        ours = {f"KAGO_NODE_NAME={name}" for name in self.node_names}
        return [pid for pid, environment in environments() if not ours.isdisjoint(environment)]

    def kill_leftovers(self) -> None:
        """Returns when they are gone; a killed process takes a moment to be."""
        deadline = time.monotonic() + KILLED_S
        while (pids := self.leftovers()) and time.monotonic() < deadline:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def _process(self, name: str, arguments: Sequence[str]) -> KagoProcess:
        data = self.directory / name
        data.mkdir(parents=True, exist_ok=True)
        return KagoProcess(name, [*arguments, "--data-dir", str(data)], self.directory / f"{name}.log")


def environments() -> Iterator[tuple[int, frozenset[str]]]:
    """(pid, its `NAME=value` strings) of every process we may look at."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                content = (entry / "environ").read_bytes()
            except OSError:
                continue  # gone meanwhile, or another user's
            yield int(entry.name), frozenset(content.decode(errors="replace").split("\0"))


def run_kago(arguments: Sequence[str], *, environment: Mapping[str, str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    """A client verb in a process of its own, as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "kago.cli.main", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def _free_ports(servers: int, agents: int) -> Ports:
    """Held all at once while they are chosen, so that none is chosen twice."""
    with ExitStack() as held:
        numbers: list[int] = []
        for _ in range(2 * servers + agents):
            probe = held.enter_context(socket.socket())
            probe.bind((LOOPBACK, 0))
            numbers.append(probe.getsockname()[1])
    return Ports(tuple(numbers[:servers]), tuple(numbers[servers : 2 * servers]), tuple(numbers[2 * servers :]))
