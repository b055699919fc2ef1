"""What the API says when it says no: status, name and words of each refusal, and bad JSON in particular."""

import msgspec
import pytest

from kago.core.model.deployment import DeploymentPatch, DeploymentSpec
from kago.core.model.validation import FieldError
from kago.core.state.rejections import Refusal, Rejection
from kago.server.problems import Refused, of_log_error, of_rejection
from kago.server.requests import convert, parse_json, spec_version
from raft.errors import Discarded, LogError, LogHalted, NoLeader, OutcomeUnknown, QueueFull, TooLarge


@pytest.mark.parametrize(
    ("error", "status", "name", "retry"),
    [
        (NoLeader("x"), 503, "no-leader", True),
        (Discarded("x"), 503, "no-leader", True),
        (OutcomeUnknown("x"), 503, "outcome-unknown", True),
        (QueueFull("x"), 429, "rate-limited", True),
        (TooLarge("x"), 413, "too-large", False),
        (LogHalted("x"), 503, "halted", True),
    ],
)
def test_what_the_log_could_not_do(error: LogError, status: int, name: str, retry: bool) -> None:
    refused = of_log_error(error)
    assert (refused.status, refused.name, "retry-after" in refused.headers) == (status, name, retry)
    document = refused.document("/deployments/web")
    assert document["type"] == f"urn:kago:problem:{name}"
    assert document["error"] == document["detail"]
    assert document["instance"] == "/deployments/web"


@pytest.mark.parametrize("refusal", Refusal)
def test_every_refusal_of_the_state_machine_has_a_status(refusal: Refusal) -> None:
    errors = (FieldError(pointer="/replicas", detail="too many"),)
    refused = of_rejection(Rejection(refusal=refusal, detail="because", errors=errors))
    assert 400 <= refused.status < 600 and refused.name == refusal.value
    if refusal is Refusal.VALIDATION:
        body = msgspec.json.decode(refused.body("/x"))
        assert body["status"] == 422
        assert body["errors"] == [{"pointer": "/replicas", "detail": "too many"}]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "line 1, column 1"),
        (b"{", "line 1, column 2"),
        (b'{"a":1,"a":2}', "'a' stands twice"),
        (b'{"a":{"b":1,"b":2}}', "'b' stands twice"),
        (b'{"a":NaN}', "NaN is no JSON number"),
        (b'{"a":-Infinity}', "-Infinity is no JSON number"),
        (b'{"a":1e400}', "1e400 is too large"),
        (b'{"a":99999999999999999999}', "too large"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"a":"\xff"}', "not valid"),
        (b'{"a":"\\ud800"}', "not valid"),
        (b"[]", "a JSON object is expected"),
        (b'"x"', "a JSON object is expected"),
        (b"null", "a JSON object is expected"),
    ],
)
def test_bad_json_is_a_400_that_says_where(body: bytes, words: str) -> None:
    with pytest.raises(Refused) as caught:
        parse_json(body)
    assert caught.value.status == 400 and words in caught.value.detail


@pytest.mark.parametrize(
    ("value", "pointer", "words"),
    [
        ({"replcas": 2}, "/replcas", "did you mean 'replicas'?"),
        ({"resources": {"cpu": 1}}, "/resources/cpu", "there is no field 'cpu'"),
        ({"zzz": 1}, "/zzz", "there is no field 'zzz'"),
        ({"replicas": "two"}, "/replicas", "expected `int`"),
        ({"replicas": 1.5}, "/replicas", "expected `int`"),
        ({"replicas": True}, "/replicas", "expected `int`"),
        ({"args": ["a", 1]}, "/args/1", "expected `str`"),
        ({"env": {"A": 1}}, "/env", "expected `str`"),
        ({"runtime": "podman"}, "/runtime", "podman"),
        ({"rolling_update": {"max_surge": None}}, "/rolling_update/max_surge", "expected `int`"),
    ],
)
def test_a_wrong_field_is_a_422_with_its_pointer(value: object, pointer: str, words: str) -> None:
    with pytest.raises(Refused) as caught:
        convert(value, DeploymentPatch)
    assert caught.value.status == 422
    (error,) = caught.value.errors
    assert error.pointer == pointer and words in error.detail
    assert error.detail in caught.value.detail


def test_a_missing_field_is_named() -> None:
    with pytest.raises(Refused, match="name"):
        convert({}, DeploymentSpec)


@pytest.mark.parametrize(("tag", "version"), [("7.9", 7), ("7", 7), ("", None), ("v7", None), ("٣", None)])
def test_the_etag_of_a_deployment_holds_what_the_user_wants(tag: str, version: int | None) -> None:
    assert spec_version(tag) == version
