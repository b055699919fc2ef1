"""The wire between members on asyncio: length-framed, bounded, introduced by a handshake, encrypted where contexts are given.

Both sides dial; of two connections between a pair the one dialled by the lower id stays. A frame's length is checked before it is
read, nothing but a short hello is taken from a stranger, and rubbish costs its sender the connection and us one line in the log.
Names are resolved anew for each dial.
"""

import asyncio
import logging
import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, cast

from raft.addresses import LookUps, refuse_open_port, split_address
from raft.contract import Clock, WireEvents
from raft.errors import StartRefused
from raft.messages import MAX_FRAME_BYTES

_logger = logging.getLogger(__name__)
_HEADER = struct.Struct(">I")
_MAX_HELLO_BYTES = 4096
_MAX_STRANGERS = 64
"""Not introduced yet; one more takes the oldest one's place, so that nobody can keep members out by waiting."""
_MAX_STRANGERS_A_HOST = 16
_HANDSHAKE_S = 3.0
_DIAL_S = 2.0
_SILENCE_S = 3.0
_STALE_S = 1.5
_WATCH_S = 0.5
_SEND_QUEUE_BYTES = 16 * 1024 * 1024
_HELLO, _REFUSED = b"H", b"R"

PeerName = Callable[[Any], str]
"""From a connection's `ssl_object` to the id of the member whose certificate the other end showed; ValueError with the reason if none."""


class _Link(asyncio.Protocol):
    """One connection; `peer` is known from the start where we dialled, else from the hello."""

    def __init__(self, wire: "AsyncioWire", dialled: str | None) -> None:
        self.wire = wire
        self.peer = dialled
        self.certified: str | None = None
        """Whose certificate it showed, where the wire is encrypted."""
        self.dialled = dialled is not None
        self.open = False
        self.closing = False
        self.heard_at = wire.clock.monotonic()
        self.address = dialled or "?"
        self.host = ""
        self.transport: asyncio.Transport | None = None
        self.ended = asyncio.get_running_loop().create_future()
        self._buffer = bytearray()
        self._timeout: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self.dialled:
            name = transport.get_extra_info("peername")
            self.address, self.host = str(name), str(name[0]) if isinstance(name, tuple) else ""
        if not self.wire.admit(self):
            self.close()
            return
        try:
            self.certified = self.wire.certified(transport.get_extra_info("ssl_object"))
        except ValueError as error:
            _logger.warning("turning away %s: %s", self.address, error)
            self.close()
            return
        self._timeout = asyncio.get_running_loop().call_later(_HANDSHAKE_S, self._hello_overdue)
        if self.peer is not None:
            self.write(_HELLO + self.wire.events.introduce(self.peer))

    def _hello_overdue(self) -> None:
        if not self.open:
            self.close()

    def write(self, frame: bytes) -> None:
        if self.transport is not None:
            self.transport.write(_HEADER.pack(len(frame)) + frame)

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.wire.clock.monotonic()
        buffer = self._buffer
        buffer += data
        at, end = 0, len(buffer)
        while end - at >= 4 and not self.closing:
            (length,) = _HEADER.unpack_from(buffer, at)
            if length > (MAX_FRAME_BYTES if self.open else _MAX_HELLO_BYTES):
                _logger.warning(
                    "closing the connection with %s: %s",
                    self.address,
                    f"a frame of {length} bytes" if self.open else "it does not speak our protocol",
                )
                self.close()
                return
            if end - at - 4 < length:
                break
            frame = bytes(memoryview(buffer)[at + 4 : at + 4 + length])
            at += 4 + length
            if self.open and self.peer is not None:
                self.wire.events.received(self.peer, frame)
            else:
                self._shake_hands(frame)
        if not self.closing:
            del buffer[:at]

    def _shake_hands(self, frame: bytes) -> None:
        events = self.wire.events
        if frame[:1] == _REFUSED and self.dialled and self.peer is not None:
            peer = self.peer
            self.close()
            events.handshake_refused(peer, frame[1:].decode(errors="replace")[:1000])
            return
        try:
            if frame[:1] != _HELLO:
                raise ValueError("it does not speak our protocol")
            named = events.welcome(frame[1:], self.certified)
            if self.dialled and named != self.peer:
                raise ValueError(f"it is {named}")
        except ValueError as error:
            # It is we who refuse: that says nothing against us, so only the peer, when it dials, is told.
            _logger.warning("turning away %s: %s", self.address, error)
            if not self.dialled:
                self.write(_REFUSED + str(error).encode())
            self.close()
            return
        self.peer = named
        if not self.dialled:
            self.write(_HELLO + events.introduce(named))
        self.open = True
        self.wire.opened(self, named)

    def close(self) -> None:
        """Our own doing, so nothing to learn from it about the peer."""
        self.closing = True
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        self.closing = True
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
        by_peer = not self.closing and (error is None or isinstance(error, ConnectionError))
        self.closing = True
        self.wire.ended(self, by_peer=by_peer)
        if not self.ended.done():
            self.ended.set_result(None)


