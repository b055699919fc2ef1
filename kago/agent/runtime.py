"""What an agent asks of whatever runs its pods, so that Docker, plain processes and a test's fake are one thing to it.

A runtime only ever speaks of containers that carry this agent's identity (`Owner`); it cannot even name those of others.
"Container" means the one thing that runs a pod: a Docker container or a process group.
"""

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from kago.core.model.deployment import Runtime
from kago.core.model.pod import Pod


class Owner(Struct, frozen=True, kw_only=True):
    """Whose containers they are; every container carries it."""

    cluster_id: str
    agent_id: str
    node_name: str
    incarnation: int


class Observed(Struct, frozen=True, kw_only=True):
    """One container as its runtime sees it."""

    pod_id: str
    runtime: Runtime
    ref: str
    """The runtime's own name of the container; stays the same when it is started again."""
    run: str = ""
    """Tells one start of the container from the next; empty: never started."""
    running: bool
    healthy: bool = True
    """False while the image's own health check has not passed."""
    started_at: float | None = None
    finished_at: float | None = None
    exit_code: int | None = None
    oom_killed: bool = False
    grace_s: float = 10.0
    """The pod's `stop_grace_s`, kept with the container for the day nobody else knows it."""
    detail: str = ""
    """What the runtime itself says about the end, or about failing health checks."""


class RuntimeFailed(Exception):
    """A pod could not be started or stopped, for a reason its owner can read."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        """One CamelCase word: ErrImagePull, CreateError, StartError, NameConflict…"""
        self.message = message


class EngineUnavailable(Exception):
    """The runtime gives no answer: what it runs is unknown, which is not the same as gone."""


Progress = Callable[[str, str], None]
"""Called with (reason, message) while something takes its time; from any thread."""


class ContainerRuntime(Protocol):
    kind: Runtime

    async def open(self, owner: Owner, changed: Callable[[], None]) -> None:
        """Begin to watch this owner's containers; `changed` is called in the loop's thread whenever a list may differ."""

    async def list(self) -> tuple[Observed, ...]:
        """All containers of the owner; EngineUnavailable where that cannot be known."""

    async def prepare(self, pod: Pod, progress: Progress) -> None:
        """What may take long and can be given up at any time (the image). RuntimeFailed, EngineUnavailable."""

    async def start(self, pod: Pod) -> None:
        """Start the pod's container: the one that exists, else a new one; nothing where it runs. RuntimeFailed, EngineUnavailable."""

    async def remove(self, ref: str, grace_s: float) -> None:
        """SIGTERM, after `grace_s` SIGKILL, then no trace of it; nothing where there is none. RuntimeFailed, EngineUnavailable."""

    async def last_output(self, ref: str) -> str:
        """The end of what it wrote: at most 20 lines and 2 KiB; empty where it cannot be had."""

    async def close(self) -> None:
        """Stop watching. Containers run on."""


LAST_LINES = 20
LAST_BYTES = 2048


def last_lines(output: bytes) -> str:
    """The end of an output as text fit for a pod's message: bounded, and without control characters."""
    text = output[-LAST_BYTES:].decode(errors="replace")
    lines = text.replace("\r", "\n").splitlines()[-LAST_LINES:]
    return "\n".join("".join(c for c in line if c.isprintable() or c == "\t") for line in lines).strip()
