"""Addresses of members: read, judged, and looked up anew for each dial, one look-up at a time for each.

A resolver whose servers are away answers after many seconds, long after the dial that asked has been given up. Such a look-up is neither
begun a second time, since the few threads that do them would all hang, nor forgotten, since its failure would then be nobody's.
"""

import asyncio
import contextlib
import ipaddress
import socket

from raft.errors import StartRefused

Found = tuple[str, int]
"""Numeric host, and port."""


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port`; StartRefused if it is neither."""
    host, _, port = address.rpartition(":")
    odd = any(character.isspace() or not character.isprintable() for character in address)
    if not host or odd or len(address) > 255 or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise StartRefused(f"{address!r} is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_address(text: str) -> bool:
    """Whether `split_address` takes it."""
    try:
        split_address(text)
    except StartRefused:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether `host:port` is surely reached from the same machine only. StartRefused."""
    host, _ = split_address(address)
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def refuse_open_port(address: str, *, insecure: bool, encrypted: bool) -> None:
    """Without TLS whoever reaches the port is believed to be a member: that must be asked for by name."""
    if insecure or encrypted or is_loopback(address):
        return
    raise StartRefused(
        f"{address} is reachable from other machines, and members neither encrypt nor prove who they are: anybody who reaches "
        "this port could take part in the cluster. Give certificates, use a loopback address, or start with --insecure on a "
        "network where every machine is trusted"
    )


class LookUps:
    """Those under way on the running event loop."""

    def __init__(self) -> None:
        self._under_way: dict[Found, asyncio.Future[list[Found]]] = {}

    async def find(self, host: str, port: int) -> list[Found]:
        """The addresses of `host`, in the order to try them. OSError; where the caller gives up, the next one waits for the same answer."""
        asked = (host, port)
        looking = self._under_way.get(asked)
        if looking is None:
            looking = self._under_way[asked] = asyncio.ensure_future(_look_up(host, port))
            looking.add_done_callback(_heed)
        try:
            return await asyncio.shield(looking)
        finally:
            if looking.done():
                self._under_way.pop(asked, None)


async def _look_up(host: str, port: int) -> list[Found]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(str(address[0]), int(address[1])) for _, _, _, _, address in found]


def _heed(looking: "asyncio.Future[list[Found]]") -> None:
    """A failure that nobody waits for any more is no news."""
    if not looking.cancelled():
        looking.exception()