class AsyncioWire:
    """`contract.Wire` on the running event loop."""

    def __init__(
        self,
        *,
        clock: Clock,
        random: Random,
        server_ssl: ssl.SSLContext | None = None,
        client_ssl: ssl.SSLContext | None = None,
        peer_name: PeerName | None = None,
        insecure: bool = False,
    ) -> None:
        self.clock = clock
        self.events: WireEvents
        self._me = ""
        self._addresses: dict[str, str] = {}
        """Of the peers, by id."""
        self._random = random
        self._server_ssl, self._client_ssl = server_ssl, client_ssl
        self._peer_name = peer_name
        self._insecure = insecure
        self._bind = ""
        self._dialling: dict[str, asyncio.Task[None]] = {}
        self._look_ups = LookUps()
        self._links: dict[str, _Link] = {}
        self._strangers: dict[_Link, None] = {}
        """In the order in which they came."""
        self._tasks: list[asyncio.Task[None]] = []
        self._sockets: list[socket.socket] = []
        self._server: asyncio.Server | None = None
        self._opening = False
        self._closed = False

    async def listen(self, bind: str) -> None:
        """Bind before `start`, so that a taken port is an error of the start; one without peers binds when it gets one.

        OSError, StartRefused."""
        self._bind = bind
        if self._addresses:
            await self._open_port()

    async def _open_port(self) -> None:
        refuse_open_port(self._bind, insecure=self._insecure, encrypted=self._server_ssl is not None)
        host, port = split_address(self._bind)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Link(self, None), host, port, ssl=self._server_ssl, start_serving=False, backlog=128,
            ssl_handshake_timeout=_HANDSHAKE_S if self._server_ssl is not None else None,
        )

    async def _open_port_late(self) -> None:
        """The first peer came: before that nobody had any business here."""
        said = ""
        while self._server is None:
            try:
                await self._open_port()
            except (OSError, StartRefused) as error:
                if str(error) != said:
                    _logger.error("server %s cannot listen on %s: %s; trying on", self._me, self._bind, error)
                said = str(error)
                await asyncio.sleep(1.0)
        await self._server.start_serving()

    # -- contract.Wire ---------------------------------------------------------------------------------------------

    def start(self, events: WireEvents) -> None:
        self.events, self._me = events, events.id
        loop = asyncio.get_running_loop()
        if self._server is not None:
            self._tasks.append(loop.create_task(self._server.start_serving()))
        self._tasks.append(loop.create_task(self._watch(), name="watch silence"))
        self._dial()

    def set_peers(self, addresses: Mapping[str, str]) -> None:
        gone = self._addresses.keys() - addresses.keys()
        self._addresses = dict(addresses)
        for peer in sorted(gone):
            task, link = self._dialling.pop(peer, None), self._links.pop(peer, None)
            if task is not None:
                task.cancel()
            if link is not None:
                link.close()
                self.events.disconnected(peer, by_peer=False)
        if self._me and not self._closed:
            self._dial()

    def _dial(self) -> None:
        """See to it that every peer is dialled, and that they can dial us."""
        loop = asyncio.get_running_loop()
        for peer in sorted(self._addresses.keys() - self._dialling.keys()):
            self._dialling[peer] = loop.create_task(self._keep_dialling(peer), name=f"dial {peer}")
        if self._addresses and self._server is None and not self._opening:
            self._opening = True
            self._tasks.append(loop.create_task(self._open_port_late(), name="listen"))

    def send(self, peer: str, frame: bytes) -> bool:
        link = self._links.get(peer)
        if link is None or link.closing or link.transport is None:
            return False
        if link.transport.get_write_buffer_size() + len(frame) > _SEND_QUEUE_BYTES:
            return False
        link.write(frame)
        return True

    def is_connected(self, peer: str) -> bool:
        return peer in self._links

    def drop(self, peer: str) -> None:
        link = self._links.get(peer)
        if link is not None:
            link.abort()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._server is not None:
            self._server.close()
        for task in [*self._tasks, *self._dialling.values()]:
            task.cancel()
        for link in [*self._links.values(), *self._strangers]:
            link.close()

    def certified(self, ssl_object: Any) -> str | None:
        """The member whose certificate the other end showed; None without encryption. ValueError where it may not speak here."""
        return self._peer_name(ssl_object) if self._peer_name is not None else None

    # -- links -----------------------------------------------------------------------------------------------------

    def admit(self, link: _Link) -> bool:
        """Whether one more connection may introduce itself."""
        if self._closed:
            return False
        waiting = [other for other in self._strangers if not other.dialled and not other.closing]
        neighbours = [other for other in waiting if other.host == link.host]
        if not link.dialled and (len(neighbours) >= _MAX_STRANGERS_A_HOST or len(waiting) >= _MAX_STRANGERS):
            (neighbours or waiting)[0].abort()
        self._strangers[link] = None
        return True

    def opened(self, link: _Link, peer: str) -> None:
        self._strangers.pop(link, None)
        present = self._links.get(peer)
        if self._closed:
            link.close()
            return
        if present is not None:
            silent = self.clock.monotonic() - present.heard_at > _STALE_S
            if self._preferred(present, peer) and not self._preferred(link, peer) and not silent:
                link.close()
                return
            del self._links[peer]
            present.close()
            self.events.disconnected(peer, by_peer=False)
        self._links[peer] = link
        _logger.info("server %s is connected to %s", self._me, peer)
        self.events.connected(peer)

    def _preferred(self, link: _Link, peer: str) -> bool:
        return link.dialled == (self._me < peer)

    def ended(self, link: _Link, *, by_peer: bool) -> None:
        self._strangers.pop(link, None)
        if link.peer is not None and self._links.get(link.peer) is link:
            del self._links[link.peer]
            if not self._closed:
                _logger.info("server %s lost the connection to %s", self._me, link.peer)
                self.events.disconnected(link.peer, by_peer=by_peer)

    async def _connect(self, link: _Link, host: str, port: int) -> None:
        """To the first address of `host` that takes it. OSError of the last one."""
        found = await self._look_ups.find(host, port)
        for left, place in enumerate(found, 1 - len(found)):
            try:
                await asyncio.get_running_loop().create_connection(lambda: link, *place, ssl=self._client_ssl)
                return
            except OSError:
                if not left:
                    raise

    async def _keep_dialling(self, peer: str) -> None:
        failing = ""
        if self._me > peer:
            # The lower id's connection is the one that stays: let it come first.
            await asyncio.sleep(0.3 + 0.3 * self._random.random())
        pause = 0.2
        while not self._closed:
            present = self._links.get(peer)
            if present is not None:
                await asyncio.shield(present.ended)
                pause = 0.2
                await asyncio.sleep(pause * (0.1 + self._random.random()))
                continue
            address = self._addresses[peer]
            link = _Link(self, peer)
            try:
                host, port = split_address(address)
                async with asyncio.timeout(_DIAL_S):
                    await self._connect(link, host, port)
                failing = ""
            except (OSError, TimeoutError, StartRefused) as error:
                if failing != address:
                    where = peer if peer == address else f"{peer} at {address}"
                    _logger.info("server %s cannot reach %s: %s; trying on", self._me, where, error or "time-out")
                failing = address
            else:
                await asyncio.shield(link.ended) if not link.open else None
            if peer not in self._links:
                await asyncio.sleep(pause * (0.5 + self._random.random()))
                pause = min(1.0, pause * 1.5)

    async def _watch(self) -> None:
        """Drop connections over which nothing comes although the other side sends a sign of life every second."""
        last = self.clock.monotonic()
        while True:
            await asyncio.sleep(_WATCH_S)
            now = self.clock.monotonic()
            late, last = now - last > 2 * _WATCH_S, now
            if late:
                continue  # It was this process that did not run; first hear what has come in meanwhile.
            for peer, link in list(self._links.items()):
                if now - link.heard_at > _SILENCE_S:
                    _logger.info("server %s hears nothing from %s; dropping the connection", self._me, peer)
                    link.abort()
