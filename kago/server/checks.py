"""A server's look at itself: room and speed of its disk, its limits; and the moment from which it takes no changes.

A journal that cannot be written ends the server. So changes are refused while there is still room for what must go on being written: the
reports of agents, what the leader decides, and the snapshot that frees the journal.
"""

import asyncio
import logging
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from kago.clock import Clock
from kago.core.checks import MIN_FREE_BYTES, ServerFacts, check_server, check_size, mebibytes
from kago.core.state.commands import SCHEMA_VERSION
from kago.server.problems import unavailable
from kago.server.reports import Reports
from raft.contract import RaftConfig

_logger = logging.getLogger(__name__)
LOOK_S = 1.0
ELECTION_MIN_S = RaftConfig(me="", members=()).election_min_s
AGAIN_SHARE = 1.25
"""Changes are taken again when this much more than the least is free, so that it does not flutter."""
_CHANGING = ("POST", "PUT", "PATCH", "DELETE")
_AGENTS_WORDS = ("/register", "/heartbeat")
"""Ends of the paths on which agents speak: what they say is small, and must be heard while there is any room at all."""
_PROBE = "probe.tmp"
_PROBES = 5
_PAGE = 4096


class Checks:
    """`run` for ever; `require_room` is asked before each request."""

    def __init__(self, data_dir: Path, clock: Clock, *, free: Callable[[Path], int] | None = None) -> None:
        self._data_dir = data_dir
        self._clock = clock
        self._free = free or free_bytes
        self._low = False
        self._probing = asyncio.Lock()
        self.certificates_left_s: Callable[[], tuple[float, float]] | None = None
        """Of this server and of the CA, where it is secured."""

    async def run(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """Take notice of how much room there is."""
        try:
            free = self._free(self._data_dir)
        except OSError as error:
            _logger.error("the room for %s cannot be found out: %s", self._data_dir, error)
            return
        if not self._low and free < MIN_FREE_BYTES:
            self._low = True
            _logger.error("only %s are free for %s: no changes are taken until there is room", mebibytes(free), self._data_dir)
        elif self._low and free > AGAIN_SHARE * MIN_FREE_BYTES:
            self._low = False
            _logger.info("%s are free for %s: changes are taken again", mebibytes(free), self._data_dir)

    def require_room(self, method: str, path: str) -> None:
        """Refused (503, so that clients go on to a server with room) where this is a change and there is none for it."""
        if not self._low or method not in _CHANGING or path.endswith(_AGENTS_WORDS):
            return
        detail = f"this server's disk has less than {mebibytes(MIN_FREE_BYTES)} left, so it takes no changes until there is room on it"
        raise unavailable("low-space", f"{detail}; another server may", retry_after_s=5)

    async def facts(self, id: str, *, version: str, reports: Reports | None = None) -> ServerFacts:
        """Measured now; one at a time."""
        own_s, ca_s = self.certificates_left_s() if self.certificates_left_s is not None else (None, None)
        async with self._probing:
            sync_s = await asyncio.to_thread(measure_sync, self._data_dir)
        return ServerFacts(
            id=id,
            version=version,
            schema=SCHEMA_VERSION,
            now=self._clock.now(),
            sync_s=sync_s,
            election_min_s=ELECTION_MIN_S,
            free_bytes=self._free(self._data_dir),
            open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            agent_clocks_off_s=reports.clocks_off_s() if reports is not None else {},
            certificate_left_s=own_s,
            ca_left_s=ca_s,
            agent_certificates_left_s=reports.certificates_left_s() if reports is not None else {},
            read_only=self._low,
        )


async def warn(checks: Checks, id: str, *, version: str, voters: int) -> None:
    """Say at the start what is not well, and what to do about it."""
    facts = await checks.facts(id, version=version)
    for finding in [*check_size(voters), *check_server(facts)]:
        _logger.warning("%s: %s. %s", finding.subject, finding.problem, finding.remedy)


def free_bytes(path: Path) -> int:
    """What this process may still write on the file system of `path`."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def measure_sync(directory: Path) -> float | None:
    """Seconds of one fdatasync of a page, the median of a few; None where it cannot be written. Blocking."""
    path = directory / _PROBE
    took = []
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            for _ in range(_PROBES):
                os.pwrite(descriptor, os.urandom(_PAGE), 0)
                began = time.perf_counter()
                os.fdatasync(descriptor)
                took.append(time.perf_counter() - began)
        finally:
            os.close(descriptor)
            os.unlink(path)
    except OSError as error:
        _logger.error("the disk of %s cannot be written: %s", directory, error)
        return None
    return statistics.median(took)
