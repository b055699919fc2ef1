"""The tables as bytes and back: a header, then pages of things of one kind, in the order of their keys.

Equal tables give equal bytes on every server. A chunk is the header or one page, and a page is small, so that the thread that encodes
never holds the interpreter long.
"""

from collections.abc import Iterable, Iterator
from operator import attrgetter

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from kago.core.model.cluster import Cluster, Server
from kago.core.model.deployment import TEMPLATE_FIELDS, Deployment
from kago.core.model.history import ChangeRecord
from kago.core.model.node import Node
from kago.core.model.pod import Pod
from kago.core.model.token import Removal, Token
from kago.core.state.changes import Put, Thing
from kago.core.state.commands import SCHEMA_VERSION
from kago.core.state.tables import Tables

FORMAT = 2
"""1 is of a cluster whose schema is 1; what later schemas brought an earlier release must refuse to read."""
PAGE_BYTES = 256 * 1024
PAGE_THINGS = 1000

_KINDS: dict[str, type[Thing]] = {
    "Server": Server, "Deployment": Deployment, "Node": Node, "Pod": Pod,
    "Token": Token, "Removal": Removal, "Change": ChangeRecord,
}
_KEYS = {"Server": "id", "Pod": "id", "Token": "id", "Removal": "key", "Change": "index"}
"""What a kind's things are ordered by, where not by name."""
_COMMON = ("deployment_name", *(name for name in TEMPLATE_FIELDS if name != "stop_grace_s"))
"""Fields that pods of one template share. Of equal floats one may be -0.0, which is other bytes."""
_template_of = attrgetter(*_COMMON)
_ENCODER = msgspec.msgpack.Encoder(order="deterministic")


class Header(Struct, frozen=True, kw_only=True):
    format: int
    index: int
    digest: bytes
    cluster: Cluster
    things: int
    """How many follow, of all kinds."""


class Page(Struct, frozen=True, array_like=True):
    kind: str
    things: list[msgspec.Raw]


class Snapshot:
    """The state at one moment: capturing copies pointers only, `chunks` may run later and on another thread."""

    def __init__(self, tables: Tables, digest: bytes) -> None:
        self._things: dict[str, list[Thing]] = {
            "Server": list(tables.servers.values()),
            "Deployment": list(tables.deployments.values()),
            "Node": list(tables.nodes.values()),
            "Pod": list(tables.pods.values()),
            "Token": list(tables.tokens.values()),
            "Removal": list(tables.removals.values()),
            "Change": list(tables.history.values()),
        }
        count = sum(len(things) for things in self._things.values())
        format = 1 if tables.cluster.schema_version == 1 else FORMAT
        self._header = Header(format=format, index=tables.index, digest=digest, cluster=tables.cluster, things=count)

    def chunks(self) -> Iterator[bytes]:
        yield _ENCODER.encode(self._header)
        for kind, things in self._things.items():
            key = attrgetter(_KEYS.get(kind, "name"))
            page: list[msgspec.Raw] = []
            size = 0
            for thing in sorted(things, key=key):
                encoded = _ENCODER.encode(thing)
                if page and (len(page) == PAGE_THINGS or size + len(encoded) > PAGE_BYTES):
                    yield _ENCODER.encode(Page(kind, page))
                    page, size = [], 0
                page.append(msgspec.Raw(encoded))
                size += len(encoded)
            if page:
                yield _ENCODER.encode(Page(kind, page))


def read_snapshot(index: int, chunks: Iterable[bytes]) -> tuple[Tables, bytes]:
    """The tables and digest of a snapshot. Raises ValueError unless it is whole, readable and of `index`."""
    pages = iter(chunks)
    try:
        header = _header(next(pages, b""))
        things = list(_sharing(_things(pages)))
    except msgspec.DecodeError as error:
        raise ValueError(f"the snapshot cannot be read: {error}") from error
    if header.index != index:
        raise ValueError(f"the snapshot is of index {header.index}, not {index}")
    if len(things) != header.things:
        raise ValueError(f"the snapshot holds {len(things)} things instead of {header.things}")
    tables = Tables()
    tables.absorb(index, [Put(header.cluster), *map(Put, things)])
    return tables, header.digest


def _header(chunk: bytes) -> Header:
    format = msgspec.msgpack.decode(chunk, type=_Format).format
    if not 1 <= format <= FORMAT:
        raise ValueError(f"the snapshot has format {format}, this version of Kago reads {FORMAT} at most: use the version that wrote it")
    header = msgspec.msgpack.decode(chunk, type=Header)
    if header.cluster.schema_version > SCHEMA_VERSION:
        raise ValueError(
            f"the snapshot is of schema {header.cluster.schema_version}, this version of Kago understands {SCHEMA_VERSION}: "
            "use the version that wrote it"
        )
    return header


def _sharing(things: Iterable[Thing]) -> Iterator[Thing]:
    """The same things; pods have in common again what those of one template are made of, which is most of the memory they take."""
    templates: dict[tuple[str, int], tuple[object, ...]] = {}
    names: dict[str, str] = {}
    for thing in things:
        if isinstance(thing, Pod):
            own = _template_of(thing)
            template = templates.setdefault((thing.deployment_name, thing.revision), own)
            if template == own:
                common = dict(zip(_COMMON, template, strict=True))
                if thing.node_name is not None:
                    common["node_name"] = names.setdefault(thing.node_name, thing.node_name)
                yield replace(thing, **common)
                continue
        yield thing


class _Format(Struct):
    """The one field of a header that every format has."""

    format: int


def _things(chunks: Iterable[bytes]) -> Iterator[Thing]:
    decoders = {kind: msgspec.msgpack.Decoder(type) for kind, type in _KINDS.items()}
    pages = msgspec.msgpack.Decoder(Page)
    for chunk in chunks:
        page = pages.decode(chunk)
        if page.kind not in decoders:
            raise ValueError(f"the snapshot holds things of the unknown kind {page.kind}")
        for thing in page.things:
            yield decoders[page.kind].decode(thing)
