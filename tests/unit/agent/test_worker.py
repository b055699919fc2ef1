"""The worker's rounds with a runtime of a few lines: order, independence of pods, and what a hanging engine must not do."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import msgspec
import pytest

from kago.agent.notes import FILE, Notebook, Notes
from kago.agent.runtime import EngineUnavailable, Observed, Owner, Progress, RuntimeFailed
from kago.agent.worker import Worker
from kago.clock import SystemClock
from kago.core.model.deployment import Runtime
from kago.core.model.pod import Desired, Pod, PodStatus
from tests.unit.agent.things import a_pod, running, stopped

WITHIN_S = 5.0


class FakeRuntime:
    """Containers in a dict; the test holds up or fails what it likes."""

    kind = Runtime.DOCKER

    def __init__(self) -> None:
        self.containers: dict[str, Observed] = {}
        self.calls: list[str] = []
        self.owner: Owner | None = None
        self.changed: Callable[[], None] = lambda: None
        self.hold_prepare: dict[str, asyncio.Event] = {}
        self.hold_start = asyncio.Event()
        self.hold_start.set()
        self.failures: dict[str, RuntimeFailed] = {}
        self.away = False
        self.runs = 0

    async def open(self, owner: Owner, changed: Callable[[], None]) -> None:
        self.owner, self.changed = owner, changed

    async def list(self) -> tuple[Observed, ...]:
        if self.away:
            raise EngineUnavailable("away")
        return tuple(self.containers.values())

    async def prepare(self, pod: Pod, progress: Progress) -> None:
        self.calls.append(f"prepare {pod.id}")
        if pod.id in self.hold_prepare:
            progress("Pulling", "1 of 9 MB")
            await self.hold_prepare[pod.id].wait()

    async def start(self, pod: Pod) -> None:
        await self.hold_start.wait()
        if pod.id in self.failures:
            raise self.failures.pop(pod.id)
        self.calls.append(f"start {pod.id}")
        self.runs += 1
        self.containers[f"c-{pod.id}"] = running(pod.id, run=f"r{self.runs}")

    async def remove(self, ref: str, grace_s: float) -> None:
        self.calls.append(f"remove {ref}")
        del self.containers[ref]

    async def last_output(self, ref: str) -> str:
        return "last words"

    async def close(self) -> None:
        return


Story = Callable[[Worker, FakeRuntime], Coroutine[None, None, None]]


def play(tmp_path: Path, story: Story) -> None:
    async def run() -> None:
        with Notebook(tmp_path) as notebook:
            notebook.notes = msgspec.structs.replace(notebook.notes, cluster_id="c1")
            runtime = FakeRuntime()
            worker = Worker(notebook, {Runtime.DOCKER: runtime}, "n1", SystemClock())
            task = asyncio.create_task(worker.run())
            try:
                async with asyncio.timeout(WITHIN_S):
                    await story(worker, runtime)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.01)


def view(worker: Worker, *pods: Pod, index: int = 7) -> None:
    worker.take_over({pod.id: pod for pod in pods}, index=index, epoch=1)


def test_a_slow_pull_holds_up_nobody_else_and_shows(tmp_path: Path) -> None:
    async def story(worker: Worker, runtime: FakeRuntime) -> None:
        runtime.hold_prepare["p1"] = asyncio.Event()
        view(worker, a_pod("p1"), a_pod("p2"))
        await until(lambda: "p2" in worker.said and worker.said["p2"].ready and worker.said["p1"].reason == "Pulling")
        assert worker.said["p1"].message == "1 of 9 MB"
        runtime.hold_prepare["p1"].set()
        await until(lambda: worker.said["p1"].ready)

    play(tmp_path, story)


def test_a_pod_stopped_while_its_image_is_pulled_is_never_started(tmp_path: Path) -> None:
    async def story(worker: Worker, runtime: FakeRuntime) -> None:
        runtime.hold_prepare["p1"] = asyncio.Event()
        view(worker, a_pod("p1"))
        await until(lambda: "prepare p1" in runtime.calls)
        worker.want(stopped("p1"), index=8)
        await until(lambda: "p1" in worker.said and worker.said["p1"].status is PodStatus.TERMINATED)
        assert runtime.calls == ["prepare p1"]

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("young_s", "wanted"), [(60.0, ["running"]), (0.0, ["creating", "running"])], ids=["over at once", "takes its time"]
)
def test_a_start_is_told_before_it_is_done_only_where_it_takes_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, young_s: float, wanted: list[str]
) -> None:
    monkeypatch.setattr("kago.agent.worker.YOUNG_S", young_s)

    async def story(worker: Worker, runtime: FakeRuntime) -> None:
        said: list[str] = []

        def note() -> None:
            said.append(worker.said["p1"].status)
            runtime.hold_start.set()

        worker.on_reports = note
        if not young_s:
            runtime.hold_start.clear()
        view(worker, a_pod("p1"))
        await until(lambda: "p1" in worker.said and worker.said["p1"].ready)
        assert said == wanted

    play(tmp_path, story)


def test_a_pod_stopped_while_it_starts_is_not_called_gone_before_it_is(tmp_path: Path) -> None:
    async def story(worker: Worker, runtime: FakeRuntime) -> None:
        runtime.hold_start.clear()
        said: list[PodStatus] = []
        worker.on_reports = lambda: said.append(worker.said["p1"].status)
        view(worker, a_pod("p1"))
        await until(lambda: "prepare p1" in runtime.calls)
        worker.want(stopped("p1"), index=8)
        await asyncio.sleep(0.1)
        runtime.hold_start.set()
        await until(lambda: PodStatus.TERMINATED in said)
        assert runtime.calls == ["prepare p1", "start p1", "remove c-p1"] and not runtime.containers
        assert said[-1] is PodStatus.TERMINATED and said.count(PodStatus.TERMINATED) == 1

    play(tmp_path, story)


def test_an_engine_that_is_away_changes_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    async def story(worker: Worker, runtime: FakeRuntime) -> None:
        view(worker, a_pod("p1"))
        await until(lambda: "p1" in worker.said and worker.said["p1"].ready)
        runtime.away = True
        worker.want(a_pod("p2"), index=8)
        await until(lambda: "p2" in worker.said and worker.said["p2"].reason == "EngineUnavailable")
        assert worker.said["p1"].ready
        runtime.away = False
        await until(lambda: worker.said["p2"].ready)
        assert runtime.calls == ["prepare p1", "start p1", "prepare p2", "start p2"]

    play(tmp_path, story)


def test_a_failed_start_is_tried_again_and_its_reason_kept_until_then(tmp_path: Path) -> None:
    async def story(worker: Worker, runtime: FakeRuntime) -> None:
        runtime.failures["p1"] = RuntimeFailed("NameConflict", "taken")
        view(worker, a_pod("p1"))
        await until(lambda: "p1" in worker.said and worker.said["p1"].reason == "NameConflict")
        await until(lambda: worker.said["p1"].ready)
        assert worker.said["p1"].reason == ""

    play(tmp_path, story)


def test_wishes_counters_and_the_newest_index_are_on_disk(tmp_path: Path) -> None:
    async def story(worker: Worker, runtime: FakeRuntime) -> None:
        view(worker, a_pod("p1"), index=41)
        await until(lambda: "p1" in worker.said and worker.said["p1"].ready)
        runtime.containers["c-p1"] = running("p1", run="r1", running=False, finished_at=1.0, started_at=0.0, exit_code=3)
        runtime.changed()
        await until(lambda: worker.said["p1"].restarts == 1)

    play(tmp_path, story)
    with Notebook(tmp_path) as notebook:
        notes = notebook.notes
    assert (notes.incarnation, notes.index, notes.epoch, [pod.id for pod in notes.pods]) == (2, 41, 1, ["p1"])
    assert (notes.records["p1"].restarts, notes.records["p1"].exit_code) == (1, 3)


def test_a_wish_is_on_disk_before_it_is_acted_on(tmp_path: Path) -> None:
    """Killed right after a removal, the agent must not start the pod again from what it wrote before."""
    noted: list[Desired] = []

    async def story(worker: Worker, runtime: FakeRuntime) -> None:
        flush, written = worker._notebook.flush, asyncio.Event()
        loop = asyncio.get_running_loop()

        def slow() -> None:
            flush()
            loop.call_soon_threadsafe(written.set)
            time.sleep(0.1)

        async def remove(ref: str, grace_s: float) -> None:
            content = msgspec.json.decode((tmp_path / FILE).read_bytes(), type=Notes)
            noted.extend(pod.desired for pod in content.pods if pod.id == "p1")
            del runtime.containers[ref]

        view(worker, a_pod("p1"))
        await until(lambda: "p1" in worker.said and worker.said["p1"].ready)
        worker._notebook.flush = slow  # type: ignore[method-assign]
        runtime.remove = remove  # type: ignore[method-assign]
        worker.want(a_pod("p2"), index=8)
        await written.wait()
        worker.want(stopped("p1"), index=9)
        await until(lambda: bool(noted))

    play(tmp_path, story)
    assert noted == [Desired.STOPPED]
