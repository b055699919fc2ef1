"""A control plane of a few lines for tests of the agent: the three calls an agent makes, with pods set by the test."""

import asyncio
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from kago.core.model.pod import Desired, Pod, PodStatus
from kago.core.model.report import Heartbeat, HeartbeatReply, PodReport, Registration, RegistrationReply, WatchEvent

HEARTBEAT_S = 0.3


class Master:
    """Listens on a free loopback port. `pods` changes through `put` and `remove`, reports are applied to them as handlers would."""

    def __init__(self, cluster_id: str = "c1") -> None:
        self.cluster_id = cluster_id
        self.epoch = 1
        self.index = 10
        self.pods: dict[str, Pod] = {}
        self.history: list[tuple[int, WatchEvent]] = []
        self.registrations: list[Registration] = []
        self.heartbeats: list[Heartbeat] = []
        self.reports: dict[str, PodReport] = {}
        self.refuse: tuple[int, str] | None = None
        """(status, problem type) of every answer to a heartbeat."""
        self.refuse_registration: tuple[int, str] | None = None
        self.known = True
        self.silent = False
        """Accept and never answer."""
        self.extra_servers: tuple[str, ...] = ()
        self._waiting: set[asyncio.Event] = set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> "Master":
        await self.listen()
        return self

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def __aexit__(self, *_: object) -> None:
        await self.die()

    async def die(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def put(self, pod: Pod) -> None:
        self.pods[pod.id] = pod
        await self._tell("put", pod)

    async def stop(self, pod: Pod) -> None:
        now = self.pods[pod.id]
        await self.put(msgspec.structs.replace(now, desired=Desired.STOPPED, status=PodStatus.TERMINATING))

    async def remove(self, pod_id: str) -> None:
        await self._tell("removed", self.pods.pop(pod_id))

    async def until(self, holds: Any, within_s: float = 10.0) -> None:
        """Wait until `holds()`; TimeoutError with the present reports."""
        try:
            async with asyncio.timeout(within_s):
                while not holds():
                    await self._next(1.0)
        except TimeoutError:
            raise TimeoutError(f"not within {within_s} s; reports: {self.reports}") from None

    async def _tell(self, kind: str, pod: Pod) -> None:
        self.index += 1
        content: dict[str, object] = msgspec.to_builtins(pod)
        self.history.append((self.index, WatchEvent(type=kind, index=self.index, object=content)))
        self._notify()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(length[1])) if length else b""
                if self.silent:
                    await asyncio.sleep(3600)
                method, target, _ = head.split("\r\n")[0].split(" ")
                url = urlsplit(target)
                if url.path == "/pods":
                    await self._watch(writer, {key: value[0] for key, value in parse_qs(url.query).items()})
                    return
                status, answer = await self._answer(method, url.path, body)
                content = msgspec.json.encode(answer)
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        common: dict[str, Any] = {
            "index": self.index,
            "epoch": self.epoch,
            "heartbeat_s": HEARTBEAT_S,
            "lease_s": 5.0,
            "servers": (self.url, *self.extra_servers),
        }
        if (method, path) == ("POST", "/nodes/register"):
            if self.refuse_registration is not None:
                return self.refuse_registration[0], {"type": f"urn:kago:problem:{self.refuse_registration[1]}", "detail": "refused"}
            self.registrations.append(msgspec.json.decode(body, type=Registration))
            self.known = True
            return 200, RegistrationReply(cluster_id=self.cluster_id, **common)
        assert method == "POST" and path.endswith("/heartbeat"), (method, path)
        if self.refuse is not None:
            return self.refuse[0], {"type": f"urn:kago:problem:{self.refuse[1]}", "detail": "refused by the test"}
        if not self.known:
            return 404, {"type": "urn:kago:problem:not-found", "detail": "no such node"}
        heartbeat = msgspec.json.decode(body, type=Heartbeat)
        self.heartbeats.append(heartbeat)
        for report in heartbeat.pods:
            self.reports[report.pod_id] = report
            if report.status is PodStatus.TERMINATED and report.pod_id in self.pods:
                await self.remove(report.pod_id)
        self._notify()
        return 200, HeartbeatReply(**common)

    async def _watch(self, writer: asyncio.StreamWriter, params: dict[str, str]) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n")

        def line(event: WatchEvent) -> None:
            writer.write(msgspec.json.encode(event) + b"\n")

        if "index" in params:
            at = int(params["index"])
        else:
            at = self.index
            for pod in self.pods.values():
                if pod.node_name == params["node_name"]:
                    line(WatchEvent(type="put", index=at, object=msgspec.to_builtins(pod)))
            line(WatchEvent(type="synced", index=at, epoch=self.epoch))
        while not writer.is_closing():
            for index, event in self.history:
                if index > at:
                    line(event)
            at = self.index
            await writer.drain()
            if not await self._next(1.0):
                line(WatchEvent(type="heartbeat", index=self.index, epoch=self.epoch))
            while self.silent:
                await asyncio.sleep(1)

    def _notify(self) -> None:
        for event in self._waiting:
            event.set()

    async def _next(self, within_s: float) -> bool:
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            async with asyncio.timeout(within_s):
                await event.wait()
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(event)
        return True
