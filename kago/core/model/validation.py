"""What makes a spec wrong beyond its types: limits, names and combinations, each error with the path of its field."""

import re
from collections.abc import Callable, Iterator
from operator import attrgetter

import msgspec
from msgspec import Struct

from kago.core.model.deployment import SPEC_FIELDS, DeploymentSpec, RollingUpdate, Runtime
from kago.core.model.report import Registration
from kago.core.model.resources import Resources

MAX_NAME = 63
MAX_REPLICAS = 10_000
MAX_CPU_MILLIS = 1_000_000
MAX_MEMORY_MB = 64 * 1024 * 1024
MAX_IMAGE = 255
MAX_COMMAND_BYTES = 32 * 1024
"""Of command and args together."""
MAX_LABELS = 64
MAX_LABEL_VALUE = 255
MAX_SECONDS = 3600.0
MAX_SPEC_BYTES = 64 * 1024
"""Of the whole spec as it stands in the log; every pod carries a copy of its template."""
MAX_INCARNATION = 2**53

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_LABEL_KEY = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_./-]*[a-zA-Z0-9])?")
_TOKEN = re.compile(r"[a-zA-Z0-9_.:-]+")
_ADDRESS = re.compile(r"[a-zA-Z0-9_.:%\[\]-]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_CONTROL_IN_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""Values of variables and arguments are often short scripts: tabs and line ends are welcome there."""
# The grammar of github.com/distribution/reference: [host[:port]/]path[:tag][@digest].
_PATH_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]{1,5})?|\[[0-9a-fA-F:]+\](?::[0-9]{1,5})?)"
_TAG = r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}"
_IMAGE = re.compile(rf"(?:(?P<host>{_HOST})/)?{_PATH_PART}(?:/{_PATH_PART})*(?::{_TAG})?(?:@sha256:[a-f0-9]{{64}})?")


class FieldError(Struct, frozen=True, kw_only=True):
    pointer: str
    """JSON pointer of the offending field, e.g. /resources/cpu_millis."""
    detail: str


def check_spec(spec: DeploymentSpec, *, known: DeploymentSpec | None = None) -> tuple[FieldError, ...]:
    """Everything wrong with a spec whose types are right; empty when it may be taken. What it shares with `known` was taken before."""
    errors = [error for fields, check in _CHECKS if known is None or fields(spec) != fields(known) for error in check(spec)]
    # Text that cannot be encoded is among the errors already, so the size is asked for only where it can be told.
    return tuple(errors) or tuple(_check_size(spec))


def check_registration(registration: Registration) -> tuple[FieldError, ...]:
    """Everything wrong with what an agent says of its node."""
    return (
        *check_node_name(registration.name),
        *_check_pattern("/id", registration.id, _TOKEN, MAX_LABEL_VALUE),
        *_check_range("/incarnation", registration.incarnation, 0, MAX_INCARNATION),
        *_check_pattern("/address", registration.address, _ADDRESS, MAX_LABEL_VALUE),
        *_check_range("/port", registration.port, 1, 65535),
        *_check_resources("/capacity", registration.capacity),
        *_check_labels("/labels", registration.labels),
        *_check_text("/agent_version", registration.agent_version, limit=MAX_NAME),
    )


def check_node_name(name: str) -> Iterator[FieldError]:
    """What is wrong with a node's name."""
    yield from _check_name("/name", name)
    if name == "register":
        yield FieldError(pointer="/name", detail="/nodes/register is where agents register; choose another name")


def _check_name(pointer: str, name: str) -> Iterator[FieldError]:
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME:
        yield FieldError(
            pointer=pointer, detail=f"must be 1 to {MAX_NAME} letters, digits, dots, dashes and underscores, the first a letter or digit"
        )


def _check_range(pointer: str, value: float, least: float, most: float) -> Iterator[FieldError]:
    # Not `value < least or value > most`: that would let NaN pass.
    if not least <= value <= most:
        yield FieldError(pointer=pointer, detail=f"must be between {least:g} and {most:.10g}, not {value}")


def _check_resources(pointer: str, resources: Resources) -> Iterator[FieldError]:
    yield from _check_range(f"{pointer}/cpu_millis", resources.cpu_millis, 1, MAX_CPU_MILLIS)
    yield from _check_range(f"{pointer}/memory_mb", resources.memory_mb, 1, MAX_MEMORY_MB)


def _check_program(spec: DeploymentSpec) -> Iterator[FieldError]:
    if spec.image or spec.runtime is not Runtime.PROCESS:
        yield from _check_image(spec.image)
    if spec.runtime is Runtime.PROCESS and not spec.command:
        yield FieldError(pointer="/command", detail="is required where runtime is process")
    for field, words in (("command", spec.command), ("args", spec.args)):
        for n, word in enumerate(words):
            yield from _check_text(f"/{field}/{n}", word, limit=MAX_COMMAND_BYTES, lines=True)
    if spec.command and not spec.command[0]:
        yield FieldError(pointer="/command/0", detail="must not be empty")
    if sum(len(word) + 1 for word in (*spec.command, *spec.args)) > MAX_COMMAND_BYTES:
        yield FieldError(pointer="/command", detail=f"must not be longer than {MAX_COMMAND_BYTES} bytes, args included")


