"""A small network of its own: a namespace for each machine, joined by a bridge in one that stands for the switch.

Nothing of it touches the machine's own interfaces, and everything goes with the namespaces.
"""

import itertools
import os
import shutil
import subprocess
from collections.abc import Sequence

_numbers = itertools.count()


def why_none() -> str:
    """Why networks cannot be made and cut here; empty where they can."""
    if os.geteuid() != 0:
        return "needs root to make network namespaces"
    if shutil.which("ip") is None:
        return "not installed: ip (iproute2)"
    probe = f"kago-probe-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"ip netns add: {tried.stderr.strip()}"
    _ip("netns", "delete", probe)
    return ""


class Network:
    """Machines named by the caller at 10.99.0.1, .2 and so on."""

    def __init__(self, machines: Sequence[str]) -> None:
        self._prefix = f"kago-{os.getpid()}-{next(_numbers)}"
        self._switch = f"{self._prefix}-switch"
        self.addresses = {machine: f"10.99.0.{n + 1}" for n, machine in enumerate(machines)}
        self._ports = {machine: f"port{n + 1}" for n, machine in enumerate(machines)}

    def up(self) -> None:
        _ip("netns", "add", self._switch)
        self._at(self._switch, "link", "add", "bridge", "type", "bridge")
        self._at(self._switch, "link", "set", "bridge", "up")
        for machine, address in self.addresses.items():
            space, port = self._space(machine), self._ports[machine]
            _ip("netns", "add", space)
            self._at(space, "link", "set", "lo", "up")
            self._at(self._switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
            self._at(self._switch, "link", "set", port, "master", "bridge", "up")
            self._at(space, "addr", "add", f"{address}/24", "dev", "eth0")
            self._at(space, "link", "set", "eth0", "up")

    def down(self) -> None:
        for space in [*map(self._space, self.addresses), self._switch]:
            subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)

    def inside(self, machine: str) -> tuple[str, ...]:
        """Words before a command that run it on that machine."""
        return ("ip", "netns", "exec", self._space(machine))

    def cut(self, machine: str) -> None:
        """Take it off the switch: every packet from and to it is dropped, and nobody is told."""
        self._at(self._switch, "link", "set", self._ports[machine], "nomaster")

    def join(self, machine: str) -> None:
        self._at(self._switch, "link", "set", self._ports[machine], "master", "bridge")

    def _space(self, machine: str) -> str:
        return f"{self._prefix}-{machine}"

    def _at(self, space: str, *words: str) -> None:
        _ip("-n", space, *words)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
