"""Where the failpoints of `failpoints.py` are put: the seams of the server and of the agent, wrapped in place.

A seam that is renamed or goes is an AttributeError here; one that is no longer used is a place that `test_failpoints` cannot reach.
"""

import os
from types import SimpleNamespace
from typing import Any

import docker
import msgspec

from kago.agent import notes
from kago.agent.runtimes import process
from kago.client.client import Client
from raft.applier import Applier
from raft.contract import RaftConfig
from raft.disk import AppendFile, FileDisk
from raft.engine import Engine
from raft.member import Member
from raft.messages import Malformed, decode
from raft.proposals import Proposals
from raft.router import Router
from raft.snapshot import SnapshotSerializer, SnapshotStore
from tests.chaos.failpoints import Failpoints, around, around_async, file_part, message_part


def install_server(points: Failpoints) -> None:
    _install_disk(points)
    around(Router, "send", points, lambda router, peer, message: _prefixed("send", message_part(message)))
    around(Member, "_deliver", points, lambda member, peer, frame, **_: _prefixed("receive", _received_part(frame)))
    around(Applier, "apply", points, "apply")
    around(Applier, "restore", points, "restore")
    around(Proposals, "submit", points, "propose")
    around(Engine, "append", points, "append")
    around(Engine, "hand_over", points, "hand-over")
    around(SnapshotSerializer, "serialize", points, "snapshot.begin")
    around(SnapshotStore, "adopt", points, "snapshot.adopt")


def make_snapshots(*, every_entries: int) -> None:
    """Let the server make snapshots that often."""
    original = Member.__init__

    def made(member: Member, config: RaftConfig, *args: Any, **named: Any) -> None:
        original(member, msgspec.structs.replace(config, snapshot_every_entries=every_entries), *args, **named)

    setattr(Member, "__init__", made)  # noqa: B010 - mypy forbids the assignment


def _install_disk(points: Failpoints) -> None:
    parts: dict[AppendFile, str] = {}
    replacing: list[str] = []
    """The file whose new name the directory is synced for."""
    original_open, original_append = FileDisk.open_append, AppendFile.append

    def open_append(disk: FileDisk, name: str, *, truncate_to: int | None = None) -> AppendFile:
        file = original_open(disk, name, truncate_to=truncate_to)
        part = file_part(name)
        if part is not None:
            parts[file] = part
        return file

    def append(file: AppendFile, data: bytes) -> None:
        if parts.get(file) == "journal" and points.waits_at("journal.write.half"):
            original_append(file, data[: len(data) // 2])
        if parts.get(file) == "journal":
            points.hit("journal.write.half")
        original_append(file, data)

    def replace(disk: FileDisk, source: str, target: str) -> None:
        part = file_part(source)
        replacing.append(part or "")
        try:
            points.hit(f"{part}.rename.before")
            original_replace(disk, source, target)
        finally:
            replacing.pop()

    original_replace = FileDisk.replace
    for owner, function in ((FileDisk, open_append), (FileDisk, replace), (AppendFile, append)):
        setattr(owner, function.__name__, function)
    around(AppendFile, "append", points, lambda file, data: _suffixed(parts.get(file), "write"))
    around(AppendFile, "sync", points, lambda file: _suffixed(parts.get(file), "sync"))
    around(AppendFile, "close", points, lambda file: parts.pop(file, None) and None)
    around(FileDisk, "sync_directory", points, lambda disk: _suffixed(replacing[-1] if replacing else None, "directory-sync"))
    around(FileDisk, "remove", points, lambda disk, name: "snapshot.remove" if name.startswith("snapshot-") else None)


def install_agent(points: Failpoints) -> None:
    around_async(Client, "register", points, "register")
    around_async(Client, "heartbeat", points, "heartbeat")
    _install_notes(points)
    _install_process(points)
    for call, name in (("create_container", "create"), ("start", "start"), ("kill", "signal"), ("remove_container", "remove")):
        around(docker.APIClient, call, points, f"docker.{name}")
    around(docker.APIClient, "pull", points, "docker.pull")


def _install_notes(points: Failpoints) -> None:
    """The notes are written with the os module's functions: `notes` gets one whose functions come to the places."""
    writing: dict[int, str] = {}
    real_open = open

    def opened(path: Any, mode: str, **named: Any) -> Any:
        points.hit("notes.write.before")
        file = real_open(path, mode, **named)
        writing[file.fileno()] = "notes.sync"
        return file

    def fsync(descriptor: int) -> None:
        kind = "sync" if writing.pop(descriptor, "") else "directory-sync"
        if kind == "sync":
            points.hit("notes.write.after")
        points.hit(f"notes.{kind}.before")
        os.fsync(descriptor)
        points.hit(f"notes.{kind}.after")

    def replace(source: Any, target: Any) -> None:
        points.hit("notes.rename.before")
        os.replace(source, target)

    vars(notes).update(os=_os_with(fsync=fsync, replace=replace), open=opened)


def _install_process(points: Failpoints) -> None:
    def spawn(*args: Any, **named: Any) -> int:
        points.hit("process.spawn.before")
        pid = os.posix_spawn(*args, **named)
        points.hit("process.spawn.after")
        return pid

    def replace(source: Any, target: Any) -> None:
        points.hit("process.record.before")
        os.replace(source, target)
        points.hit("process.record.after")

    def write(descriptor: int, data: bytes) -> int:
        points.hit("process.go.before")
        written = os.write(descriptor, data)
        points.hit("process.go.after")
        return written

    vars(process)["os"] = _os_with(posix_spawn=spawn, replace=replace, write=write)
    around(process, "_signal_group", points, "process.signal")
    around(process.ProcessRuntime, "_erase", points, "process.erase")


def _os_with(**functions: Any) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(os), **functions})


def _received_part(frame: bytes | None) -> str | None:
    if frame is None:
        return None
    try:
        part = message_part(decode(frame))
    except Malformed:
        return None
    return part if part in ("entries", "ack", "proposals", "snapshot-piece") else None


def _prefixed(kind: str, part: str | None) -> str | None:
    return None if part is None else f"{kind}.{part}"


def _suffixed(part: str | None, kind: str) -> str | None:
    return f"{part}.{kind}" if part else None
