"""Answers of the API: things as they are encoded once, lists as their concatenation, and what every answer says."""

import asyncio
from collections.abc import Callable, Iterable, Sequence

import msgspec
from sanic import HTTPResponse, Request
from sanic.helpers import STATUS_CODES
from sanic.http import Http, Stage
from sanic.response import BaseHTTPResponse, raw

from kago.clock import http_date
from kago.core.state.changes import Thing
from kago.server.feed import encode
from kago.server.problems import CONTENT_TYPE, Refused, of_log_error, unavailable
from kago.server.requests import check_parameters, etag, flag, number, parameter
from kago.server.store import Store
from kago.server.watches import watch_answer
from raft.contract import LogStatus
from raft.errors import LogError, NoLeader

JSON = "application/json"
SLICE = 500
"""Things of a list that are encoded and sent at once: a longer list is sent in slices, between which the log and everybody else go on."""


def problem(request: Request, refused: Refused) -> HTTPResponse:
    return raw(refused.body(request.path), status=refused.status, headers=refused.headers, content_type=CONTENT_TYPE)


def thing_answer(store: Store, request: Request, thing: Thing, *, status: int = 200, headers: dict[str, str] | None = None) -> HTTPResponse:
    """One thing, with its ETag; 304 where the client has it already."""
    tag = etag(thing)
    if request.method == "GET" and tag in (request.headers.get("if-none-match") or ""):
        return raw(b"", status=304, headers={"etag": tag})
    # Not from the store's encodings: this may be a thing that is gone, or one that a dry run only imagined.
    return raw(encode(thing), status=status, headers={"etag": tag, **(headers or {})}, content_type=JSON)


async def list_answer(store: Store, request: Request, things: Sequence[Thing]) -> HTTPResponse | None:
    """All as they are now, however long it takes to send them (None: that has been done)."""
    if len(things) <= SLICE:
        return raw(b"[" + _joined(store, things) + b"]", content_type=JSON)
    response = await request.respond(content_type=JSON)
    if response is None:
        return None
    before = b"["
    for start in range(0, len(things), SLICE):
        await response.send(before + _joined(store, things[start : start + SLICE]))
        before = b","
        await asyncio.sleep(0)
    await response.send(b"]")
    await response.eof()
    return None


def _joined(store: Store, things: Iterable[Thing]) -> bytes:
    return b",".join([store.encoded(thing) for thing in things])


def struct_answer(value: object, *, status: int = 200) -> HTTPResponse:
    return raw(msgspec.json.encode(value), status=status, content_type=JSON)


async def make_readable(store: Store, request: Request) -> None:
    """Bring the tables to where this read may be answered. Refused (400, 503)."""
    check_parameters(request)
    least = number(request, "min_index")
    try:
        await store.catch_up(stale=flag(request, "stale"), min_index=least)
    except NoLeader as error:
        if least is not None:
            raise unavailable("catching-up", str(error)) from None
        raise of_log_error(error) from None
    except LogError as error:
        raise of_log_error(error) from None


class TooMany(Exception):
    """For one piece."""


class Read:
    """How one question is answered: `content` gives what follows the headers that every answer has. It may raise Refused and TooMany."""

    __slots__ = ("content", "stale")

    def __init__(self, content: Callable[[], bytes], *, stale: bool) -> None:
        self.content = content
        self.stale = stale


async def read_one(store: Store, request: Request, find: Callable[[], Thing]) -> HTTPResponse:
    """Answer by what `find` gives, which may raise Refused."""
    await make_readable(store, request)
    known: Thing | None = None
    content = b""

    def again() -> bytes:
        nonlocal known, content
        if (thing := find()) is not known:
            known, content = thing, content_of(store.encodings.of(thing), JSON, own=f"etag: {etag(thing)}\r\n")
        return content

    _note(request, again)
    return thing_answer(store, request, find())


