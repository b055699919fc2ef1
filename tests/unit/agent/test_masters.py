"""What the agent says again, and what it does not."""

import asyncio
from pathlib import Path
from random import Random

import httpx
import msgspec
import pytest

from kago.agent.masters import Masters
from kago.agent.notes import Notebook
from kago.agent.worker import Worker
from kago.client.client import Client
from kago.client.errors import ClientError
from kago.clock import SystemClock
from kago.core.model.pod import Pod, PodStatus
from kago.core.model.report import Heartbeat, HeartbeatReply, PodReport, Registration, WatchEvent
from kago.core.model.resources import Resources
from tests.unit.agent.things import a_pod

SAID = PodReport(pod_id="p1", status=PodStatus.RUNNING, ready=True)


def say_and_see(tmp_path: Path, *seen: Pod) -> list[int]:
    """How many reports each heartbeat carries: one at first, one after each of these states of the pod has come on the watch."""
    sent: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(len(msgspec.json.decode(request.content, type=Heartbeat).pods))
        return httpx.Response(200, content=msgspec.json.encode(HeartbeatReply(index=1, epoch=1, heartbeat_s=1.0, lease_s=5.0, servers=())))

    async def run() -> None:
        clock = SystemClock()
        registration = Registration(name="n1", id="a1", incarnation=1, address="x", port=1, capacity=Resources())
        with Notebook(tmp_path) as notebook:
            client = Client(["http://a:1"], transport=httpx.MockTransport(answer), clock=clock)
            worker = Worker(notebook, {}, "n1", clock)
            masters = Masters(registration, notebook, worker, clock, telling=client, watching=client, dice=Random(1))
            worker.said = {"p1": SAID}
            await masters._beat()
            for pod in seen:
                masters._take(WatchEvent(type="put", index=2, object=msgspec.to_builtins(pod)), None)
                await masters._beat()

    asyncio.run(run())
    return sent


def test_what_the_cluster_has_otherwise_is_said_again(tmp_path: Path) -> None:
    late = msgspec.structs.replace(a_pod("p1"), node_name="n1", status=PodStatus.RUNNING, reason="Error")
    right = msgspec.structs.replace(late, ready=True, reason="")
    assert say_and_see(tmp_path, right, late, right) == [1, 0, 1, 0]


def test_a_master_of_an_earlier_life_of_the_cluster_is_left(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        epoch = 5 if request.url.host == "old" else 1005
        reply = HeartbeatReply(index=1, epoch=epoch, heartbeat_s=1.0, lease_s=5.0, servers=())
        return httpx.Response(200, content=msgspec.json.encode(reply))

    async def run() -> None:
        clock = SystemClock()
        registration = Registration(name="n1", id="a1", incarnation=1, address="x", port=1, capacity=Resources())
        with Notebook(tmp_path) as notebook:
            notebook.notes = msgspec.structs.replace(notebook.notes, epoch=1005)
            client = Client(["http://old:1", "http://new:1"], transport=httpx.MockTransport(answer), clock=clock)
            worker = Worker(notebook, {}, "n1", clock)
            masters = Masters(registration, notebook, worker, clock, telling=client, watching=client, dice=Random(1))
            worker.said = {"p1": SAID}
            with pytest.raises(ClientError, match="knows epoch 5, one seen before was of epoch 1005"):
                await masters._beat()
            assert not masters._acknowledged, "what only the old one heard is said again"
            await masters._beat()
            assert masters._acknowledged == {"p1": SAID}

    asyncio.run(run())
    assert asked == ["old", "new"]