def _check_image(image: str) -> Iterator[FieldError]:
    if not image:
        yield FieldError(pointer="/image", detail="is required unless runtime is process")
    elif len(image) > MAX_IMAGE:
        yield FieldError(pointer="/image", detail=f"must not be longer than {MAX_IMAGE} characters")
    elif not (match := _IMAGE.fullmatch(image)) or not _is_host(match["host"]):
        yield FieldError(pointer="/image", detail="is not an image reference ([host[:port]/]name[:tag][@sha256:…], the name in lower case)")


def _is_host(host: str | None) -> bool:
    """Whether what stands before the first slash is a registry, or else a part of a name: Docker tells them apart by these marks."""
    return host is None or host == "localhost" or any(mark in host for mark in ".:[") or re.fullmatch(_PATH_PART, host) is not None


def _check_env(env: dict[str, str]) -> Iterator[FieldError]:
    for name, value in env.items():
        wrong = [] if name and "=" not in name else ["a variable's name must not be empty and must not hold ="]
        wrong += [*_wrong_text(name, limit=MAX_LABEL_VALUE), *_wrong_text(value, limit=MAX_SPEC_BYTES, lines=True)]
        yield from (FieldError(pointer=f"/env/{_escaped(name)}", detail=detail) for detail in wrong)


def _check_labels(pointer: str, labels: dict[str, str]) -> Iterator[FieldError]:
    if len(labels) > MAX_LABELS:
        yield FieldError(pointer=pointer, detail=f"must not be more than {MAX_LABELS}")
    for key, value in labels.items():
        wrong = [*_wrong_text(value, limit=MAX_LABEL_VALUE)]
        if key.startswith("kago."):
            wrong.insert(0, "keys that begin with kago. are Kago's own")
        elif not _LABEL_KEY.fullmatch(key) or len(key) > MAX_NAME:
            wrong.insert(0, f"a key must be 1 to {MAX_NAME} letters, digits, dots, dashes, underscores and slashes")
        yield from (FieldError(pointer=f"{pointer}/{_escaped(key)}", detail=detail) for detail in wrong)


def _check_rolling_update(rolling: RollingUpdate) -> Iterator[FieldError]:
    yield from _check_range("/rolling_update/max_surge", rolling.max_surge, 0, MAX_REPLICAS)
    yield from _check_range("/rolling_update/max_unavailable", rolling.max_unavailable, 0, MAX_REPLICAS)
    yield from _check_range("/rolling_update/min_ready_s", rolling.min_ready_s, 0, MAX_SECONDS)
    if rolling.max_surge == 0 and rolling.max_unavailable == 0:
        yield FieldError(pointer="/rolling_update", detail="max_surge and max_unavailable must not both be 0: no update could move")


def _check_pattern(pointer: str, text: str, pattern: re.Pattern[str], limit: int) -> Iterator[FieldError]:
    if not pattern.fullmatch(text) or len(text) > limit:
        yield FieldError(pointer=pointer, detail=f"must be 1 to {limit} characters of {pattern.pattern}")


def _check_text(pointer: str, text: str, *, limit: int, lines: bool = False) -> Iterator[FieldError]:
    return (FieldError(pointer=pointer, detail=detail) for detail in _wrong_text(text, limit=limit, lines=lines))


def _wrong_text(text: str, *, limit: int, lines: bool = False) -> Iterator[str]:
    if len(text) > limit:
        yield f"must not be longer than {limit} characters"
    if text.isprintable():
        return  # Nearly all are, and it is told without looking for each fault by itself.
    if (_CONTROL_IN_TEXT if lines else _CONTROL).search(text):
        yield "must not hold control characters"
    if _SURROGATE.search(text):
        yield "is not valid Unicode"


def _check_size(spec: DeploymentSpec) -> Iterator[FieldError]:
    if len(msgspec.msgpack.encode(spec)) <= MAX_SPEC_BYTES:
        return  # Of a deployment that is more than the spec, and is told at once.
    size = len(msgspec.msgpack.encode({name: getattr(spec, name) for name in SPEC_FIELDS}))
    if size > MAX_SPEC_BYTES:
        yield FieldError(pointer="", detail=f"the spec is {size} bytes long, at most {MAX_SPEC_BYTES} are taken")


_CHECKS: tuple[tuple[Callable[[DeploymentSpec], object], Callable[[DeploymentSpec], Iterator[FieldError]]], ...] = (
    (attrgetter("name"), lambda spec: _check_name("/name", spec.name)),
    (attrgetter("replicas"), lambda spec: _check_range("/replicas", spec.replicas, 0, MAX_REPLICAS)),
    (attrgetter("runtime", "image", "command", "args"), _check_program),
    (attrgetter("resources"), lambda spec: _check_resources("/resources", spec.resources)),
    (attrgetter("env"), lambda spec: _check_env(spec.env)),
    (attrgetter("labels"), lambda spec: _check_labels("/labels", spec.labels)),
    (attrgetter("node_selector"), lambda spec: _check_labels("/node_selector", spec.node_selector)),
    (attrgetter("stop_grace_s"), lambda spec: _check_range("/stop_grace_s", spec.stop_grace_s, 0, MAX_SECONDS)),
    (attrgetter("rolling_update"), lambda spec: _check_rolling_update(spec.rolling_update)),
)
"""What is looked at together, and how."""


def _escaped(key: str) -> str:
    """`key` as one part of a JSON pointer, short and printable whatever it holds."""
    key = key[:MAX_NAME].replace("~", "~0").replace("/", "~1")
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", key)
