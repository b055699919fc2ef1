"""A load of many clients against one server, from a process of its own; the same for whoever is measured.

Each client has one connection and one request in flight. The process does nothing but that on an epoll loop, with requests that were
encoded beforehand, so that it takes less of a core than any server it asks; what it took is in its outcome, and where it took nearly a
whole core the outcome says so: then the figure is the generator's.

`python -m tests.benchmarks.load` reads a Load from its input and writes an Outcome.
"""

import itertools
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence

import msgspec
from msgspec import Struct

from tests.benchmarks.figures import percentile
from tests.benchmarks.wire import Answer, Grpc, Http, Wire, http_request

WARM_S = 0.3
"""Answers of so long at the beginning do not count."""
_PIECE = memoryview(bytearray(262_144))
"""Read into again and again: memory asked for anew for each answer may cost more than the answer, as the allocator pleases."""
BOUND = 0.9
"""A generator that takes this share of a core may be what is measured."""


class Load(Struct, frozen=True, kw_only=True):
    target: str
    """host:port, or the path of a unix socket."""
    clients: tuple[tuple[bytes, ...], ...]
    """The requests of each, sent one after the other and again from the first."""
    seconds: float
    grpc: str = ""
    """The method, where it is gRPC."""
    drain_s: float = 10.0
    """For the answers of what was asked before the end."""
    swarm: bool = False
    """Each client's two parts are a service's path and its spec: it is read for its version, then updated; updates alone are timed."""


class Outcome(Struct, frozen=True, kw_only=True):
    answers: int
    """Timed ones, between the warm-up and the end."""
    seconds: float
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    errors: int = 0
    first_error: str = ""
    done: tuple[int, ...] = ()
    """By client: good answers to timed requests, the warm-up and the drain included."""
    answer_bytes: int = 0
    cpu: float = 0.0
    """Share of a core the generator took."""

    @property
    def per_s(self) -> float:
        return self.answers / self.seconds


class LoadFailed(Exception):
    """Something was not answered as it should be, so that nothing was measured."""


def apply(load: Load, *, inside: Sequence[str] = (), tolerated: float = 0.0) -> Outcome:
    """Run it in a process of its own (`inside`: words before its command). LoadFailed where more answers are bad than `tolerated`."""
    command = [*inside, sys.executable, "-m", "tests.benchmarks.load"]
    done = subprocess.run(command, input=msgspec.json.encode(load), capture_output=True, check=False)
    if done.returncode:
        raise LoadFailed(done.stderr.decode(errors="replace")[-500:])
    outcome = msgspec.json.decode(done.stdout, type=Outcome)
    if not outcome.answers or outcome.errors > tolerated * outcome.answers:
        raise LoadFailed(f"{outcome.errors} of {outcome.answers} answers are bad; the first: {outcome.first_error}")
    return outcome


Turns = Generator[tuple[bytes, bool], bytes, None]
"""Yields (request, whether it is timed), is sent the body of the answer."""


def _in_turn(requests: tuple[bytes, ...]) -> Turns:
    for request in itertools.cycle(requests):
        yield request, True


def _updates(path: bytes, spec: bytes) -> Turns:
    service = path.decode()
    for n in itertools.count():
        found = re.search(rb'"Version":\{"Index":(\d+)\}', (yield http_request("GET", service), False))
        version = found.group(1).decode() if found is not None else "unknown"
        yield http_request("POST", f"{service}/update?version={version}", spec.replace(b"NUMBER", str(n).encode())), True


class _Client:
    def __init__(self, load: Load, requests: tuple[bytes, ...]) -> None:
        self.wire: Wire = Grpc(load.grpc) if load.grpc else Http()
        self.turns = _updates(*requests) if load.swarm else _in_turn(requests)
        self.connection = connect(load.target)
        self.timed = False
        self.began = 0.0
        self.done = 0
        self.connection.sendall(self.wire.hello())

    def ask(self, body: bytes | None) -> None:
        request, self.timed = next(self.turns) if body is None else self.turns.send(body)
        self.began = time.perf_counter()
        self.connection.sendall(self.wire.pack(request))

    def hear(self) -> Answer | None:
        data = bytes(_PIECE[: self.connection.recv_into(_PIECE)])
        if not data:
            raise ConnectionError("the server closed a connection")
        answer, back = self.wire.feed(data)
        if back:
            self.connection.sendall(back)
        return answer


def run(load: Load) -> Outcome:
    clients = {client.connection.fileno(): client for client in (_Client(load, requests) for requests in load.clients)}
    poll = select.epoll()
    for number in clients:
        poll.register(number, select.EPOLLIN)
    took: list[float] = []
    errors, first_error, size = 0, "", 0
    for client in clients.values():
        client.ask(None)
    cpu, now = time.process_time(), time.perf_counter()
    counts_from = now + WARM_S
    ends, asked = counts_from + load.seconds, len(clients)
    while asked and now < ends + load.drain_s:
        for number, _ in poll.poll(0.1):
            client = clients[number]
            answer = client.hear()
            if answer is None:
                continue
            now = time.perf_counter()
            asked -= 1
            if not answer.ok:
                errors, first_error = errors + 1, first_error or answer.status
            elif client.timed:
                client.done += 1
                size = len(answer.body)
                if counts_from <= now <= ends:
                    took.append(now - client.began)
            if now < ends or (load.swarm and not client.timed):
                client.ask(answer.body)
                asked += 1
        now = time.perf_counter()
    return Outcome(
        answers=len(took),
        seconds=load.seconds,
        p50_ms=1000 * percentile(took, 0.5) if took else 0.0,
        p99_ms=1000 * percentile(took, 0.99) if took else 0.0,
        errors=errors + asked,
        first_error=first_error or (f"{asked} were not answered in {load.drain_s:g} s" if asked else ""),
        done=tuple(client.done for client in clients.values()),
        answer_bytes=size,
        cpu=round((time.process_time() - cpu) / (WARM_S + load.seconds), 2),
    )


def connect(target: str) -> socket.socket:
    """To host:port, or to a unix socket's path."""
    if target.startswith("/"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(target)
        return connection
    host, _, port = target.rpartition(":")
    connection = socket.create_connection((host, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(run(msgspec.json.decode(sys.stdin.buffer.read(), type=Load))))
