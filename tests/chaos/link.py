"""A bad link: a program between a machine and the switch that holds back each packet and loses some, both ways.

What `tc qdisc … netem` does in the kernel, for kernels that are built without it.

    python -m tests.chaos.link PORT FARTHER DELAY_S LOSS

runs in the switch's namespace: PORT is the machine's, taken off the bridge; FARTHER is one end of a pair whose other end is on it.
"""

import heapq
import random
import select
import socket
import sys
import time

_EVERYTHING = 0x0003
"""ETH_P_ALL."""
_LONGEST = 65_536


def carry(near: str, far: str, delay_s: float, loss: float) -> None:
    """For ever. The delay varies by a tenth, and packets stay in their order, as on one wire."""
    ends = {name: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERYTHING)) for name in (near, far)}
    for name, end in ends.items():
        end.bind((name, 0))
        end.setblocking(False)
    beyond = {near: ends[far], far: ends[near]}
    last = {near: 0.0, far: 0.0}
    flying: list[tuple[float, int, str, bytes]] = []
    count = 0
    while True:
        now = time.monotonic()
        while flying and flying[0][0] <= now:
            _, _, came_by, frame = heapq.heappop(flying)
            try:
                beyond[came_by].send(frame)
            except OSError:
                continue  # too long, or the other end is down: lost, as packets are
        wait_s = max(0.0, flying[0][0] - now) if flying else None
        ready, _, _ = select.select(list(ends.values()), [], [], wait_s)
        for name, end in ends.items():
            if end not in ready:
                continue
            frame, source = end.recvfrom(_LONGEST)
            if source[2] == socket.PACKET_OUTGOING or random.random() < loss:
                continue
            count += 1
            last[name] = max(last[name], time.monotonic() + delay_s * random.uniform(0.9, 1.1))
            heapq.heappush(flying, (last[name], count, name, frame))


if __name__ == "__main__":
    carry(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
