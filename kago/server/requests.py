"""Reading requests strictly: JSON without duplicates, specs without unknown fields, parameters without guesses.

What is wrong is said with the place where it is and, for a misspelt name, the one that was probably meant.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from sanic import Request

from kago.core.model.deployment import Deployment, DeploymentSpec, RollingUpdate
from kago.core.model.quantity import parse_whole
from kago.core.model.resources import Resources
from kago.core.model.validation import FieldError
from kago.core.state.changes import Thing
from kago.server.feed import OF_NODE
from kago.server.problems import Refused

T = TypeVar("T")
MAX_INTEGER = 2**63 - 1
PARAMETERS = frozenset(
    {"stale", "min_index", "watch", "index", "selector", "deployment_name", "node_name", "status", "name", "dry_run", "force", "since"}
)
_KNOWN = sorted({*DeploymentSpec.__struct_fields__, *Resources.__struct_fields__, *RollingUpdate.__struct_fields__})
_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]*)`")
_STEP = re.compile(r"[^.\[\]]+")
_PATH = re.compile(r" - at `(?:key in )?\$([^`]*)`$")


def read_json(request: Request) -> dict[str, Any]:
    """The body as a JSON object. Refused: 415, 400."""
    declared = (request.headers.get("content-type") or "").partition(";")[0].strip().lower()
    if declared != "application/json" and not declared.endswith("+json"):
        said = f"it says {declared!r}" if declared else "it says nothing"
        raise Refused(
            415,
            "unsupported-media-type",
            f"the body must be JSON and say so; {said}. With curl: -H 'Content-Type: application/json'",
            headers={"accept": "application/json"},
        )
    return parse_json(request.body)


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object, as strict as the RFC allows. Refused (400)."""
    try:
        value = _STRICT.decode(body.decode("utf-8"))
        msgspec.json.encode(value)
    except json.JSONDecodeError as error:
        raise _syntax(f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise _syntax(f"not valid Unicode text: {error.reason}") from None
    except RecursionError:
        raise _syntax("nested too deeply") from None
    except ValueError as error:
        raise _syntax(str(error)) from None
    if not isinstance(value, dict):
        raise _syntax(f"a JSON object is expected, not {type(value).__name__}")
    return value


def convert(value: object, kind: type[T]) -> T:
    """`value` as a `kind`. Refused (422) with the path of the field."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None


def check_parameters(request: Request) -> None:
    """A misspelt parameter must not pass for one that was left out. Refused (400)."""
    for name in request.get_args(keep_blank_values=True):
        if name not in PARAMETERS:
            near = _meant(name, sorted(PARAMETERS))
            raise _syntax(f"there is no parameter {name!r}" + (f"; did you mean {near!r}?" if near else ""))


def parameter(request: Request, name: str) -> str | None:
    text: str | None = request.get_args(keep_blank_values=True).get(name)
    return text


def flag(request: Request, name: str) -> bool:
    """A yes/no parameter; naming it alone is a yes. Refused (400)."""
    text = parameter(request, name)
    if text is None or text in ("false", "0", "no"):
        return False
    if text in ("", "true", "1", "yes"):
        return True
    raise _syntax(f"parameter {name} is true or false, not {text!r}")


def number(request: Request, name: str) -> int | None:
    """A parameter that is a log index; `index` may also come as the Last-Event-ID of an event stream. Refused (400)."""
    text = parameter(request, name)
    if text is None and name == "index":
        text = request.headers.get("last-event-id")
    if text is None:
        return None
    found = parse_whole(text)
    if found is None or found > MAX_INTEGER:
        raise _syntax(f"parameter {name} is a whole number from 0 to {MAX_INTEGER}, not {text[:40]!r}")
    return found


def everything(thing: Thing) -> bool:
    """The filter of whoever asks for no less."""
    return True


def selected(request: Request) -> Callable[[Thing], bool]:
    """The filter that a list's or watch's parameters ask for. Refused (400)."""
    tests: list[Callable[[Any], bool]] = []
    for name in ("deployment_name", "node_name", "status", "name"):
        wanted = parameter(request, name)
        if wanted:
            tests.append(_equals(name, wanted))
    for pair in (parameter(request, "selector") or "").split(","):
        if pair.strip():
            key, equals, wanted = pair.partition("=")
            if not equals or not key.strip("! "):
                raise _syntax(f"selector {pair!r} is not key=value or key!=value")
            tests.append(_labelled(key.strip(), wanted.removeprefix("=").strip()))
    if not tests:
        return everything
    return lambda thing: all(test(thing) for test in tests)


def _equals(field: str, wanted: str) -> Callable[[Any], bool]:
    return lambda thing: getattr(thing, field, None) == wanted


def _labelled(key: str, wanted: str) -> Callable[[Any], bool]:
    if key.endswith("!"):
        return lambda thing: thing.labels.get(key[:-1].rstrip()) != wanted
    return lambda thing: thing.labels.get(key) == wanted


def topic_of(request: Request, kind: str) -> str:
    """The narrowest feed topic that holds what a watch asks for."""
    if kind == "pods":
        if node := parameter(request, "node_name"):
            return f"{OF_NODE}{node}"
        if deployment := parameter(request, "deployment_name"):
            return f"pods/deployment/{deployment}"
    return kind


def fingerprint(request: Request) -> str:
    """Of a body sent under an Idempotency-Key; empty where there is no key."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return ""
    if not 1 <= len(key) <= 255:
        raise _syntax("an Idempotency-Key has 1 to 255 characters")
    return hashlib.blake2b(request.body, digest_size=12).hexdigest()


def if_match(request: Request, version: Callable[[str], int | None]) -> int | None:
    """The version an If-Match header asks for; None without one or for `*`. Refused (412) where it can never match."""
    text = request.headers.get("if-match")
    if text is None or text.strip() == "*":
        return None
    wanted = version(text.strip().strip('"'))
    if wanted is None:
        raise Refused(412, "precondition-failed", f"If-Match {text} is no ETag of this server's")
    return wanted


def require_match(request: Request, thing: Thing) -> None:
    """If-Match of things that people only delete, whose commands carry no version. Refused (412)."""
    wanted = if_match(request, spec_version)
    if wanted is not None and wanted != thing.version:
        raise Refused(412, "precondition-failed", f"it is at version {thing.version} by now, not {wanted}")


def spec_version(tag: str) -> int | None:
    """The part of a deployment's ETag that says what its user wants: `S.V` or `S`."""
    return parse_whole(tag.partition(".")[0])


def etag(thing: Thing) -> str:
    """Of a deployment `"<spec_version>.<version>"`: what moves by itself never makes a user's update fail."""
    if isinstance(thing, Deployment):
        return f'"{thing.spec_version}.{thing.version}"'
    return f'"{thing.version}"'


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice in one object")
        found[key] = value
    return found


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _bounded(text: str) -> int:
    if len(text) > 19 or abs(int(text)) > MAX_INTEGER:
        raise ValueError(f"the number {text[:24]} is too large")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:24]} is too large")
    return value


