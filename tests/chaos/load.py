"""The load: clients of every server that write, read, make and delete, and the record of every call and its answer.

A register is a deployment without pods whose environment holds the value; every value is written once. Each server has clients of its
own that ask no other, so each server's answers are in the record, and a call is sent once: what nobody can know stays unknown.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise

from msgspec import Struct

from tests.chaos.user import Answer, Connection, NoAnswer, NotSent, Way

CLIENTS_A_SERVER = 2
PAUSE_S = 0.04
CALL_S = 4.0
REGISTERS = 3
AFTER_TROUBLE_S = 0.1
_UNKNOWN = ("outcome-unknown", "internal", "halted", "stopping", "timeout", "log")
"""Problems after which a write may have been done; every other one promises that it was not."""


class Call(Struct, kw_only=True):
    """One request. `returned_at` None: nobody knows whether it was done."""

    client: int
    server: str
    kind: str
    """write, read, create or delete."""
    key: str
    value: str = ""
    """Written or read; a read of what is not there is empty."""
    called_at: float
    returned_at: float | None = None
    index: int | None = None
    """In the log: where a write stands, or what a read reflects."""
    refused: bool = False
    """Certainly not done."""


class Load:
    """Under way from `run` until `stop`; one for each injected fault, with registers of its own."""

    def __init__(self, ways: Mapping[str, Way], *, mark: str, dice: random.Random) -> None:
        self._ways = ways
        self._mark = mark
        self._dice = dice
        self._numbers = itertools.count(1)
        self._stopping = asyncio.Event()
        self.registers = tuple(f"{mark}-reg-{n}" for n in range(REGISTERS))
        self.calls: list[Call] = []
        self.surprises: list[str] = []
        """Answers that no promise allows."""

    async def prepare(self) -> None:
        """Make the registers. NoAnswer, NotSent, AssertionError."""
        server = next(iter(self._ways))
        connection = Connection(self._ways[server])
        for register in self.registers:
            call = Call(client=-1, server=server, kind="create", key=register, value="0", called_at=time.monotonic())
            self.calls.append(call)
            answer = await _send(connection, call)
            assert answer.status == 201, answer
            self._judge(call, answer)
        connection.close()

    async def run(self) -> None:
        servers = [server for server in self._ways for _ in range(CLIENTS_A_SERVER)]
        await asyncio.gather(*(self._client(number, server) for number, server in enumerate(servers)))

    def stop(self) -> None:
        """Each client ends its present call and no more begins. From the loop's thread."""
        self._stopping.set()

    async def _client(self, number: int, server: str) -> None:
        connection = Connection(self._ways[server])
        while not self._stopping.is_set():
            call = self._next(number, server)
            self.calls.append(call)
            pause = PAUSE_S
            try:
                answer = await _send(connection, call)
                self._judge(call, answer)
                if answer.status >= 500:
                    pause = AFTER_TROUBLE_S
            except NotSent:
                call.refused = True
                call.returned_at = time.monotonic()
                pause = AFTER_TROUBLE_S
            except NoAnswer:
                pause = AFTER_TROUBLE_S
            await asyncio.sleep(pause * self._dice.uniform(0.5, 1.5))
        connection.close()

    def _next(self, number: int, server: str) -> Call:
        chance, now = self._dice.random(), time.monotonic()
        if chance < 0.45:
            value = f"{number}.{next(self._numbers)}"
            return Call(client=number, server=server, kind="write", key=self._dice.choice(self.registers), value=value, called_at=now)
        if chance < 0.9:
            return Call(client=number, server=server, kind="read", key=self._dice.choice(self.registers), called_at=now)
        return Call(client=number, server=server, kind="create", key=f"{self._mark}-one-{next(self._numbers)}", value="0", called_at=now)

    def _judge(self, call: Call, answer: Answer) -> None:
        """What the answer says about the call. An answer that no promise allows is a surprise."""
        if answer.status in (200, 201):
            call.returned_at = time.monotonic()
            value = answer.body.get("env", {}).get("V", "")
            if call.kind == "read":
                call.value, call.index = value, answer.index
            elif value == call.value:
                call.index = answer.body["spec_version"]
            # else: somebody else's write was applied in the same moment, and the answer shows that one; where ours stands is not said
        elif answer.status == 503 or answer.status == 429:
            if call.kind == "read" or answer.problem not in _UNKNOWN:
                call.refused = True
                call.returned_at = time.monotonic()
        else:
            self.surprises.append(f"{call.kind} {call.key} at {call.server}: {answer.status} {answer.body}")


async def _send(connection: Connection, call: Call) -> Answer:
    path = f"/deployments/{call.key}"
    if call.kind == "write":
        return await connection.ask("PUT", path, {"env": {"V": call.value}}, timeout_s=CALL_S)
    if call.kind == "create":
        return await connection.ask("POST", "/deployments", _deployment(call.key, call.value), timeout_s=CALL_S)
    return await connection.ask("GET", path, timeout_s=CALL_S)


def _deployment(name: str, value: str) -> dict[str, object]:
    return {"name": name, "runtime": "process", "command": ["/bin/true"], "replicas": 0, "env": {"V": value}}


def longest_gap(calls: Sequence[Call], *, since: float, until: float) -> float:
    """The longest time without an acknowledged write of anybody, from the last one before `since` on."""
    times = sorted(c.returned_at for c in calls if c.kind in ("write", "create") and c.returned_at is not None and not c.refused)
    before = [moment for moment in times if moment <= since][-1:] or [since]
    edges = [*before, *(moment for moment in times if since < moment <= until)]
    return max((later - earlier for earlier, later in pairwise(edges)), default=until - since)
