"""Manifests: from YAML or Jsonnet text to deployment specs, with every mistake named by file, line and path.

The only door to yaml. Documents are read as yaml's node tree, not as its finished values, because only the nodes still know
their lines, hold a key twice, and let aliases be counted before they are expanded.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import yaml
from msgspec import Struct

from kago.core.model.deployment import STRATEGY_ALIASES, DeploymentSpec, Network, PullPolicy, RollingUpdate, Runtime, Strategy
from kago.core.model.quantity import parse_cpu, parse_memory
from kago.core.model.resources import Resources
from kago.core.model.validation import check_spec

try:
    import _jsonnet
except ImportError:
    _jsonnet = None

MAX_BYTES = 1024 * 1024
MAX_VALUES = 20_000
"""Values in one file after its aliases are expanded: a short file can stand for billions (the "billion laughs")."""
MAX_DEPTH = 32
SUFFIXES = (".yml", ".yaml", ".json", ".jsonnet")
_TAG = "tag:yaml.org,2002:"
_TAGS = frozenset({"map", "seq", "str", "int", "float", "bool", "null", "timestamp", "value", "merge"})
NO_JSONNET = "reading Jsonnet needs the extra package; install it with: pip install 'kago[jsonnet]'"

Choice = TypeVar("Choice", bound=StrEnum)


class ManifestError(Exception):
    """Everything that is wrong, one line each: `file:line: path: what`."""

    def __init__(self, errors: Iterable[str]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(self.errors))


class Source(Struct, frozen=True, kw_only=True):
    """The text of one file, standard input or URL."""

    name: str
    text: str
    path: Path | None = None
    """Where it is a file: what Jsonnet's imports are relative to."""


class _Value(Struct, frozen=True):
    """A scalar, list or mapping that knows its line (0: unknown). `content` holds _Values again."""

    content: Any
    line: int
    raw: str = ""
    """A scalar as it was written."""


def open_sources(names: Iterable[str], *, stdin: Callable[[], str], fetch: Callable[[str], str]) -> tuple[Source, ...]:
    """The texts behind `-f` arguments: files, directories (their manifests, by name), `-`, http(s) URLs. OSError, ManifestError."""
    found: list[Source] = []
    for name in names:
        if name == "-":
            found.append(Source(name="-", text=stdin()))
        elif name.startswith(("http://", "https://")):
            found.append(Source(name=name, text=fetch(name)))
        elif Path(name).is_dir():
            files = sorted(file for file in Path(name).iterdir() if file.suffix in SUFFIXES and file.is_file())
            if not files:
                raise ManifestError([f"{name}: no manifest in this directory (looked for {', '.join('*' + s for s in SUFFIXES)})"])
            found.extend(_file(file) for file in files)
        else:
            found.append(_file(Path(name)))
    return tuple(found)


def read_manifests(sources: Iterable[Source]) -> tuple[DeploymentSpec, ...]:
    """The deployments of all sources in order. ManifestError with all that is wrong in any of them: nothing is used then."""
    specs: dict[str, DeploymentSpec] = {}
    errors: list[str] = []
    for source in sources:
        reader = _Reader(source.name, errors)
        for document in _documents(source, reader):
            spec = reader.deployment(document)
            if spec is None:
                continue
            if spec.name in specs:
                reader.wrong(document, "spec.name", f"{spec.name!r} is described more than once")
            specs[spec.name] = spec
    if not errors and not specs:
        errors.append("no deployment found: the files hold no document")
    if errors:
        raise ManifestError(errors)
    return tuple(specs.values())


def to_yaml(content: object) -> str:
    """For `-o yaml`."""
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=False)
    return text


# -- texts to documents ----------------------------------------------------------------------------------------------


def _file(path: Path) -> Source:
    if path.stat().st_size > MAX_BYTES:
        raise ManifestError([f"{path}: larger than {MAX_BYTES} bytes"])
    try:
        return Source(name=str(path), text=path.read_text(encoding="utf-8"), path=path)
    except UnicodeDecodeError as error:
        raise ManifestError([f"{path}: not UTF-8 text ({error.reason} at byte {error.start})"]) from None