_STRICT = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_int=_bounded, parse_float=_finite)


def _meant(name: str, known: list[str]) -> str:
    """The known name that `name` was probably meant to be: `cpu` for cpu_millis, `replics` for replicas."""
    begun = [other for other in known if len(name) > 2 and other.startswith(name)]
    return next(iter(begun or difflib.get_close_matches(name, known, n=1)), "")


def _syntax(detail: str) -> Refused:
    return Refused(400, "bad-request", detail)


def _invalid(message: str) -> Refused:
    """msgspec's words, with a JSON pointer instead of its own path."""
    place = _PATH.search(message)
    path = place.group(1) if place else ""
    detail = message[: place.start()] if place else message
    # `[...]` stands for a key that is not told: the pointer ends before it.
    pointer = "".join(f"/{step}" for step in _STEP.findall(path.partition("[...]")[0]))
    unknown = _UNKNOWN_FIELD.search(detail)
    if unknown:
        name = unknown.group(1)
        near = _meant(name, _KNOWN)
        detail = f"there is no field {name!r}" + (f"; did you mean {near!r}?" if near else "")
        pointer = f"{pointer}/{name}"
    detail = detail[:1].lower() + detail[1:] if not unknown else detail
    where = f"{pointer}: " if pointer else ""
    return Refused(422, "validation", f"{where}{detail}", errors=(FieldError(pointer=pointer, detail=detail),))
