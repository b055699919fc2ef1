"""What the machine is and who keeps it busy, from /proc: this house's own processes, and strangers."""

import os
import platform
import subprocess
import time
from pathlib import Path

from tests.benchmarks.figures import Machine

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs", "devtmpfs")


class NotOnDisk(Exception):
    """A benchmark's data would lie in memory, where syncing costs nothing."""


def describe(directory: Path, versions: dict[str, str]) -> Machine:
    return Machine(
        cpu=_first(Path("/proc/cpuinfo").read_text(), "model name"),
        cores=os.cpu_count() or 1,
        memory_mb=int(_first(Path("/proc/meminfo").read_text(), "MemTotal").split()[0]) // 1024,
        kernel=platform.release(),
        python=platform.python_version(),
        file_system=file_system(directory),
        versions=versions,
    )


def commit() -> tuple[str, bool]:
    """(the checkout's commit, whether files differ from it)."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "--short", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))


def file_system(directory: Path) -> str:
    """The type of the file system that `directory` lies on."""
    there, best = directory.resolve(), ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, kind = line.split(" ")[:3]
        if there.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


def require_disk(directory: Path) -> None:
    if (kind := file_system(directory)) in MEMORY_FILE_SYSTEMS:
        raise NotOnDisk(f"{directory} is {kind}, where fdatasync costs nothing: name a directory on a disk with --dir")


def fdatasync_s(directory: Path, count: int = 100) -> float:
    """The median time of an append of 300 bytes with fdatasync, which nobody can be faster than."""
    path, took = directory / "fdatasync", []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        for _ in range(count):
            began = time.perf_counter()
            os.write(descriptor, b"x" * 300)
            os.fdatasync(descriptor)
            took.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
        path.unlink()
    return sorted(took)[count // 2]


class Watch:
    """How many cores strangers keep busy between its making and `strangers`."""

    def __init__(self) -> None:
        self._began, self._all, self._own = time.monotonic(), _busy_s(), tree_cpu_s(os.getpid())

    def strangers(self) -> float:
        took = max(time.monotonic() - self._began, 0.01)
        return round(max(0.0, (_busy_s() - self._all) - (tree_cpu_s(os.getpid()) - self._own)) / took, 2)


def cpu_s(pid: int) -> float:
    """Processor time the process has taken so far."""
    return sum(map(int, _stat(pid)[11:13])) / _TICKS


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 2**20


def tree_cpu_s(root: int) -> float:
    """Processor time of a process, of all below it, and of those below it that have ended."""
    parents, spent = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = _stat(int(entry.name))
            except OSError:
                continue  # it has ended meanwhile
            parents[int(entry.name)], spent[int(entry.name)] = int(fields[1]), sum(map(int, fields[11:15])) / _TICKS
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    total, todo = 0.0, [root]
    while todo:
        pid = todo.pop()
        total += spent.get(pid, 0.0)
        todo += children.get(pid, [])
    return total


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat behind the command's name: [0] is the state, [1] the parent, [11] to [14] the processor times."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _busy_s() -> float:
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8])
    return (user + nice + system + irq + softirq) / _TICKS


def _first(text: str, key: str) -> str:
    found = [line.partition(":")[2].strip() for line in text.splitlines() if line.partition(":")[0].strip() == key]
    return found[0] if found else "unknown"