async def read_many(store: Store, request: Request, kind: str, find: Callable[[], Sequence[Thing]]) -> HTTPResponse | None:
    """Answer by what `find` gives of a kind, or with a watch that begins with it (None: that has been answered)."""
    await make_readable(store, request)
    if flag(request, "watch"):
        await watch_answer(store, request, kind, find())
        return None
    index, content = -1, b""

    def again() -> bytes:
        nonlocal index, content
        if index != (changed := store.feed.changed_at(kind)):
            things = find()
            if len(things) > SLICE:
                raise TooMany
            index, content = changed, content_of(b"[" + _joined(store, things) + b"]", JSON)
        return content

    things = find()
    if len(things) <= SLICE:
        _note(request, again)
    return await list_answer(store, request, things)


def _note(request: Request, content: Callable[[], bytes]) -> None:
    """So that the request, when it comes again, can be answered by `repeats.py`."""
    if parameter(request, "min_index") is None:
        request.ctx.read = Read(content, stale=flag(request, "stale"))


def content_of(body: bytes, content_type: str, *, own: str = "", connection: str = "keep-alive") -> bytes:
    """The rest of an answer, from the headers on that are its `own` (whole lines)."""
    return f"{own}content-length: {len(body)}\r\nconnection: {connection}\r\ncontent-type: {content_type}\r\n\r\n".encode() + body


class Standing:
    """What every answer says about the state it was given from; by the date clients reckon ages, whatever their own clock says. All but the
    index is worked out again when what was last known of the log is."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._status: LogStatus | None = None
        self._values: dict[str, str] = {}
        self._lines = b""

    def values(self) -> dict[str, str]:
        self._renew()
        return {**self._values, "x-kago-index": str(self._store.tables.index)}

    def lines(self) -> bytes:
        """As they stand in an answer's head."""
        self._renew()
        return b"%bx-kago-index: %d\r\n" % (self._lines, self._store.tables.index)

    def _renew(self) -> None:
        status = self._store.recent_status()
        if status is self._status:
            return
        age = status.leader_contact_age_s
        self._status, self._values = status, {
            "date": http_date(int(self._store.clock.now())),
            "x-kago-leader": status.leader or "",
            "x-kago-servers": ",".join(server_urls(self._store)),
            "x-kago-known-leader": "true" if status.leader is not None else "false",
            "x-kago-last-contact": "-1" if age is None else str(round(age * 1000)),
        }
        self._lines = "".join(f"{name}: {value}\r\n" for name, value in self._values.items()).encode()


def written_out(answer: BaseHTTPResponse, standing: Standing, *, keep_alive: bool) -> bytes | None:
    """A whole answer as it is sent; None where that is for Sanic to see to: it has no body, or headers with line ends in them."""
    own = "".join([f"{name}: {value}\r\n" for name, value in answer.headers.items()])
    if not answer.body or own.count("\n") != len(answer.headers) or own.count("\r") != len(answer.headers):
        return None
    rest = content_of(answer.body, str(answer.content_type), own=own, connection="keep-alive" if keep_alive else "close")
    return b"HTTP/1.1 %d %b\r\n" % (answer.status, STATUS_CODES[answer.status]) + standing.lines() + rest


class Answering(Http):
    """Sanic's, with two changes: every answer says where its server stands (`app.ctx.standing`), and the head of a whole one is written at
    once. Sanic cleans each name and value by itself, which takes longer than a route does."""

    async def http1_response_header(self, data: bytes, end_stream: bool) -> None:
        answer, standing = self.response, self.protocol.app.ctx.standing
        plain = not data and end_stream and not self.head_only and not self.expecting_continue
        written = written_out(answer, standing, keep_alive=self.keep_alive) if plain else None
        if written is None:
            answer.headers.update(standing.values())
            await super().http1_response_header(data, end_stream)
            return
        self.response_func = None  # type: ignore[assignment]  # as Sanic does
        self.response_size = len(answer.body or b"")
        await self._send(written)
        self.stage = Stage.IDLE


def server_urls(store: Store) -> tuple[str, ...]:
    """API URLs of all servers that announced themselves."""
    return tuple(store.tables.servers[id].api for id in sorted(store.tables.servers))
