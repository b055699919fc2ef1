"""Pods as process groups of this machine, for nodes without a container engine.

Each pod has a directory `pods/<id>/` with its working directory, its log, and `container.json`, by which a restarted agent finds
it again: process id, start time (a process id alone is used again by others) and boot id. Between agent and command stands one
/bin/sh (1 MB): it belongs to the pod, outlives the agent and writes the exit code to a file, so that an end is known even where
no agent was there to see it. It starts the command only once it was told to; if the agent dies before it has written down whom
it started, the shell reads an end of file and nothing was started at all. Ends are noticed by pidfd, without polling.
"""

import asyncio
import logging
import os
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct

from kago.agent.runtime import LAST_BYTES, EngineUnavailable, Observed, Owner, Progress, RuntimeFailed, last_lines
from kago.agent.runtimes.cgroups import Cgroups
from kago.agent.runtimes.threads import Threads
from kago.core.model.deployment import Runtime
from kago.core.model.pod import Pod

logger = logging.getLogger("kago.agent.process")

SHIM = 'trap : TERM INT HUP QUIT; cd "$0/work" && read -r _ || exit 125; "$@" </dev/null; echo $? >"$0/exit"'
"""$0: the pod's directory. A trap, unlike an ignored signal, is not inherited: the group's SIGTERM ends the command, not the shell."""
META, EXIT, LOG = "container.json", "exit", "log"
MAX_LOG_BYTES = 10 * 1024 * 1024
"""A log longer than this is moved to log.1 at the next look; at most twice this stays on disk."""
MIN_ADDRESS_SPACE = 16 * 1024 * 1024
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Container(Struct, frozen=True, kw_only=True):
    """container.json: one start of a pod's process group."""

    owner: Owner
    pod_id: str
    pod_name: str
    deployment_name: str
    grace_s: float
    pid: int
    """Of the shell; also the id of its session and process group."""
    start_ticks: int
    boot_id: str
    started_at: float
    oom_kills: int = 0
    """Counted before this start."""
    log_from: int = 0
    """Where this start's output begins in the log."""


class _Held(Struct, kw_only=True):
    """A container as this agent holds it."""

    container: Container
    ended: asyncio.Event
    pidfd: int | None = None
    exit_code: int | None = None
    finished_at: float | None = None
    oom_killed: bool = False


