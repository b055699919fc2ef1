"""Memory and CPU limits of process pods by control groups, version 1 or 2, where this agent may write them.

The groups lie at /kago/<agent>/<pod> from the root, not below the agent's own group: stopping the agent's systemd unit must not
reach its pods, and in version 2 a group with processes cannot have limited children.
"""

import errno
import os
import signal
import time
from pathlib import Path
from typing import Self

from kago.core.model.resources import Resources

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = ("memory", "cpu")
CPU_PERIOD_US = 100_000
MIN_CPU_QUOTA_US = 1_000
"""What the kernel takes at least: 10 millicores."""
REMOVE_WITHIN_S = 1.0
"""A group counts as busy for a moment after its last process died."""


class Cgroups:
    def __init__(self, parents: dict[str, Path], *, unified: bool) -> None:
        self._parents = parents
        """Directory of this agent by controller."""
        self._unified = unified

    @classmethod
    def find(cls, agent_id: str, root: Path = ROOT) -> Self | None:
        """None where limits cannot be set by control groups."""
        unified = (root / "cgroup.controllers").exists()
        below = Path("kago") / agent_id
        parents = {name: root / below if unified else root / name / below for name in CONTROLLERS}
        try:
            if unified:
                for directory in (root, root / "kago", root / below):
                    directory.mkdir(exist_ok=True)
                    (directory / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in CONTROLLERS))
            for name, parent in parents.items():
                if not unified and not (root / name / "cgroup.procs").exists():
                    return None
                parent.mkdir(parents=True, exist_ok=True)
                if not os.access(parent, os.W_OK):
                    return None
        except OSError:
            return None
        return cls(parents, unified=unified)

    @property
    def version(self) -> int:
        return 2 if self._unified else 1

    def enter(self, name: str, resources: Resources, pid: int) -> None:
        """Limit `pid` and all its future children. OSError."""
        memory, cpu = self._groups(name)
        size = str(resources.memory_mb * 1024 * 1024)
        quota = max(MIN_CPU_QUOTA_US, resources.cpu_millis * CPU_PERIOD_US // 1000)
        for group in dict.fromkeys((memory, cpu)):
            group.mkdir(parents=True, exist_ok=True)
        if self._unified:
            (memory / "memory.max").write_text(size)
            _write_if_there(memory / "memory.swap.max", "0")
            (cpu / "cpu.max").write_text(f"{quota} {CPU_PERIOD_US}")
        else:
            (memory / "memory.limit_in_bytes").write_text(size)
            _write_if_there(memory / "memory.memsw.limit_in_bytes", size)
            (cpu / "cpu.cfs_period_us").write_text(str(CPU_PERIOD_US))
            (cpu / "cpu.cfs_quota_us").write_text(str(quota))
        for group in dict.fromkeys((memory, cpu)):
            (group / "cgroup.procs").write_text(str(pid))

    def oom_kills(self, name: str) -> int:
        """How often the kernel killed in this group for want of memory; 0 where there is no group."""
        memory, _ = self._groups(name)
        try:
            lines = (memory / ("memory.events" if self._unified else "memory.oom_control")).read_text().splitlines()
        except OSError:
            return 0
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))

    def kill(self, name: str) -> None:
        """SIGKILL to every process in it, those that left their process group too."""
        memory, _ = self._groups(name)
        try:
            pids = [int(line) for line in (memory / "cgroup.procs").read_text().split()]
        except OSError:
            return
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def remove(self, name: str) -> None:
        """Kill what is left in it and remove it. Blocking; OSError."""
        deadline = time.monotonic() + REMOVE_WITHIN_S
        for group in dict.fromkeys(self._groups(name)):
            while True:
                try:
                    group.rmdir()
                except FileNotFoundError:
                    pass
                except OSError as error:
                    if error.errno != errno.EBUSY or time.monotonic() > deadline:
                        raise
                    self.kill(name)
                    time.sleep(0.01)
                    continue
                break

    def leave(self) -> None:
        """Remove the agent's own group if no pod is in it."""
        for parent in dict.fromkeys(self._parents.values()):
            try:
                parent.rmdir()
            except OSError:
                continue  # pods run on in it

    def _groups(self, name: str) -> tuple[Path, Path]:
        return self._parents["memory"] / name, self._parents["cpu"] / name


def _write_if_there(path: Path, text: str) -> None:
    if path.exists():
        path.write_text(text)
