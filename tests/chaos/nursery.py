"""Servers and agents started by a process that has loaded them already: a start costs a fork, not a second of imports.

Thousands of deaths need thousands of starts. Each is a process of its own all the same, in its own namespace and session, with its own
environment; only what Python has read from its modules is inherited. python -m tests.chaos.nursery reads one JSON line a child.
"""

import gc
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kago.agent import app as agent_app
from kago.cli.local import STOP_S, KagoProcess
from kago.server import app as server_app
from tests.chaos import seams
from tests.chaos.machines import ROOT
from tests.chaos.user import enter

LOADED = (agent_app, server_app, seams)


class Nursery:
    def __init__(self) -> None:
        words = [sys.executable, "-m", "tests.chaos.nursery"]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True)

    def child(self, space: str, arguments: tuple[str, ...], environment: dict[str, str], log: Path) -> int:
        """Pid of a new process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        wanted = {"space": space, "arguments": arguments, "environment": environment, "log": str(log)}
        self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


class NurseryProcess(KagoProcess):
    """As its base, but not our child: it is followed by a descriptor."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path, *, nursery: Nursery, space: str) -> None:
        super().__init__(name, arguments, log)
        self._nursery = nursery
        self._space = space
        self._pid = 0
        self._descriptor = -1

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def running(self) -> bool:
        return self._descriptor >= 0 and not select.select([self._descriptor], [], [], 0)[0]

    def start(self) -> None:
        if self.running:
            return
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._pid = self._nursery.child(self._space, self.arguments, self.environment, self.log)
        self._descriptor = os.pidfd_open(self._pid)

    def signal(self, number: signal.Signals) -> None:
        if self.running:
            signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        if self._descriptor >= 0:
            select.select([self._descriptor], [], [], STOP_S)

    def stop(self) -> None:
        self.signal(signal.SIGTERM)
        if self._descriptor >= 0 and not select.select([self._descriptor], [], [], STOP_S)[0]:
            self.kill()


def _live(wanted: dict[str, Any]) -> None:
    """In the child: become what was asked for."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    enter(wanted["space"])
    log = os.open(wanted["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.environ.update(wanted["environment"])
    sys.argv = ["kago", *wanted["arguments"]]
    runpy.run_module("tests.chaos.process", run_name="__main__")


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are nobody's to wait for
    for name in [name for name in os.environ if name.startswith("KAGO_")]:
        del os.environ[name]
    gc.collect()
    gc.freeze()
    for line in sys.stdin.buffer:
        pid = os.fork()
        if pid == 0:
            try:
                _live(json.loads(line))
            except SystemExit as end:
                sys.stderr.flush()
                os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
