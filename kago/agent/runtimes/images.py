"""Getting images for Docker pods: few pulls at a time, each image once however many pods wait for it, with progress.

A pull cannot be broken off without losing what it has, so a pod that is no longer wanted only stops waiting for it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import docker
import urllib3
from docker.errors import APIError, DockerException, ImageNotFound

from kago.agent.runtime import EngineUnavailable, Progress, RuntimeFailed
from kago.agent.runtimes.threads import Threads, tell
from kago.core.model.deployment import PullPolicy

logger = logging.getLogger("kago.agent.docker")

PULLS = 4
CALL_S = 5
SILENCE_S = 180.0
"""A pull that shows no progress for this long is taken as failed."""
FOUND_S = 1.0
"""So long an image that was there is taken to be there still: the pods of a deployment come together."""
MB = 1_000_000


class _Pull:
    def __init__(self) -> None:
        self.waiting: list[Progress] = []
        self.task: asyncio.Task[None] | None = None
        self.heard = asyncio.Event()


class Images:
    def __init__(self, engine: Callable[[int], docker.APIClient]) -> None:
        self._engine = engine
        self._pulling = Threads(PULLS, "docker-pull")
        self._asking = Threads(2, "docker-image")
        self._pulls: dict[str, _Pull] = {}
        self._asked: dict[str, asyncio.Future[bool]] = {}
        self._found, self._found_at = "", 0.0

    async def provide(self, image: str, policy: PullPolicy, progress: Progress) -> None:
        """Returns when the engine has it. RuntimeFailed (ErrImagePull, ErrImageNeverPull), EngineUnavailable."""
        if policy is not PullPolicy.ALWAYS:
            if self._found == image and time.monotonic() - self._found_at < FOUND_S:
                return
            if await self._is_there(image):
                self._found, self._found_at = image, time.monotonic()
                return
            if policy is PullPolicy.NEVER:
                raise RuntimeFailed("ErrImageNeverPull", f"the image {image} is not on this node and pull_policy is never")
        pull = self._pulls.get(image)
        if pull is None:
            pull = self._pulls[image] = _Pull()
            pull.task = asyncio.get_running_loop().create_task(self._pull(image, pull))
        pull.waiting.append(progress)
        progress("Pulling", f"pulling {image}")
        try:
            await self._wait(image, pull)
        finally:
            pull.waiting.remove(progress)

    async def _is_there(self, image: str) -> bool:
        """Asked once for all who want to know at a time."""
        asked = self._asked.get(image)
        if asked is None:
            asked = self._asked[image] = asyncio.ensure_future(self._asking.run(lambda: self._there(image)))
            asked.add_done_callback(lambda done: (self._asked.pop(image, None), done.cancelled() or done.exception()))
        return await asyncio.shield(asked)

    def close(self) -> None:
        for pull in self._pulls.values():
            if pull.task is not None:
                pull.task.cancel()

    async def _wait(self, image: str, pull: _Pull) -> None:
        assert pull.task is not None
        while not pull.task.done():
            pull.heard.clear()
            heard = asyncio.ensure_future(pull.heard.wait())
            try:
                done, _ = await asyncio.wait({pull.task, heard}, timeout=SILENCE_S, return_when=asyncio.FIRST_COMPLETED)
            finally:
                heard.cancel()
            if not done:
                raise RuntimeFailed("ErrImagePull", f"pulling {image} made no progress for {SILENCE_S:.0f} s")
        pull.task.result()

    async def _pull(self, image: str, pull: _Pull) -> None:
        loop = asyncio.get_running_loop()

        def pass_on(message: str) -> None:
            pull.heard.set()
            for progress in pull.waiting:
                progress("Pulling", message)

        try:
            await self._pulling.run(lambda: self._follow(image, lambda message: tell(loop, lambda: pass_on(message))))
        except (RuntimeFailed, EngineUnavailable) as error:
            if not pull.waiting:
                logger.warning("pulling %s for nobody any more: %s", image, error)
                return
            raise
        finally:
            self._pulls.pop(image, None)

    # -- in a thread -------------------------------------------------------------------------------------------------

    def _there(self, image: str) -> bool:
        try:
            self._engine(CALL_S).inspect_image(image)  # type: ignore[no-untyped-call]
        except ImageNotFound:
            return False
        except APIError as error:
            raise RuntimeFailed("ErrImagePull", f"{image}: {error.explanation or error}") from error
        except (OSError, DockerException, urllib3.exceptions.HTTPError) as error:
            raise EngineUnavailable(f"no answer from the Docker engine: {error}") from error
        return True

    def _follow(self, image: str, say: Callable[[str], object]) -> None:
        try:
            lines: Iterable[dict[str, Any]] = self._engine(CALL_S).pull(image, stream=True, decode=True)
            layers: dict[str, tuple[int, int]] = {}
            for line in lines:
                if "error" in line:
                    raise RuntimeFailed("ErrImagePull", f"{image}: {line['error']}")
                size = line.get("progressDetail") or {}
                if line.get("status") == "Downloading" and size.get("total"):
                    layers[line.get("id", "")] = (size.get("current", 0), size["total"])
                got, total = sum(one for one, _ in layers.values()), sum(all_ for _, all_ in layers.values())
                say(f"pulling {image}: {got // MB} of {total // MB} MB" if total >= MB else f"pulling {image}")
        except APIError as error:
            raise RuntimeFailed("ErrImagePull", f"{image}: {error.explanation or error}") from error
        except (OSError, DockerException, urllib3.exceptions.HTTPError) as error:
            raise EngineUnavailable(f"the engine broke off pulling {image}: {error}") from error
