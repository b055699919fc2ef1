"""The API of a simulated server: the production routes and answers, called as Sanic would call them."""

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from sanic import Blueprint, HTTPResponse
from sanic.mixins.routes import RouteMixin

from kago.server.answers import Standing, problem
from kago.server.app import Server, _refusal
from kago.server.incoming import Incoming
from kago.server.problems import Refused
from kago.server.reports import Reports
from kago.server.routes import deployments, nodes, pods
from tests.simulation.cluster.web import Exchange

Handler = Callable[..., Coroutine[Any, Any, HTTPResponse | None]]
operation: ContextVar[str] = ContextVar("operation", default="")
"""Which user's operation the running request belongs to."""


class Asked(Incoming):
    """A request without a socket below it."""

    exchange: Exchange
    server: Server

    async def respond(self, response: Any = None, *, status: int = 200, headers: Any = None, content_type: str | None = None) -> Any:
        """Begin an answer that is sent in pieces."""
        said = {**dict(headers or {}), **Standing(self.server.store).values(), "content-type": content_type or ""}
        self.exchange.answer(status, said, None)
        return _Pieces(self.exchange)


class _Pieces:
    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def send(self, data: bytes) -> None:
        self._exchange.send(data)

    async def eof(self) -> None:
        self._exchange.end()


class Api:
    def __init__(self, server: Server, refused: Callable[[str, Exception], None]) -> None:
        """`refused` is told of each error 500."""
        self._server = server
        self._bug = refused
        store = server.store
        self._routes: list[tuple[frozenset[str], re.Pattern[str], Handler]] = []
        for part in (deployments.blueprint(store), pods.blueprint(store), nodes.blueprint(store, server.leader, Reports(store))):
            self._routes += _routes(part)

    async def answer(self, exchange: Exchange) -> None:
        operation.set(exchange.headers.get("x-operation", ""))
        request = Asked(exchange.target, exchange.headers, "1.1", exchange.method, None, None)
        request.exchange, request.server = exchange, self._server
        request.body = exchange.body
        try:
            response = await self._handle(request)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            refused = _refusal(request, error)
            if not isinstance(error, Refused):
                self._bug(f"{exchange.method} {request.path}", error)
            response = problem(request, refused)
        if response is not None:
            headers = {**dict(response.headers), **Standing(self._server.store).values(), "content-type": response.content_type or ""}
            exchange.answer(response.status, headers, response.body or b"")

    async def _handle(self, request: Asked) -> HTTPResponse | None:
        path = request.path.rstrip("/") or "/"
        for methods, pattern, handler in self._routes:
            if request.method in methods and (match := pattern.fullmatch(path)):
                return await handler(request, **match.groupdict())
        raise Refused(404, "not-found", f"there is nothing at {path}")


@contextmanager
def quick_blueprints() -> Iterator[None]:
    """Sanic reads the source of each handler to guess the format of its errors, at every life of every server; ours need no guess."""
    kept = RouteMixin._determine_error_format
    RouteMixin._determine_error_format = lambda self, handler: ""  # type: ignore[method-assign]
    try:
        yield
    finally:
        RouteMixin._determine_error_format = kept  # type: ignore[method-assign]


def _routes(part: Blueprint) -> list[tuple[frozenset[str], re.Pattern[str], Handler]]:
    """Fixed paths first, as Sanic's router has it."""
    found = sorted(part._future_routes, key=lambda route: ("<" in route.uri, route.uri, sorted(route.methods or ())))
    return [(frozenset(route.methods or ()), _pattern(f"{part.url_prefix or ''}{route.uri}"), route.handler) for route in found]  # type: ignore[misc]


def _pattern(uri: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"<(\w+):\w+>", r"(?P<\1>[^/]+)", uri.rstrip("/")))
