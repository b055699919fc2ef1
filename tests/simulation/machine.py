"""The state machine the simulated replicas drive: a list of unique tokens with a hash chain over every entry ever applied.

It reports each apply and each restore to an observer; the checkers judge from those reports, never from what the log says of itself.
"""

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import Protocol

CHUNK = 512
SEPARATOR = b"|"


class Observer(Protocol):
    def applied(self, name: str, index: int, entry: bytes, digest: bytes) -> None: ...
    def restored(self, name: str, index: int, tokens: list[bytes], digest: bytes) -> None: ...


def entry_of(token: bytes, padding: int) -> bytes:
    return token + SEPARATOR + b"." * padding


def token_of(entry: bytes) -> bytes:
    return entry.split(SEPARATOR, 1)[0]


class ListMachine:
    """`contract.StateMachine`. The list only grows, so a prefix of it is an immutable view."""

    def __init__(self, name: str, observer: Observer) -> None:
        self.name = name
        self.index = 0
        self.tokens: list[bytes] = []
        self.digest = b""
        self._observer = observer

    def apply(self, index: int, entry: bytes) -> bytes:
        self.digest = blake2b(entry, digest_size=8, key=self.digest).digest()
        self.index = index
        token = token_of(entry)
        self.tokens.append(token)
        self._observer.applied(self.name, index, entry, self.digest)
        return result_of(token, index)

    def snapshot(self) -> Callable[[], Iterator[bytes]]:
        tokens, count, digest = self.tokens, len(self.tokens), self.digest

        def encode() -> Iterator[bytes]:
            encoded = digest.hex().encode() + b"\n" + b"\n".join(tokens[:count])
            for at in range(0, len(encoded), CHUNK):
                yield encoded[at : at + CHUNK]

        return encode

    def restore(self, index: int, chunks: Iterable[bytes]) -> None:
        digest, _, tokens = b"".join(chunks).partition(b"\n")
        self.digest = bytes.fromhex(digest.decode())
        self.tokens = tokens.split(b"\n") if tokens else []
        self.index = index
        self._observer.restored(self.name, index, self.tokens, self.digest)


def result_of(token: bytes, index: int) -> bytes:
    """What every replica answers to the proposal of `token` if it was applied at `index`."""
    return b"%b@%d" % (token, index)
