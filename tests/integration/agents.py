"""Real agent processes for tests, each with its own data directory, and the pods they are given."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import msgspec

from kago.config import AgentConfig
from kago.core.model.deployment import Runtime
from kago.core.model.pod import Pod
from kago.core.model.resources import Resources

PROGRAM = """
import logging, sys, msgspec
from kago.agent.app import run
from kago.config import AgentConfig
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
logging.getLogger("httpx").setLevel(logging.WARNING)
run(msgspec.json.decode(sys.argv[1], type=AgentConfig, dec_hook=lambda kind, text: kind(text)))
"""


class AgentProcess:
    def __init__(self, data_dir: Path, *masters: str, name: str = "n1", runtime: Runtime | None = Runtime.PROCESS, **env: str) -> None:
        self.config = AgentConfig(name=name, masters=masters, port=free_port(), address="127.0.0.1", runtime=runtime, data_dir=data_dir)
        self.env = {**os.environ, **env}
        self.output = data_dir.with_suffix(".out")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.output, "ab") as output:
            command = [sys.executable, "-c", PROGRAM, msgspec.json.encode(self.config, enc_hook=str).decode()]
            self.process = subprocess.Popen(command, stdout=output, stderr=output, env=self.env)

    async def kill(self, number: int = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return await self.ended()

    async def ended(self, within_s: float = 10.0) -> int:
        assert self.process is not None
        return await asyncio.to_thread(self.process.wait, within_s)

    def finish(self) -> None:
        """At the end of a test, whatever became of it."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def logged(self) -> str:
        return self.output.read_text()

    async def listens(self, within_s: float = 15.0) -> None:
        """Wait until its port answers: a start takes its time on a busy machine."""
        async with asyncio.timeout(within_s):
            while True:
                try:
                    await self.ask("/health")
                    return
                except OSError:
                    await asyncio.sleep(0.1)

    async def ask(self, path: str) -> Any:
        def get() -> Any:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.config.port}{path}", timeout=3) as answer:
                return json.load(answer)

        return await asyncio.to_thread(get)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_pod(*command: str, name: str = "", node: str = "n1", **fields: Any) -> Pod:
    number = uuid.uuid4()
    fields = {"runtime": Runtime.PROCESS, "resources": Resources(cpu_millis=100, memory_mb=64), "stop_grace_s": 2.0, **fields}
    fields |= {"id": str(number), "name": name or f"web-{number.hex[:6]}", "command": command, "node_name": node}
    return Pod(deployment_name="web", revision=1, **fields)
