"""The two protocols that are spoken under load, made for speed and one request in flight: HTTP/1.1, and unary gRPC over HTTP/2.

Requests are bytes made beforehand as far as they can be; of an answer only what tells success and its end is read.
"""

import struct
from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct


class Answer(Struct, frozen=True):
    ok: bool
    body: bytes
    """For HTTP as it came, chunk sizes included; nothing for gRPC."""
    status: str = ""


class Wire(Protocol):
    """One connection's half of a protocol."""

    def hello(self) -> bytes:
        """What is sent first."""

    def pack(self, request: bytes) -> bytes: ...

    def feed(self, data: bytes) -> tuple[Answer | None, bytes]:
        """(the answer, once it is whole; what must be sent besides)."""


def http_request(method: str, path: str, body: bytes = b"", *, host: str = "bench") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    elif method != "GET":
        head += "Content-Length: 0\r\n"
    return f"{head}\r\n".encode() + body


class Http:
    def __init__(self) -> None:
        self._held: bytes | bytearray = b""
        """What grows does so in place: a list of all pods comes in a thousand pieces."""

    def hello(self) -> bytes:
        return b""

    def pack(self, request: bytes) -> bytes:
        return request

    def feed(self, data: bytes) -> tuple[Answer | None, bytes]:
        if self._held:
            self._held += data
        held = self._held or data
        end = held.find(b"\r\n\r\n")
        if end < 0 or not _is_whole(held, end):
            self._held = held if isinstance(held, bytearray) else bytearray(held)
            return None, b""
        self._held = b""
        good = held[9:10] == b"2"
        return Answer(good, bytes(held[end + 4 :]), "" if good else held[:300].decode(errors="replace")), b""


def _is_whole(held: bytes | bytearray, end: int) -> bool:
    """Whether the answer whose head ends there has come in."""
    head = held[:end].lower()
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        stop = head.find(b"\r\n", at + 2)
        return len(held) >= end + 4 + int(head[at + 17 : stop if stop > 0 else end])
    # JSON holds no line ends of this kind, so only the last chunk looks like this.
    return b"\r\ntransfer-encoding: chunked" not in head or held.endswith(b"0\r\n\r\n")


_SETTINGS, _WINDOW = b"\x00\x04\x00\xff\xff\xff", b"\x7f\x00\x00\x00"
_DATA, _HEADERS, _RESET, _SETTINGS_KIND, _PING, _GOAWAY, _WINDOW_KIND = 0, 1, 3, 4, 6, 7, 8
_END, _ACK = 1, 1


class Grpc:
    """Unary calls of one method: `request` is the encoded message. A reply without a message is a refusal."""

    def __init__(self, path: str) -> None:
        fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "bench", "content-type": "application/grpc"}
        self._head = b"".join(b"\x00" + _text(name) + _text(value) for name, value in [*fields.items(), ("te", "trailers")])
        self._stream = -1
        self._held = b""
        self._message = False

    def hello(self) -> bytes:
        return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS_KIND, 0, 0, _SETTINGS) + _frame(_WINDOW_KIND, 0, 0, _WINDOW)

    def pack(self, request: bytes) -> bytes:
        self._stream += 2
        self._message = False
        message = b"\x00" + struct.pack(">I", len(request)) + request
        return _frame(_HEADERS, 4, self._stream, self._head) + _frame(_DATA, _END, self._stream, message)

    def feed(self, data: bytes) -> tuple[Answer | None, bytes]:
        held, at, back, answer = self._held + data, 0, b"", None
        while len(held) - at >= 9:
            length, kind, flags = int.from_bytes(held[at : at + 3], "big"), held[at + 3], held[at + 4]
            if len(held) - at < 9 + length:
                break
            stream = int.from_bytes(held[at + 5 : at + 9], "big") & 0x7FFFFFFF
            content = held[at + 9 : at + 9 + length]
            at += 9 + length
            if kind == _SETTINGS_KIND and not flags & _ACK:
                back += _frame(_SETTINGS_KIND, _ACK, 0, b"")
            elif kind == _PING and not flags & _ACK:
                back += _frame(_PING, _ACK, 0, content)
            elif kind == _GOAWAY or (kind == _RESET and stream == self._stream):
                answer = Answer(False, b"", f"HTTP/2 frame {kind}: {content[:80]!r}")
            elif kind in (_DATA, _HEADERS) and stream == self._stream:
                self._message = self._message or (kind == _DATA and length > 5)
                if flags & _END:
                    answer = Answer(self._message, b"", "" if self._message else "a reply without a message")
        self._held = held[at:]
        return answer, back


def message(*fields: tuple[int, bytes | int]) -> bytes:
    """A protobuf message of bytes and integers."""
    parts = []
    for number, value in fields:
        if isinstance(value, bytes):
            parts.append(_varint(number << 3 | 2) + _varint(len(value)) + value)
        else:
            parts.append(_varint(number << 3) + _varint(value))
    return b"".join(parts)


def http_requests(method: str, path: str, bodies: Sequence[bytes]) -> tuple[bytes, ...]:
    return tuple(http_request(method, path, body) for body in bodies)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _text(text: str) -> bytes:
    """Of a header, neither indexed nor compressed; shorter than 127 bytes."""
    return bytes([len(text)]) + text.encode()


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + content
