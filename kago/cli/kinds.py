"""The kinds a user can name, and how: `pods`, `pod/web-1`, `deploy web api`."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from kago.cli.failures import Code, VerbFailed
from kago.cli.tables import DEPLOYMENTS, NODES, PODS, Table
from kago.core.model.deployment import Deployment
from kago.core.model.node import Node
from kago.core.model.pod import Pod

Thing = Deployment | Pod | Node
ThingType = type[Deployment] | type[Pod] | type[Node]


class Kind(Struct, frozen=True, kw_only=True):
    singular: str
    plural: str
    short: str
    type: ThingType
    table: Table


DEPLOYMENT = Kind(singular="deployment", plural="deployments", short="deploy", type=Deployment, table=DEPLOYMENTS)
POD = Kind(singular="pod", plural="pods", short="po", type=Pod, table=PODS)
NODE = Kind(singular="node", plural="nodes", short="no", type=Node, table=NODES)
KINDS: Mapping[str, Kind] = {word: kind for kind in (DEPLOYMENT, POD, NODE) for word in (kind.plural, kind.singular, kind.short)}


def kind_of(word: str) -> Kind:
    """VerbFailed (usage) for a word that is none."""
    kind = KINDS.get(word.lower())
    if kind is None:
        raise VerbFailed(f"unknown type {word!r}; there are deployments (deploy), pods (po) and nodes (no)", Code.USAGE)
    return kind


def queried(words: Sequence[str]) -> list[tuple[Kind, tuple[str, ...]]]:
    """What `get` is asked for: kinds with the names wanted of them (none: all)."""
    if "/" in words[0]:
        named: dict[str, list[str]] = {}
        for word in words:
            kind, name = referenced(word)
            named.setdefault(kind.plural, []).append(name)
        return [(KINDS[plural], tuple(names)) for plural, names in named.items()]
    kinds = [kind_of(word) for word in words[0].split(",")]
    if len(kinds) > 1 and len(words) > 1:
        raise VerbFailed("several types and names do not go together; write TYPE/NAME for each", Code.USAGE)
    return [(kind, tuple(words[1:])) for kind in kinds]


def named(words: Sequence[str]) -> list[tuple[Kind, str]]:
    """What `delete` is asked for: NAME… (deployments), TYPE NAME… or TYPE/NAME…"""
    if len(words) > 1 and words[0].lower() in KINDS:
        kind = kind_of(words[0])
        return [(kind, word) for word in words[1:]]
    return [referenced(word) if "/" in word else (DEPLOYMENT, word) for word in words]


def referenced(word: str) -> tuple[Kind, str]:
    """TYPE/NAME."""
    type_word, _, name = word.partition("/")
    if not name:
        raise VerbFailed(f"{word!r} is not TYPE/NAME", Code.USAGE)
    return kind_of(type_word), name
