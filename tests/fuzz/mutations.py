"""Rubbish that is nearly right: bytes damaged as disks and attackers do it, and values that fit a type badly.

Everything comes from the random numbers it is given, so a case is its seed.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from random import Random
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import inspect

INTERESTING = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\xc1", b"\xdf\xff\xff\xff\xff", b"\xcf" + b"\xff" * 8, b"\xd3\x80" + b"\x00" * 7)
"""Ends of ranges, and what msgpack reads as absurd lengths and numbers."""
NUMBERS = (-1, 0, 1, 2, 3, 5, 100, 2**31, 2**32, 2**53, 2**53 + 1, 2**63 - 1, 2**64 - 1, -(2**63))
FLOATS = (0.0, -0.0, -1.0, 1e-300, 1.5, 1e308, float("inf"), float("-inf"), float("nan"))
WORDS = ("", "web", "n1", "n2", "s1:7080", "p-1", "a" * 64, "a" * 5000, "-x", "..", "../x", "%00", "\x00", "ｗｅｂ", "\U0001f9ff",
         "a b", "$(x)", "kago.x", "true", "null", "1e999", "\u202e", "register", "A", "é" * 63)
MAX_DEPTH = 6
RUN = 500
"""Cases that may build upon each other; the next run begins with nothing."""
Likely = Mapping[str, Sequence[Any]]
NOTHING_LIKELY: Likely = MappingProxyType({})


def mutated(chance: Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """`data` after one to four accidents; `others` lend pieces."""
    buffer = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at = chance.randrange(len(buffer) + 1)
        match chance.randrange(8):
            case 0 if buffer:
                buffer[at % len(buffer)] ^= 1 << chance.randrange(8)
            case 1:
                del buffer[at:]
            case 2:
                del buffer[at : at + chance.randrange(1, 9)]
            case 3:
                buffer[at:at] = chance.choice(INTERESTING)
            case 4:
                buffer[at:at] = chance.randbytes(chance.randrange(1, 9))
            case 5:
                piece = chance.choice(INTERESTING)
                buffer[at : at + len(piece)] = piece
            case 6:
                source = chance.choice(others) if others else bytes(buffer)
                begin = chance.randrange(len(source) + 1)
                buffer[at:at] = source[begin : begin + chance.randrange(1, 65)]
            case _:
                buffer[at:at] = buffer[at : at + chance.randrange(1, 33)]
    return bytes(buffer)


def shaped(chance: Random, kind: Any, words: Sequence[str] = WORDS, likely: Likely = NOTHING_LIKELY) -> Any:
    """A value of plain types that looks like one of `kind` (a msgspec type), mostly; `likely` are values of fields of these names."""
    return _Growth(chance, words, likely).value(_described(kind), 0)


@lru_cache
def _described(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


class _Growth:
    def __init__(self, chance: Random, words: Sequence[str], likely: Likely) -> None:
        self._chance, self._words, self._likely = chance, words, likely

    def value(self, info: inspect.Type, depth: int) -> Any:
        chance = self._chance
        if chance.random() < 0.01:
            return chance.choice((None, True, -1, "x", [], {}, 1.5, b"x", {"type": "x"}))
        match info:
            case inspect.UnionType(types=types):
                return self.value(chance.choice(types), depth)
            case inspect.StructType():
                return self._struct(info, depth)
            case inspect.EnumType(cls=cls):
                return chance.choice(list(cls)).value if chance.random() < 0.97 else "nonsense"
            case inspect.LiteralType(values=values):
                return chance.choice(values)
            case inspect.BoolType():
                return chance.random() < 0.5
            case inspect.IntType():
                return chance.choice(NUMBERS) if chance.random() < 0.3 else chance.randrange(5)
            case inspect.FloatType():
                return chance.choice(FLOATS) if chance.random() < 0.3 else chance.random() * 1e9
            case inspect.StrType():
                return chance.choice(self._words)
            case inspect.BytesType():
                return chance.randbytes(chance.choice((0, 1, 16, 17, 64, 65, 300)))
            case inspect.NoneType():
                return None
            case inspect.DictType(key_type=key, value_type=value):
                return {str(self.value(key, depth + 1)): self.value(value, depth + 1) for _ in self._some(depth)}
            case inspect.TupleType(item_types=items):
                return [self.value(item, depth + 1) for item in items]
            case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item) | inspect.SetType(item_type=item):
                return [self.value(item, depth + 1) for _ in self._some(depth)]
        return chance.choice(self._words)

    def _some(self, depth: int) -> range:
        return range(0 if depth >= MAX_DEPTH else self._chance.choice((0, 1, 1, 2, 3)))

    def _struct(self, info: inspect.StructType, depth: int) -> Any:
        chance = self._chance
        values = []
        for field in info.fields:
            if not field.required and not info.array_like and chance.random() < 0.5:
                continue
            if field.required and chance.random() < 0.005:
                continue
            likely = self._likely.get(field.encode_name)
            known = likely is not None and chance.random() < 0.9
            values.append((field.encode_name, chance.choice(likely or ()) if known else self.value(field.type, depth + 1)))
        if chance.random() < 0.01:
            values.append(("surplus", 1))
        if info.array_like:
            return [*([] if info.tag is None else [info.tag]), *(value for _, value in values)]
        return {**({} if info.tag_field is None else {info.tag_field: info.tag}), **dict(values)}


def packed(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def nested(chance: Random, opening: bytes, closing: bytes) -> bytes:
    """Far deeper than anybody means it."""
    depth = chance.choice((10, 100, 1000, 100_000))
    return opening * depth + closing * depth


Case = Callable[[Random], str]
"""One case: what became of it in a word (taken, refused, …). Whatever it raises is a finding."""
