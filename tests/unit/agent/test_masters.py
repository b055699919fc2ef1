"""What the agent says again, and what it does not."""

import asyncio
from collections.abc import Awaitable, Callable
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
from kago.core.model.report import Heartbeat, HeartbeatReply, PodReport, Registration, RegistrationReply, WatchEvent
from kago.core.model.resources import Resources
from tests.unit.agent.things import a_pod

SAID = PodReport(pod_id="p1", status=PodStatus.RUNNING, ready=True)


def play(tmp_path: Path, scenario: Callable[[Masters, Worker], Awaitable[None]]) -> list[int]:
    """How many reports each heartbeat carries; all are answered at index 7."""
    sent: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(len(msgspec.json.decode(request.content, type=Heartbeat).pods))
        return httpx.Response(200, content=msgspec.json.encode(HeartbeatReply(index=7, epoch=1, heartbeat_s=1.0, lease_s=5.0, servers=())))

    async def run() -> None:
        clock = SystemClock()
        registration = Registration(name="n1", id="a1", incarnation=1, address="x", port=1, capacity=Resources())
        with Notebook(tmp_path) as notebook:
            client = Client(["http://a:1"], http=httpx.AsyncClient(transport=httpx.MockTransport(answer)), clock=clock)
            worker = Worker(notebook, {}, "n1", clock)
            masters = Masters(registration, notebook, worker, clock, telling=client, watching=client, dice=Random(1))
            worker.said = {"p1": SAID}
            await scenario(masters, worker)

    asyncio.run(run())
    return sent


LATE = msgspec.structs.replace(a_pod("p1"), node_name="n1", status=PodStatus.RUNNING, reason="Error")
RIGHT = msgspec.structs.replace(LATE, ready=True, reason="")


def test_what_the_cluster_has_otherwise_is_said_again(tmp_path: Path) -> None:
    async def scenario(masters: Masters, worker: Worker) -> None:
        await masters._beat()
        for pod in (RIGHT, LATE, RIGHT):
            masters._take(WatchEvent(type="put", index=8, object=msgspec.to_builtins(pod)), None)
            await masters._beat()

    assert play(tmp_path, scenario) == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("shown", "index", "sent"),
    [
        (LATE, 7, [1, 1, 1]),
        (LATE, 6, [1, 0, 0]),
        (RIGHT, 7, [1, 0, 0]),
        (msgspec.structs.replace(LATE, status=PodStatus.TERMINATING), 7, [1, 0, 0]),
    ],
    ids=["until it is shown", "not before the watch has come so far", "not where it is shown", "not what will never be believed"],
)
def test_what_was_overtaken_on_its_way_to_the_acknowledgement_is_said_again(
    tmp_path: Path, shown: Pod, index: int, sent: list[int]
) -> None:
    """A heartbeat that hung came between ours and its answer: the watch showed its effect before the answer was here."""

    async def scenario(masters: Masters, worker: Worker) -> None:
        worker.want(shown, index=5)
        for _ in sent:
            await masters._beat()
            masters._prove(index)

    assert play(tmp_path, scenario) == sent


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
            client = Client(["http://old:1", "http://new:1"], http=httpx.AsyncClient(transport=httpx.MockTransport(answer)), clock=clock)
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


def test_a_view_from_before_this_life_was_registered_is_not_taken_over(tmp_path: Path) -> None:
    """The notes may be an older copy: what a former life was given since is in no view from before."""
    asked: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/register"):
            reply = RegistrationReply(cluster_id="c1", index=9, epoch=1, heartbeat_s=0.05, lease_s=5.0, servers=())
            return httpx.Response(200, content=msgspec.json.encode(reply))
        if request.url.path.endswith("/heartbeat"):
            beat = HeartbeatReply(index=9, epoch=1, heartbeat_s=0.05, lease_s=5.0, servers=())
            return httpx.Response(200, content=msgspec.json.encode(beat))
        asked.append(request.url.params.get("min_index"))
        event = WatchEvent(type="synced", index=8 if len(asked) == 1 else 10, epoch=1)
        return httpx.Response(200, content=msgspec.json.encode(event) + b"\n")

    async def run() -> None:
        clock = SystemClock()
        with Notebook(tmp_path) as notebook:
            client = Client(["http://a:1"], http=httpx.AsyncClient(transport=httpx.MockTransport(answer)), clock=clock)
            worker = Worker(notebook, {}, "n1", clock)
            registration = Registration(name="n1", id="a1", incarnation=1, address="x", port=1, capacity=Resources())
            masters = Masters(registration, notebook, worker, clock, telling=client, watching=client, dice=Random(1))
            tasks = [asyncio.create_task(masters.tell()), asyncio.create_task(masters.watch())]
            async with asyncio.timeout(10):
                while not notebook.notes.index:
                    await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            assert notebook.notes.index == 10

    asyncio.run(run())
    assert asked[:2] == ["9", "9"]
