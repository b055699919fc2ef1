"""Manifests as users write them, well and badly."""

from pathlib import Path

import pytest

from kago.cli import manifest
from kago.cli.manifest import ManifestError, Source, open_sources, read_manifests
from kago.core.model.deployment import DeploymentSpec, Network, RollingUpdate, Runtime, Strategy
from kago.core.model.resources import Resources

EXAMPLES = Path(__file__).parents[3] / "examples"

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)


def read(text: str, name: str = "m.yml") -> tuple[DeploymentSpec, ...]:
    return read_manifests([Source(name=name, text=text)])


def errors_of(text: str, name: str = "m.yml") -> tuple[str, ...]:
    with pytest.raises(ManifestError) as caught:
        read(text, name)
    return caught.value.errors


def spec_of(fields: str) -> str:
    return "kind: Deployment\nspec:\n  name: web\n  image: nginx\n" + "".join(f"  {line}\n" for line in fields.splitlines())


def test_everything_a_spec_can_hold() -> None:
    (spec,) = read(
        spec_of(
            "replicas: 0\nresources: {cpu: 0.5, memory: 1Gi}\nrolling_update: {max_surge: 2, max_unavailable: 1}\nruntime: docker\n"
            "command: [sh, -c]\nargs: [sleep, 5]\nenv: {PORT: 08080, NAME: x}\nnetwork: host\nscheduler: spread\nlabels: {app: web}\n"
            "node_selector: {disk: ssd}\nstop_grace_s: 2.5"
        )
    )
    assert spec == DeploymentSpec(
        name="web",
        image="nginx",
        replicas=0,
        resources=Resources(cpu_millis=500, memory_mb=1024),
        rolling_update=RollingUpdate(max_surge=2, max_unavailable=1),
        command=("sh", "-c"),
        args=("sleep", "5"),
        env={"PORT": "08080", "NAME": "x"},
        network=Network.HOST,
        scheduler=Strategy.LEAST_ALLOCATED,
        labels={"app": "web"},
        node_selector={"disk": "ssd"},
        stop_grace_s=2.5,
    )


@pytest.mark.parametrize("kind", ["nginx", "multi"])
def test_examples_say_the_same_in_yaml_and_jsonnet(kind: str) -> None:
    pytest.importorskip("_jsonnet", reason="the jsonnet extra is not installed")
    sources = [open_sources([str(EXAMPLES / f"{kind}-deployment.{suffix}")], stdin=str, fetch=str) for suffix in ("yml", "jsonnet")]
    assert read_manifests(sources[0]) == read_manifests(sources[1])


def test_the_process_example_needs_no_image() -> None:
    (spec,) = read_manifests(open_sources([str(EXAMPLES / "process-deployment.yml")], stdin=str, fetch=str))
    assert (spec.runtime, spec.image) == (Runtime.PROCESS, "")


def test_every_mistake_is_named_with_file_line_and_path() -> None:
    text = spec_of("replcas: 3\nreplicas: -1\nresources:\n  cpu: lots\n  memory: 128Mi\nimage: httpd\nnetwork: bridged")
    assert errors_of(text) == (
        "m.yml:10: spec.image: this key stands here twice",
        "m.yml:5: spec.replcas: unknown field; did you mean 'replicas'?",
        "m.yml:8: spec.resources.cpu: 'lots' is not an amount of CPU: write 100m, 0.5 or a number of millicores",
        "m.yml:11: spec.network: 'bridged' is none of bridge, host, none; did you mean 'bridge'?",
    )


def test_limits_of_the_model_are_named_with_their_line_too() -> None:
    (error,) = errors_of(spec_of("replicas: -1"))
    assert error.startswith("m.yml:5: spec.replicas: must be between 0 and")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "no deployment found: the files hold no document"),
        ("---\n---\n", "no deployment found: the files hold no document"),
        ("[1", "m.yml:1: not YAML: expected ',' or ']', but got '<stream end>'"),
        ("spec: {}", "m.yml:1: kind: missing; wanted `kind: Deployment`"),
        ("kind: Service\nspec: {}", "m.yml:1: kind: unknown kind 'Service'; the one there is: Deployment"),
        ("kind: Deployment\nspec: 5", "m.yml:2: spec: wanted fields (name, image, replicas, resources…), got 5"),
        ("kind: Deployment\nspec: {image: a}", "m.yml:2: spec.name: missing"),
        (spec_of("env: {A: yes}"), 'm.yml:5: spec.env.A: wanted a text, got yes; write "yes" in quotes'),
        (spec_of("replicas: 1.5"), "m.yml:5: spec.replicas: wanted a whole number, got 1.5"),
        (spec_of("args: !!python/name:os.system [1]"), "is not supported"),
        (LAUGHS, "more than 20000 values"),
        ("[" * 5000, None),
        ("&a [*a]", "nested more than 32 deep"),
    ],
)
def test_rubbish_is_an_error(text: str, error: str | None) -> None:
    errors = errors_of(text)
    assert errors
    if error is not None:
        assert any(error in line for line in errors), errors


def test_the_same_name_twice_in_what_is_applied_together() -> None:
    assert errors_of(spec_of("replicas: 1") + "---\n" + spec_of("replicas: 2")) == (
        "m.yml:7: spec.name: 'web' is described more than once",
    )


def test_merge_keys_and_anchors() -> None:
    (spec,) = read(spec_of("resources: &small {cpu: 50m, memory: 64}\nlabels: &l {a: b}\nnode_selector: {<<: *l, c: d}"))
    assert spec.resources == Resources(cpu_millis=50, memory_mb=64)
    assert spec.node_selector == {"a": "b", "c": "d"}


def test_directories_are_read_by_name_and_stdin_by_dash(tmp_path: Path) -> None:
    (tmp_path / "b.yml").write_text(spec_of("replicas: 1").replace("web", "b"))
    (tmp_path / "a.yaml").write_text(spec_of("replicas: 1").replace("web", "a"))
    (tmp_path / "notes.txt").write_text("not a manifest")
    sources = open_sources([str(tmp_path), "-", "http://x/m.yml"], stdin=lambda: spec_of(""), fetch=lambda url: f"fetched: {url}")
    assert [Path(source.name).name for source in sources] == ["a.yaml", "b.yml", "-", "m.yml"]
    assert [spec.name for spec in read_manifests(sources[:3])] == ["a", "b", "web"]


def test_jsonnet_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_jsonnet", None)
    assert errors_of("{}", "m.jsonnet") == (f"m.jsonnet: {manifest.NO_JSONNET}",)


def test_broken_jsonnet() -> None:
    pytest.importorskip("_jsonnet", reason="the jsonnet extra is not installed")
    (error,) = errors_of("{", "m.jsonnet")
    assert "m.jsonnet" in error