def _documents(source: Source, reader: "_Reader") -> Iterator[_Value]:
    if source.name.endswith(".jsonnet"):
        yield from _jsonnet_documents(source, reader)
        return
    try:
        for node in yaml.compose_all(source.text, Loader=yaml.SafeLoader):
            if node is not None and not (isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")):
                yield _Expansion(reader).value(node, "", 0)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reader.errors.append(f"{source.name}:{mark.line + 1 if mark else 1}: not YAML: {error.problem or error.context}")
    except yaml.YAMLError as error:
        reader.errors.append(f"{source.name}: not YAML: {str(error).splitlines()[0]}")
    except RecursionError:
        reader.errors.append(f"{source.name}: nested too deeply")
    except _TooMuch as error:
        reader.errors.append(f"{source.name}:{error.line}: {error}")


def _jsonnet_documents(source: Source, reader: "_Reader") -> Iterator[_Value]:
    if _jsonnet is None:
        reader.errors.append(f"{source.name}: {NO_JSONNET}")
        return
    try:
        if source.path is not None:
            text = _jsonnet.evaluate_file(str(source.path))
        else:
            text = _jsonnet.evaluate_snippet(source.name, source.text)
    except RuntimeError as error:
        reader.errors.append(f"{source.name}: {' '.join(str(error).split())}")
        return
    content = json.loads(text)
    for item in content if isinstance(content, list) else [content]:
        yield _without_lines(item)


def _without_lines(content: object) -> _Value:
    if isinstance(content, dict):
        return _Value({str(key): _without_lines(item) for key, item in content.items()}, 0)
    if isinstance(content, list):
        return _Value([_without_lines(item) for item in content], 0)
    return _Value(content, 0, json.dumps(content))


class _TooMuch(Exception):
    def __init__(self, what: str, line: int) -> None:
        super().__init__(what)
        self.line = line


class _Expansion:
    """One document's nodes as _Values, counting."""

    def __init__(self, reader: "_Reader") -> None:
        self._reader = reader
        self._constructor = yaml.SafeLoader("")
        self._count = 0

    def value(self, node: yaml.Node, path: str, depth: int) -> _Value:
        line = node.start_mark.line + 1
        self._count += 1
        if self._count > MAX_VALUES:
            raise _TooMuch(f"more than {MAX_VALUES} values once aliases are expanded", line)
        if depth > MAX_DEPTH:
            raise _TooMuch(f"nested more than {MAX_DEPTH} deep", line)
        if node.tag.removeprefix(_TAG) not in _TAGS:
            self._reader.errors.append(f"{self._reader.source}:{line}: {path}: tag {node.tag} is not supported")
            return _Value(None, line)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return _Value([self.value(item, f"{path}[{n}]", depth + 1) for n, item in enumerate(node.value)], line)
        try:
            return _Value(self._constructor.construct_object(node), line, node.value)
        except (ValueError, yaml.YAMLError):
            return _Value(node.value, line, node.value)

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> _Value:
        line = node.start_mark.line + 1
        own: dict[str, _Value] = {}
        merged: dict[str, _Value] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            below = f"{path}.{key}" if path else key
            value = self.value(value_node, below, depth + 1)
            if key_node.tag.endswith(":merge"):
                parts = value.content if isinstance(value.content, list) else [value]
                for part in reversed([p for p in parts if isinstance(p.content, dict)]):
                    merged |= part.content
            elif key in own:
                self._reader.errors.append(f"{self._reader.source}:{key_node.start_mark.line + 1}: {below}: this key stands here twice")
            else:
                own[key] = _Value(value.content, key_node.start_mark.line + 1, value.raw)
        return _Value(merged | own, line)


# -- documents to specs ----------------------------------------------------------------------------------------------


class _Reader:
    """Reads fields by type; a wrong one is noted and read as its default, so that one run finds all mistakes."""

    def __init__(self, source: str, errors: list[str]) -> None:
        self.source = source
        self.errors = errors

    def wrong(self, value: _Value, path: str, what: str) -> None:
        self.errors.append(f"{self.source}:{value.line}: {path}: {what}" if value.line else f"{self.source}: {path}: {what}")

    def deployment(self, document: _Value) -> DeploymentSpec | None:
        before = len(self.errors)
        top = self._fields(document, "", ("kind", "spec"))
        if top is None:
            return None
        kind = top.get("kind")
        if kind is None:
            self.wrong(document, "kind", "missing; wanted `kind: Deployment`")
        elif kind.content != "Deployment":
            self.wrong(kind, "kind", f"unknown kind {kind.content!r}; the one there is: Deployment")
        if "spec" not in top:
            self.wrong(document, "spec", "missing")
        if len(self.errors) > before:
            return None
        spec_value = top["spec"]
        found = self._fields(spec_value, "spec", tuple(_FIELDS))
        if found is None:
            return None
        if "name" not in found:
            self.wrong(spec_value, "spec.name", "missing")
        values = {name: _FIELDS[name](self, value, f"spec.{name}") for name, value in found.items()}
        if len(self.errors) > before:
            return None
        spec = DeploymentSpec(**values)
        for error in check_spec(spec):
            names = [_WRITTEN.get(part, part) for part in error.pointer.strip("/").split("/")]
            self.wrong(_nearest(spec_value, names), ".".join(["spec", *names]), error.detail)
        return spec if len(self.errors) == before else None

    def _fields(self, value: _Value, path: str, known: tuple[str, ...]) -> dict[str, _Value] | None:
        if not isinstance(value.content, dict):
            self.wrong(value, path or "document", f"wanted fields ({', '.join(known[:4])}…), got {_kind_of(value)}")
            return None
        for name, item in value.content.items():
            if name not in known:
                near = get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
                self.wrong(item, f"{path}.{name}" if path else name, f"unknown field; {hint}")
        return {name: item for name, item in value.content.items() if name in known and item.content is not None}

    def text(self, value: _Value, path: str) -> str:
        if isinstance(value.content, str):
            return value.content
        quote = f'; write "{value.raw}" in quotes' if value.raw else ""
        self.wrong(value, path, f"wanted a text, got {_kind_of(value)}{quote}")
        return ""

    def whole(self, value: _Value, path: str) -> int:
        if isinstance(value.content, int) and not isinstance(value.content, bool):
            return value.content
        if isinstance(value.content, float) and value.content.is_integer() and not value.line:  # Jsonnet knows no whole numbers
            return int(value.content)
        self.wrong(value, path, f"wanted a whole number, got {_kind_of(value)}")
        return 0

    def seconds(self, value: _Value, path: str) -> float:
        if isinstance(value.content, int | float) and not isinstance(value.content, bool):
            return float(value.content)
        self.wrong(value, path, f"wanted a number of seconds, got {_kind_of(value)}")
        return 0.0

    def texts(self, value: _Value, path: str) -> tuple[str, ...]:
        if not isinstance(value.content, list):
            self.wrong(value, path, f"wanted a list of texts, got {_kind_of(value)}")
            return ()
        return tuple(self._written(item, f"{path}[{n}]") for n, item in enumerate(value.content))

    def pairs(self, value: _Value, path: str) -> dict[str, str]:
        if not isinstance(value.content, dict):
            self.wrong(value, path, f"wanted pairs of name and text, got {_kind_of(value)}")
            return {}
        return {name: self._written(item, f"{path}.{name}") for name, item in value.content.items()}

    def _written(self, value: _Value, path: str) -> str:
        """A text, or a number exactly as it was written (`PORT: 8080`); yes, no and null must be quoted."""
        if isinstance(value.content, int | float) and not isinstance(value.content, bool):
            return value.raw
        return self.text(value, path)

    def choice(self, value: _Value, path: str, kind: type[Choice]) -> Choice:
        for option in kind:
            if value.content == option.value:
                return option
        options = [option.value for option in kind]
        near = get_close_matches(str(value.content), options, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        self.wrong(value, path, f"{value.raw or _kind_of(value)!r} is none of {', '.join(options)}{hint}")
        return next(iter(kind))

    def strategy(self, value: _Value, path: str) -> Strategy:
        if isinstance(value.content, str) and value.content in STRATEGY_ALIASES:
            return STRATEGY_ALIASES[value.content]
        return self.choice(value, path, Strategy)

    def resources(self, value: _Value, path: str) -> Resources:
        found = self._fields(value, path, ("cpu", "memory"))
        amounts = {}
        for name, field, parse in (("cpu", "cpu_millis", parse_cpu), ("memory", "memory_mb", parse_memory)):
            if found and name in found:
                try:
                    amounts[field] = parse(found[name].content)
                except (ValueError, TypeError) as error:
                    self.wrong(found[name], f"{path}.{name}", str(error))
        return Resources(**amounts)

    def rolling_update(self, value: _Value, path: str) -> RollingUpdate:
        found = self._fields(value, path, ("max_surge", "max_unavailable", "min_ready_s")) or {}
        read: dict[str, Any] = {
            name: (self.seconds if name == "min_ready_s" else self.whole)(item, f"{path}.{name}") for name, item in found.items()
        }
        return RollingUpdate(**read)


_FIELDS: dict[str, Callable[[_Reader, _Value, str], Any]] = {
    "name": _Reader.text,
    "image": _Reader.text,
    "replicas": _Reader.whole,
    "resources": _Reader.resources,
    "rolling_update": _Reader.rolling_update,
    "runtime": lambda reader, value, path: reader.choice(value, path, Runtime),
    "command": _Reader.texts,
    "args": _Reader.texts,
    "env": _Reader.pairs,
    "network": lambda reader, value, path: reader.choice(value, path, Network),
    "pull_policy": lambda reader, value, path: reader.choice(value, path, PullPolicy),
    "stop_grace_s": _Reader.seconds,
    "labels": _Reader.pairs,
    "node_selector": _Reader.pairs,
    "scheduler": _Reader.strategy,
}
"""How each field of a spec is read; a new field of DeploymentSpec needs its line here."""

_WRITTEN = {"cpu_millis": "cpu", "memory_mb": "memory"}
"""Field names of the model whose manifest name differs."""


def _nearest(value: _Value, names: list[str]) -> _Value:
    """The value at a path, or the last one on the way there."""
    for name in names:
        if not isinstance(value.content, dict) or name not in value.content:
            return value
        value = value.content[name]
    return value


def _kind_of(value: _Value) -> str:
    match value.content:
        case None:
            return "nothing"
        case dict():
            return "fields"
        case list():
            return "a list"
        case _:
            return f"{value.raw or value.content}"
