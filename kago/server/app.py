"""One control-plane server put together: log, state, leader's work and API in one process, on one event loop.

Every part runs in one TaskGroup: a part that dies takes the process with it, loudly, instead of leaving a server that looks alive.
"""

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
from importlib.metadata import version as installed_version
from types import TracebackType
from typing import Self

import uvloop
from msgspec import structs
from sanic import HTTPResponse, Request, Sanic
from sanic.exceptions import MethodNotAllowed, PayloadTooLarge, RequestCancelled, SanicException
from sanic.http import Http
from sanic.server.async_server import AsyncioServer

from kago.client.join import JoinRefused
from kago.clock import Clock, SystemClock
from kago.config import LOG_FORMAT, ServeConfig
from kago.core.model.cluster import announced
from kago.core.state.commands import SCHEMA_VERSION, RegisterServer
from kago.security.keyring import KeyringError
from kago.security.tokens import Token
from kago.server.access import Access
from kago.server.answers import Standing, problem
from kago.server.checks import Checks, warn
from kago.server.credentials import join_cluster, open_credentials
from kago.server.gate import Connection, Gate, Limits, Turns, explain_timeout
from kago.server.incoming import Incoming
from kago.server.joining import log_config
from kago.server.leader import Leader
from kago.server.metrics import Metrics
from kago.server.problems import Refused, unavailable
from kago.server.repeats import Repeats
from kago.server.reports import Reports
from kago.server.routes import admission, backup, changes, checks, cluster, deployments, members, nodes, pods
from kago.server.store import Store
from kago.server.watches import STOPPING
from raft import open_replica
from raft.contract import LogStatus, ReplicatedLog
from raft.errors import Expelled, LogError, LogHalted

_logger = logging.getLogger(__name__)
ANNOUNCE_AGAIN_S = 0.5
MAX_DISCARDED_BYTES = 64 * 1024 * 1024
DISCARD_S = 2.0
HANDSHAKE_S = 5.0
DRAIN_S = 1.0
"""Requests under way at a stop are given this long; every server's stop must fit into what an operator waits."""
LAST_WORDS_S = 0.02
"""For whoever still waited for the log, to be told that it is closed."""
GC_THRESHOLDS = (10_000, 20, 20)
"""A request makes hundreds of objects, and reference counts see to all but a few of them: look for cycles more seldom than Python does."""
EXPELLED = 5
"""Exit code of a server that was removed: to start it again is of no use."""
VERSION = installed_version("kago")


class Server:
    """A server that can be started and stopped; `serve` runs one as a process."""

    def __init__(self, config: ServeConfig, *, clock: Clock | None = None, limits: Limits | None = None) -> None:
        self.config = config
        self.limits = limits or Limits()
        self.clock = clock or SystemClock()
        self.store = Store(self.clock)
        self.leader = Leader(config, self.store, self.clock)
        self.checks = Checks(config.data_dir, self.clock)
        self.credentials = open_credentials(config, self.store)
        """None: this server is not secured."""
        if self.credentials is not None:
            self.checks.certificates_left_s = self.credentials.left_s
        self.access = Access(self.store, self.credentials)
        self.fatal: asyncio.Future[LogError] = asyncio.get_running_loop().create_future()
        """Resolved when the log halts by itself: the process must end."""
        self._api: AsyncioServer | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.url = ""

    async def start(self, log: ReplicatedLog | None = None) -> None:
        """Open the log (or take `log`, already open over `store.machine`), then the API. StartRefused, OSError."""
        own = _listen(self.config)
        try:
            opened = log if log is not None else await self._open_log()
        except BaseException:
            own.close()
            raise
        opened.on_role = self._role_changed
        opened.on_message = self.leader.told
        self.store.open(opened)
        self.url = f"{'https' if self.credentials else 'http'}://{self.config.host}:{own.getsockname()[1]}"
        try:
            self._api = await _start_api(self, own)
        except BaseException:
            own.close()
            await self.store.close()
            raise
        parts = {"leader": self.leader.run(), "announce": self._announce(), "checks": self.checks.run()}
        self._tasks = [asyncio.create_task(part, name=name) for name, part in parts.items()]
        if self.credentials is not None:
            self._tasks += [
                asyncio.create_task(self.credentials.run(), name="credentials"),
                asyncio.create_task(self.access.sweep(), name="sweep"),
            ]

    async def run(self) -> None:
        """Until cancelled; raises what any part died of."""
        async with asyncio.TaskGroup() as parts:
            for task in self._tasks:
                parts.create_task(_follow(task))
            parts.create_task(self._watch_log())

    async def stop(self) -> None:
        """Hand leadership over, end the watches, close everything. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        self.store.feed.close(STOPPING)
        api, self._api = self._api, None
        if api is not None:
            await _drain(api)
        await self.store.close()
        if api is not None:
            await asyncio.sleep(LAST_WORDS_S)
            for connection in list(api.connections):
                connection.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    def _role_changed(self, status: LogStatus) -> None:
        _logger.info("role %s, leader %s, term %d", status.role.value, status.leader or "none", status.term)
        self.leader.role_changed(status)

    async def _open_log(self) -> ReplicatedLog:
        config, secured = self.config, self.credentials
        raft = structs.replace(await log_config(config, secured.dialling if secured else None), level=SCHEMA_VERSION)
        if secured is not None and raft.invitation is not None:
            secured.named(raft.invitation.id)
        return await open_replica(
            raft,
            self.store.machine,
            config.data_dir,
            clock=self.clock,
            insecure=config.insecure,
            on_fatal=self._log_halted,
            server_ssl=secured.raft_server if secured else None,
            client_ssl=secured.dialling if secured else None,
            peer_name=secured.server_name if secured else None,
        )

    def _log_halted(self, error: LogError) -> None:
        if not self.fatal.done():
            self.fatal.set_result(error)

    async def _watch_log(self) -> None:
        raise await asyncio.shield(self.fatal)

    async def _announce(self) -> None:
        """Tell the cluster where this server's API is, until it knows."""
        while not self.store.status().caught_up:
            await asyncio.sleep(ANNOUNCE_AGAIN_S / 5)
        wanted = RegisterServer(id=self.store.status().me, api=self.config.api_url, software_version=announced(VERSION, SCHEMA_VERSION))
        while True:
            try:
                await self.store.submit(wanted)
                return
            except LogHalted:
                raise
            except LogError:
                await asyncio.sleep(ANNOUNCE_AGAIN_S)


