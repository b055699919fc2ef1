"""The network of a cluster under test: `tests.e2e.netns` with links that lose one way, or delay and lose both ways."""

import subprocess
import sys
import threading
from pathlib import Path

from tests.chaos.user import enter, send_whole_packets
from tests.e2e.netns import Network

ROOT = Path(__file__).parents[2]


class FaultyNetwork(Network):
    """A network whose links can be made bad one by one; `mend` makes a link good again whatever was done to it."""

    def __init__(self, machines: tuple[str, ...]) -> None:
        super().__init__(machines)
        self._bad: dict[str, subprocess.Popen[bytes]] = {}

    def up(self) -> None:
        super().up()
        for machine in self.addresses:
            _in_space(self._space(machine))
        # A bridge without spanning tree forwards from the first packet on; a port that joins again must not wait either.

    def down(self) -> None:
        for machine in list(self._bad):
            self.mend(machine)
        super().down()

    def inside(self, machine: str) -> tuple[str, ...]:
        """Unlike `ip netns exec`, without a /sys of its own: the agents' processes see the machine's cgroups."""
        return ("nsenter", f"--net=/var/run/netns/{self._space(machine)}")

    def deafen(self, machine: str) -> None:
        """What others send to it is lost; what it sends arrives."""
        self._drop("-A", "INPUT", machine)

    def silence(self, machine: str) -> None:
        """What it sends is lost; what others send to it arrives."""
        self._drop("-A", "OUTPUT", machine)

    def hear_again(self, machine: str) -> None:
        subprocess.run([*self.inside(machine), "iptables", "-F"], check=True)

    def worsen(self, machine: str, *, delay_s: float, loss: float) -> None:
        """Put a program between it and the switch."""
        port, inner, outer = self._ports[machine], f"in-{machine}", f"out-{machine}"
        self._at(self._switch, "link", "set", port, "nomaster")
        self._at(self._switch, "link", "add", inner, "type", "veth", "peer", "name", outer)
        self._at(self._switch, "link", "set", inner, "up")
        self._at(self._switch, "link", "set", outer, "master", "bridge", "up")
        words = ["ip", "netns", "exec", self._switch, sys.executable, "-m", "tests.chaos.link", port, inner, str(delay_s), str(loss)]
        self._bad[machine] = subprocess.Popen(words, cwd=ROOT, start_new_session=True)

    def mend(self, machine: str) -> None:
        carrier = self._bad.pop(machine)
        carrier.kill()
        carrier.wait()
        self._at(self._switch, "link", "delete", f"in-{machine}")
        self.join(machine)

    def _drop(self, how: str, chain: str, machine: str) -> None:
        side = "-i" if chain == "INPUT" else "-o"
        subprocess.run([*self.inside(machine), "iptables", how, chain, side, "eth0", "-j", "DROP"], check=True)

    def space(self, machine: str) -> str:
        """Name of its namespace."""
        return self._space(machine)


def _in_space(space: str) -> None:
    """In a thread, since entering a namespace is for good."""
    failed: list[OSError] = []

    def work() -> None:
        try:
            enter(space)
            send_whole_packets("eth0")
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