class ProcessRuntime:
    kind = Runtime.PROCESS

    def __init__(self, data_dir: Path) -> None:
        self._pods_dir = data_dir / "pods"
        self._held: dict[str, _Held] = {}
        self._files = Threads(4, "process-files")
        self._cgroups: Cgroups | None = None
        self._owner: Owner | None = None
        self._changed: Callable[[], None] = lambda: None

    async def open(self, owner: Owner, changed: Callable[[], None]) -> None:
        self._owner, self._changed = owner, changed
        self._pods_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._cgroups = Cgroups.find(owner.agent_id)
        if self._cgroups is not None:
            logger.info("process pods: memory and CPU limited by cgroup v%d", self._cgroups.version)
        else:
            logger.warning("process pods: no writable cgroup here; memory limited by RLIMIT_AS per process, CPU not limited")
        for path in sorted(self._pods_dir.iterdir()):
            if path.name not in self._held:
                await self._find(path)

    async def list(self) -> tuple[Observed, ...]:
        await self._files.run(partial(self._shorten_logs, tuple(self._held)))
        return tuple(self._observed(ref, held) for ref, held in sorted(self._held.items()))

    async def prepare(self, pod: Pod, progress: Progress) -> None:
        """Nothing to fetch."""

    async def start(self, pod: Pod) -> None:
        ref = ref_of(pod.id)
        held = self._held.get(ref)
        if held is not None and held.finished_at is None:
            return
        try:
            container = await self._files.run(partial(self._spawn, pod, ref))
        except OSError as error:
            raise RuntimeFailed("StartError", f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}") from error
        self._hold(ref, container)

    async def remove(self, ref: str, grace_s: float) -> None:
        held = self._held.get(ref)
        if held is None:
            return
        if held.finished_at is None:
            _signal_group(held.container.pid, signal.SIGTERM)
            try:
                async with asyncio.timeout(grace_s):
                    await held.ended.wait()
            except TimeoutError:
                self._kill(ref, held)
                await held.ended.wait()
        try:
            await self._files.run(partial(self._erase, ref))
        except OSError as error:
            raise RuntimeFailed("StopError", f"cannot remove what the pod left: {error}") from error
        self._held.pop(ref, None)
        self._changed()

    async def last_output(self, ref: str) -> str:
        held = self._held.get(ref)
        return "" if held is None else await self._files.run(partial(self._read_end, ref, held.container.log_from))

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        for held in self._held.values():
            if held.pidfd is not None:
                loop.remove_reader(held.pidfd)
                os.close(held.pidfd)
        self._held.clear()
        if self._cgroups is not None:
            self._cgroups.leave()

    # -- starting, in a thread ---------------------------------------------------------------------------------------

    def _spawn(self, pod: Pod, ref: str) -> Container:
        if self._owner is None:
            raise EngineUnavailable("the runtime is not open")
        here = self._pods_dir / ref
        (here / "work").mkdir(mode=0o700, parents=True, exist_ok=True)
        (here / EXIT).unlink(missing_ok=True)
        env = self._environment(pod, here)
        command = _command(pod, env)
        log = os.open(here / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        hear, tell = os.pipe()
        pid = 0
        try:
            log_from = os.fstat(log).st_size
            pid = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", SHIM, str(here), *command],
                {name: value for name, value in env.items() if SHELL_NAME.fullmatch(name)},
                file_actions=[(os.POSIX_SPAWN_DUP2, hear, 0), (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)],
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT),
            )
            ticks = start_ticks(pid)
            if ticks is None:
                raise RuntimeFailed("StartError", "the shell of the pod ended at once")
            container = Container(
                owner=self._owner,
                pod_id=pod.id,
                pod_name=pod.name,
                deployment_name=pod.deployment_name,
                grace_s=pod.stop_grace_s,
                pid=pid,
                start_ticks=ticks,
                boot_id=boot_id(),
                started_at=time.time(),
                oom_kills=self._cgroups.oom_kills(ref) if self._cgroups else 0,
                log_from=log_from,
            )
            self._limit(pod, ref, pid)
            fresh = here / f"{META}.new"
            fresh.write_bytes(msgspec.json.encode(container))
            os.replace(fresh, here / META)
            os.write(tell, b"go\n")
            return container
        except BaseException:
            if pid:
                _signal_group(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            raise
        finally:
            for fd in (log, hear, tell):
                os.close(fd)

    def _limit(self, pod: Pod, ref: str, pid: int) -> None:
        if self._cgroups is not None:
            self._cgroups.enter(ref, pod.resources, pid)
        else:
            size = max(pod.resources.memory_mb * 1024 * 1024, MIN_ADDRESS_SPACE)
            resource.prlimit(pid, resource.RLIMIT_AS, (size, size))

    def _environment(self, pod: Pod, here: Path) -> dict[str, str]:
        """Not the agent's own: what it was started with is nobody's business."""
        given = {"KAGO_POD_NAME": pod.name, "KAGO_POD_ID": pod.id, "KAGO_NODE_NAME": self._owner.node_name if self._owner else ""}
        return {"PATH": PATH, "HOME": str(here / "work"), "LANG": "C.UTF-8", **pod.env, **given}

    # -- watching ----------------------------------------------------------------------------------------------------

    async def _find(self, path: Path) -> None:
        """Take up what an earlier incarnation of this agent started."""
        try:
            container = msgspec.json.decode((path / META).read_bytes(), type=Container)
        except FileNotFoundError:
            await self._files.run(partial(self._erase, path.name))  # its shell was never told to go
            return
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            logger.error("%s is left alone: %s", path, error)
            return
        owner = self._owner
        if owner is None or (container.owner.cluster_id, container.owner.agent_id) != (owner.cluster_id, owner.agent_id):
            logger.warning("%s is left alone: it belongs to another agent or cluster (%s)", path, container.owner)
            return
        self._hold(path.name, container)

    def _hold(self, ref: str, container: Container) -> None:
        held = _Held(container=container, ended=asyncio.Event())
        self._held[ref] = held
        held.pidfd = _open_process(container)
        if held.pidfd is None:
            self._note_end(ref, held)
        else:
            asyncio.get_running_loop().add_reader(held.pidfd, self._on_end, ref, held)

    def _on_end(self, ref: str, held: _Held) -> None:
        if held.pidfd is not None:
            asyncio.get_running_loop().remove_reader(held.pidfd)
            os.close(held.pidfd)
            held.pidfd = None
        self._note_end(ref, held)
        self._changed()

    def _note_end(self, ref: str, held: _Held) -> None:
        """The shell is gone: what is left of its group goes too, before its process id can become another's."""
        self._kill(ref, held)
        held.exit_code, held.finished_at = self._exit_of(ref)
        if self._cgroups is not None:
            held.oom_killed = self._cgroups.oom_kills(ref) > held.container.oom_kills
        try:
            os.waitpid(held.container.pid, os.WNOHANG)
        except ChildProcessError:
            pass  # not ours: an earlier incarnation's, which init has reaped
        held.ended.set()

    def _exit_of(self, ref: str) -> tuple[int | None, float]:
        path = self._pods_dir / ref / EXIT
        try:
            return int(path.read_text()), path.stat().st_mtime
        except (OSError, ValueError):
            return 128 + signal.SIGKILL, time.time()  # the shell, too, was killed or the machine went down

    def _kill(self, ref: str, held: _Held) -> None:
        container = held.container
        # a process id stays taken while its group has members: another start time means that group is gone and this one a stranger
        if container.boot_id == boot_id() and start_ticks(container.pid) in (None, container.start_ticks):
            _signal_group(container.pid, signal.SIGKILL)
        if self._cgroups is not None:
            self._cgroups.kill(ref)

    def _observed(self, ref: str, held: _Held) -> Observed:
        container = held.container
        return Observed(
            pod_id=container.pod_id,
            runtime=Runtime.PROCESS,
            ref=ref,
            run=f"{container.boot_id}/{container.pid}/{container.start_ticks}",
            running=held.finished_at is None,
            started_at=container.started_at,
            finished_at=held.finished_at,
            exit_code=held.exit_code,
            oom_killed=held.oom_killed,
            grace_s=container.grace_s,
        )

    # -- files, in a thread ------------------------------------------------------------------------------------------

    def _erase(self, ref: str) -> None:
        if self._cgroups is not None:
            self._cgroups.remove(ref)
        if (self._pods_dir / ref).exists():  # not where a person, or an attempt that failed only at its end, removed it already
            shutil.rmtree(self._pods_dir / ref)

    def _read_end(self, ref: str, log_from: int) -> str:
        try:
            with open(self._pods_dir / ref / LOG, "rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(log_from if log_from <= size else 0, size - LAST_BYTES))
                return last_lines(log.read(LAST_BYTES))
        except FileNotFoundError:
            return ""

    def _shorten_logs(self, refs: tuple[str, ...]) -> None:
        for ref in refs:
            log = self._pods_dir / ref / LOG
            try:
                if log.stat().st_size > MAX_LOG_BYTES:
                    try:
                        shutil.copyfile(log, log.with_suffix(".1"))
                    finally:  # on a full disk, too; its writers append, so they go on at the new end
                        os.truncate(log, 0)
            except FileNotFoundError:
                continue
            except OSError as error:
                logger.warning("the log of %s is cut off, its past is lost: %s", ref, error)


def ref_of(pod_id: str) -> str:
    """A pod's directory: its id as plain hexadecimal digits."""
    ref = pod_id.replace("-", "")
    if not ref.isalnum():
        raise RuntimeFailed("CreateError", f"not a pod id: {pod_id!r}")
    return ref


def _command(pod: Pod, env: dict[str, str]) -> tuple[str, ...]:
    """With the program's full path, so that nothing a shell knows by itself can be meant; env(1) passes on names a shell would drop."""
    words = (*pod.command, *pod.args)
    if not words:
        raise RuntimeFailed("CreateError", "a process pod needs a command")
    program = shutil.which(words[0], path=env["PATH"])
    if program is None:
        raise RuntimeFailed("StartError", f"no such program: {words[0]} (PATH is {env['PATH']})")
    odd = tuple(f"{name}={value}" for name, value in env.items() if not SHELL_NAME.fullmatch(name))
    return ("/usr/bin/env", *odd, program, *words[1:]) if odd else (program, *words[1:])


def start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/<pid>/stat; None where there is no such process, or only its remains."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # the name before it may hold anything
    return None if fields[0] == "Z" else int(fields[19])


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _open_process(container: Container) -> int | None:
    """A pidfd of the container's shell if that still runs."""
    if container.boot_id != boot_id():
        return None
    try:
        pidfd = os.pidfd_open(container.pid)
    except ProcessLookupError:
        return None
    if start_ticks(container.pid) != container.start_ticks:
        os.close(pidfd)
        return None
    return pidfd


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return