async def _follow(task: "asyncio.Task[None]") -> None:
    await asyncio.shield(task)


def _listen(config: ServeConfig) -> socket.socket:
    address = (config.host, config.port)
    try:
        if ":" in config.host:
            return socket.create_server(address, family=socket.AF_INET6, backlog=1024, dualstack_ipv6=config.host == "::")
        return socket.create_server(address, backlog=1024)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise OSError(f"the API cannot listen on {config.host} port {config.port}: {why}; see --host and --port") from error


async def _start_api(server: Server, own: socket.socket) -> AsyncioServer:
    app = Sanic(f"kago-{id(server):x}", configure_logging=False, request_class=Incoming)
    app.config.update(
        {
            **server.limits.sanic_config(),
            "ACCESS_LOG": False,
            "GRACEFUL_SHUTDOWN_TIMEOUT": 1.0,
            "MOTD": False,
            "FALLBACK_ERROR_FORMAT": "json",
        }
    )
    app.ctx.gate, app.ctx.turns = Gate(server.limits, server.clock.monotonic), Turns()
    metrics, store, secured, access = Metrics(server.store), server.store, server.credentials, server.access
    standing = app.ctx.standing = Standing(store)
    repeats = app.ctx.repeats = Repeats(store, access, server.checks, standing, metrics, _explain)
    reports = Reports(store)
    parts = [
        deployments.blueprint(store),
        pods.blueprint(store),
        nodes.blueprint(store, server.leader, reports, secured=secured is not None),
        cluster.blueprint(store, metrics, VERSION, secured.dialling if secured else None),
        members.blueprint(store),
        backup.blueprint(store, VERSION),
        checks.blueprint(store, server.checks, reports, VERSION),
        changes.blueprint(store),
    ]
    if secured is not None:
        parts.append(admission.blueprint(store, access, secured, server.leader))
    for part in parts:
        app.blueprint(part)
        app.blueprint(part.copy(f"{part.name}-v1", version=1))

    @app.on_request
    async def begin(request: Request) -> None:
        request.ctx.began = server.clock.monotonic()
        request.ctx.caller = await access.check(request)
        server.checks.require_room(request.method, request.path)

    @app.on_response  # type: ignore[untyped-decorator]
    async def finish(request: Request, response: HTTPResponse) -> None:
        now = server.clock.monotonic()
        metrics.answered(request.method, response.status, now - getattr(request.ctx, "began", now))
        repeats.learn(request, response)

    @app.exception(Exception)
    async def explain(request: Request, error: Exception) -> HTTPResponse:
        if isinstance(error, PayloadTooLarge):
            await _discard_body(request)
        return _explain(request, error)

    # Who does not even shake hands is not counted by the gate, so it must not stay.
    tls, more = (secured.api_server, {"ssl_handshake_timeout": HANDSHAKE_S}) if secured else (None, {})
    api = await app.create_server(
        sock=own, ssl=tls, protocol=Connection, return_asyncio_server=True, access_log=False, asyncio_server_kwargs=more
    )
    if api is None:
        raise OSError("the API could not be started")
    access.connections = api.connections
    # Sanic rewrites its own methods for speed; it can do so once a process, and all our apps are alike.
    app.config.TOUCHUP = not getattr(Sanic, "__touched__", False)
    await api.startup()  # type: ignore[no-untyped-call]
    await api.start_serving()  # type: ignore[no-untyped-call]
    return api


