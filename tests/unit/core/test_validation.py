"""What is refused in a spec and in a registration, each with the path of its field."""

from typing import Any

import pytest
from msgspec.structs import replace

from kago.core.model.deployment import DeploymentSpec, RollingUpdate, Runtime
from kago.core.model.resources import Resources
from kago.core.model.validation import MAX_COMMAND_BYTES, check_registration, check_spec
from tests.unit.core.stage import registration

GOOD = DeploymentSpec(name="web", image="nginx:alpine")
DIGEST = "@sha256:" + "a" * 64


def pointers(**fields: Any) -> list[str]:
    return sorted({error.pointer for error in check_spec(replace(GOOD, **fields))})


@pytest.mark.parametrize("image", [
    "nginx", "nginx:alpine", "library/nginx", "docker.io/library/nginx:1.27", "localhost/x", "localhost:5000/x/y", "ghcr.io/a/b" + DIGEST,
    "registry.example.com:443/team/my_app__x:v1.0-rc.1" + DIGEST, "[::1]:5000/x", "a/b/c/d", "x:" + "t" * 128, "UPPER.example.com/x",
])
def test_images(image: str) -> None:
    assert pointers(image=image) == []


@pytest.mark.parametrize("image", [
    "", "Nginx", "Team/nginx", "nginx:", "nginx latest", "nginx;rm -rf", "$(id)", "`id`", "nginx|x", "a" * 256, "nginx@sha256:abc",
    "/nginx", "nginx/", "a//b", "-nginx", "nginx:t\n", "nginx:" + "t" * 129, "ngïnx", "../x", "http://x/y", "x@md5:" + "a" * 64,
    "nginx\x00", "a..b", "a___b",
])
def test_images_refused(image: str) -> None:
    assert pointers(image=image) == ["/image"]


@pytest.mark.parametrize("name", ["a", "A1", "web-1", "web.example_x", "a" * 63, "1"])
def test_names(name: str) -> None:
    assert pointers(name=name) == []


# The last one begins in Cyrillic.
@pytest.mark.parametrize("name", ["", "-x", ".x", "_x", "a" * 64, "wéb", "a b", "a/b", "a\n", "web\x00", "аbc"])
def test_names_refused(name: str) -> None:
    assert pointers(name=name) == ["/name"]


@pytest.mark.parametrize(("fields", "pointer"), [
    ({"replicas": -1}, "/replicas"),
    ({"replicas": 10_001}, "/replicas"),
    ({"resources": Resources(cpu_millis=0)}, "/resources/cpu_millis"),
    ({"resources": Resources(cpu_millis=-1)}, "/resources/cpu_millis"),
    ({"resources": Resources(cpu_millis=10**18)}, "/resources/cpu_millis"),
    ({"resources": Resources(memory_mb=0)}, "/resources/memory_mb"),
    ({"stop_grace_s": -1.0}, "/stop_grace_s"),
    ({"stop_grace_s": float("nan")}, "/stop_grace_s"),
    ({"stop_grace_s": float("inf")}, "/stop_grace_s"),
    ({"rolling_update": RollingUpdate(max_surge=0, max_unavailable=0)}, "/rolling_update"),
    ({"rolling_update": RollingUpdate(max_surge=-1)}, "/rolling_update/max_surge"),
    ({"rolling_update": RollingUpdate(max_unavailable=-1)}, "/rolling_update/max_unavailable"),
    ({"rolling_update": RollingUpdate(min_ready_s=float("nan"))}, "/rolling_update/min_ready_s"),
    ({"env": {"": "x"}}, "/env/"),
    ({"env": {"A=B": "x"}}, "/env/A=B"),
    ({"env": {"A/~": "\x00"}}, "/env/A~1~0"),
    ({"env": {"A\n": "x"}}, r"/env/A\u000a"),
    ({"env": {"A": "\ud800"}}, "/env/A"),
    ({"env": {"\ud800": "A"}}, r"/env/\ud800"),
    ({"command": ("",)}, "/command/0"),
    ({"command": ("sh", "-c", "a\x00b")}, "/command/2"),
    ({"args": ("x" * (MAX_COMMAND_BYTES // 2),) * 3}, "/command"),
    ({"labels": {"kago.pod": "x"}}, "/labels/kago.pod"),
    ({"labels": {"": "x"}}, "/labels/"),
    ({"labels": {"a b": "x"}}, "/labels/a b"),
    ({"labels": {"a": "x" * 256}}, "/labels/a"),
    ({"labels": {"a": "x\ny"}}, "/labels/a"),
    ({"labels": {f"l{n}": "" for n in range(65)}}, "/labels"),
    ({"node_selector": {"a!": "x"}}, "/node_selector/a!"),
    ({"env": {f"E{n}": "x" * 1000 for n in range(70)}}, ""),
    ({"runtime": Runtime.PROCESS}, "/command"),
    ({"runtime": Runtime.PROCESS, "image": ""}, "/command"),
    ({"runtime": Runtime.DOCKER, "image": "", "command": ("x",)}, "/image"),
])
def test_refused(fields: dict[str, Any], pointer: str) -> None:
    assert pointers(**fields) == [pointer]


@pytest.mark.parametrize("fields", [
    {"replicas": 0},
    {"replicas": 10_000},
    {"runtime": Runtime.PROCESS, "image": "", "command": ("sleep", "1")},
    {"env": {"SCRIPT": "first\n\tsecond\r\n", "EMPTY": "", "ÄÖ": "漢字"}},
    {"command": ("sh", "-c", "a\nb"), "args": ("",)},
    {"rolling_update": RollingUpdate(max_surge=0, max_unavailable=1, min_ready_s=0)},
    {"labels": {"example.com/team": "red, green & blue"}},
    {"stop_grace_s": 0},
])
def test_taken(fields: dict[str, Any]) -> None:
    assert pointers(**fields) == []


def test_every_error_is_named() -> None:
    assert pointers(name="", image="", replicas=-1) == ["/image", "/name", "/replicas"]


@pytest.mark.parametrize(("fields", "pointer"), [
    ({"name": "-n"}, "/name"),
    ({"id": ""}, "/id"),
    ({"id": "a b"}, "/id"),
    ({"incarnation": -1}, "/incarnation"),
    ({"incarnation": 2**60}, "/incarnation"),
    ({"address": ""}, "/address"),
    ({"address": "a b"}, "/address"),
    ({"port": 0}, "/port"),
    ({"port": 65536}, "/port"),
    ({"capacity": Resources(cpu_millis=0)}, "/capacity/cpu_millis"),
    ({"capacity": Resources(memory_mb=-1)}, "/capacity/memory_mb"),
    ({"capacity": Resources(memory_mb=10**18)}, "/capacity/memory_mb"),
    ({"labels": {"kago.x": ""}}, "/labels/kago.x"),
    ({"agent_version": "x" * 64}, "/agent_version"),
])
def test_registrations_refused(fields: dict[str, Any], pointer: str) -> None:
    assert [error.pointer for error in check_registration(replace(registration("n1"), **fields))] == [pointer]


@pytest.mark.parametrize("address", ["host", "10.0.0.1", "[fe80::1%eth0]", "::1", "a.b-c.example"])
def test_registrations_taken(address: str) -> None:
    assert check_registration(replace(registration("n1"), address=address)) == ()