def _explain(request: Request, error: Exception) -> HTTPResponse:
    return problem(request, _refusal(request, error))


def _refusal(request: Request, error: Exception) -> Refused:
    if isinstance(error, Refused):
        return error
    if isinstance(error, MethodNotAllowed):
        allowed = dict(error.headers or {})
        return Refused(405, "method-not-allowed", f"{request.method} is not allowed on {request.path}", headers=allowed)
    if isinstance(error, RequestCancelled):
        return Refused(408, "timeout", "the client did not wait for the answer")
    if isinstance(error, SanicException):
        names = {400: "bad-request", 404: "not-found", 413: "too-large", 417: "expectation-failed"}
        status = error.status_code
        slow = status == 503 and getattr(request.stream, "request_body", None)
        if status == 408 or slow:
            return Refused(408, "timeout", explain_timeout(request))
        if status == 503:
            return unavailable("timeout", "this took too long")
        detail = f"there is nothing at {request.path}" if status == 404 else str(error) or "the request cannot be served"
        return Refused(status, names.get(status, "bad-request" if status < 500 else "internal"), detail)
    _logger.error("bug: %s %s", request.method, request.path, exc_info=error)
    return Refused(500, "internal", "this server has a bug here; its log has the details")


async def _discard_body(request: Request) -> None:
    """Read on for a moment, so that a client that sends first and listens then hears the answer and not a reset."""
    http = request.stream
    if not isinstance(http, Http) or not http.request_body:
        return
    http.request_max_size = MAX_DISCARDED_BYTES
    try:
        async with asyncio.timeout(DISCARD_S):
            while await http.read():
                pass
    except (SanicException, TimeoutError):
        _logger.debug("a body too large by far was cut off")


async def _drain(api: AsyncioServer) -> None:
    """Take no more requests and let those under way end."""
    api.close()  # type: ignore[no-untyped-call]
    loop = asyncio.get_running_loop()
    until = loop.time() + DRAIN_S
    while loop.time() < until:
        busy = [connection for connection in list(api.connections) if not connection.close_if_idle()]
        if not busy:
            break
        await asyncio.sleep(0.02)


async def serve(config: ServeConfig, token: Token | None = None) -> int:
    """Run until SIGTERM or SIGINT; the exit code: 0 stopped, 1 it cannot go on, EXPELLED it must not."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    stopping = asyncio.create_task(stop.wait())
    try:
        starting = asyncio.create_task(_started(config, token))
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()  # It still waited to be let in, or to be added to its cluster.
            await asyncio.gather(starting, return_exceptions=True)
            return 0
        server = await starting
    except (LogError, OSError, KeyringError, JoinRefused) as error:
        _logger.error("cannot start: %s", error)
        return EXPELLED if isinstance(error, Expelled) else 1
    status = server.store.status()
    servers = ", ".join(member.id for member in status.members)
    _logger.info("server %s of %s: API at %s, data in %s", status.me, servers, config.api_url, config.data_dir)
    await warn(server.checks, status.me, version=VERSION, voters=sum(member.voter for member in status.members))
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    running = asyncio.create_task(server.run())
    await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
    code = 0
    if not stop.is_set():
        cause = running.exception()
        code = EXPELLED if any(isinstance(leaf, Expelled) for leaf in _leaves(cause)) else 1
        _logger.error("stopping: %s", "; ".join(map(str, _leaves(cause))), exc_info=None if _is_log_error(cause) else cause)
    running.cancel()
    stopping.cancel()
    await asyncio.gather(running, stopping, return_exceptions=True)
    # Of connections cut in the middle of a request Sanic says so with tracebacks; bugs of ours have a logger of their own.
    logging.getLogger("sanic.error").setLevel(logging.CRITICAL + 1)
    await server.stop()
    return code


async def _started(config: ServeConfig, token: Token | None) -> Server:
    if token is not None:
        await join_cluster(config, token, SystemClock())
    server = Server(config)
    await server.start()
    return server


def _leaves(error: BaseException | None) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [] if error is None else [error]


def _is_log_error(error: BaseException | None) -> bool:
    return all(isinstance(leaf, LogError) for leaf in _leaves(error))


def run(config: ServeConfig, token: Token | None = None) -> None:
    """`kago serve`: the whole process. Raises SystemExit where it did not end as asked."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)  # to stderr; what embeds us and has set up its own keeps it
    logging.getLogger("sanic").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # As many connections as we may have: each watch holds one, and the usual soft limit of 1024 is soon reached.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    code = uvloop.run(serve(config, token))
    if code:
        raise SystemExit(code)
