"""What users type: types and names, peers and addresses, durations and counts."""

from pathlib import Path

import pytest

from kago.cli.change import scaled
from kago.cli.failures import VerbFailed
from kago.cli.kinds import DEPLOYMENT, NODE, POD, Kind, named, queried
from kago.cli.serving import membership, parse_labels, parse_strategy, raft_address, serve_config, split_address
from kago.cli.wait import parse_duration
from kago.core.model.deployment import Strategy


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("pods", [(POD, ())]),
        ("po a b", [(POD, ("a", "b"))]),
        ("deploy,no", [(DEPLOYMENT, ()), (NODE, ())]),
        ("pod/a deployment/web pod/b", [(POD, ("a", "b")), (DEPLOYMENT, ("web",))]),
    ],
)
def test_what_get_is_asked_for(words: str, wanted: list[tuple[Kind, tuple[str, ...]]]) -> None:
    assert queried(words.split()) == wanted


@pytest.mark.parametrize("words", ["podz", "pod/", "pods,nodes a", "pod/a web"])
def test_what_get_does_not_take(words: str) -> None:
    with pytest.raises(VerbFailed):
        queried(words.split())


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("web", [(DEPLOYMENT, "web")]),
        ("pods", [(DEPLOYMENT, "pods")]),
        ("web api", [(DEPLOYMENT, "web"), (DEPLOYMENT, "api")]),
        ("pods a b", [(POD, "a"), (POD, "b")]),
        ("node/n1 web", [(NODE, "n1"), (DEPLOYMENT, "web")]),
    ],
)
def test_what_delete_is_asked_for(words: str, wanted: list[tuple[Kind, str]]) -> None:
    assert named(words.split()) == wanted


@pytest.mark.parametrize(
    ("words", "replicas", "wanted"),
    [
        ("web 5", None, (["web"], 5)),
        ("deployment/web", 5, (["web"], 5)),
        ("deployment web api 0", None, (["web", "api"], 0)),
        ("deploy 3", None, (["deploy"], 3)),
    ],
)
def test_scale(words: str, replicas: int | None, wanted: tuple[list[str], int]) -> None:
    assert scaled(words.split(), replicas) == wanted


@pytest.mark.parametrize("words", ["web", "pod/a 3", "web -1", "5"])
def test_scale_refuses(words: str) -> None:
    with pytest.raises(VerbFailed):
        scaled(words.split(), None)


@pytest.mark.parametrize(("text", "seconds"), [("5m", 300.0), ("30s", 30.0), ("30", 30.0), ("1h30m", 5400.0), ("0.5s", 0.5), ("0", None)])
def test_durations(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "5x", "-1"])
def test_no_durations(text: str) -> None:
    with pytest.raises(VerbFailed):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("a", ("a", None)), ("a:1", ("a", 1)), ("[::1]:7", ("::1", 7)), ("::1", ("::1", None)), ("[::1]", ("::1", None))],
)
def test_addresses(text: str, wanted: tuple[str, int | None]) -> None:
    assert split_address(text) == wanted


@pytest.mark.parametrize("text", ["", ":80", "a:x", "a:0", "a:70000"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(VerbFailed):
        split_address(text)


def only(host: str) -> bool:
    return host == "b"


def test_the_peer_with_an_own_address_is_this_server() -> None:
    assert membership("a,b,c:9", "", api_port=8080, is_own=only) == ("b:7080", ("a:7080", "b:7080", "c:9"))


def test_an_address_says_which_peer_is_meant() -> None:
    assert membership("x:1,x:2", "x:2", api_port=8080, is_own=lambda _: True)[0] == "x:2"
    assert membership("a,b", "a", api_port=8080, is_own=only)[0] == "a:7080"


@pytest.mark.parametrize(
    ("peers", "address", "words"),
    [("x:1,x:2", "", "all fit"), ("p,q", "", "none of them fits"), ("b,c", "b:1", "none of them fits"), ("b,b:7080", "", "twice")],
)
def test_a_doubtful_membership_is_refused(peers: str, address: str, words: str) -> None:
    with pytest.raises(VerbFailed, match=words):
        membership(peers, address, api_port=8080, is_own=lambda host: host in "bx")


def test_without_peers_it_is_a_cluster_of_one_on_loopback() -> None:
    assert membership("", "", api_port=8080, is_own=only) == ("127.0.0.1:7080", ("127.0.0.1:7080",))
    assert membership("", "", api_port=9090, is_own=only)[0] == "127.0.0.1:8090"


def test_a_server_that_joins_is_known_as_it_is_added(tmp_path: Path) -> None:
    config = serve_config(
        host="127.0.0.1",
        port=9090,
        peers="",
        address="localhost",
        data_dir=tmp_path,
        scheduler="first-fit",
        rejoin=False,
        insecure=False,
        node_lease_s=5.0,
        join="http://localhost:8080",
    )
    assert (config.me, config.join, raft_address("localhost")) == ("localhost:7080", ("http://localhost:8080",), "localhost:7080")


def test_a_used_data_directory_overrules_a_list_of_peers_from_another_time() -> None:
    def nobody(host: str) -> bool:
        return False

    assert membership("a,b", "c:9", api_port=8080, is_own=nobody, used=True) == ("c:9", ("a:7080", "b:7080"))
    assert membership("a,b", "", api_port=8080, is_own=nobody, used=True)[1] == ("a:7080", "b:7080")
    with pytest.raises(VerbFailed, match="none of them fits"):
        membership("a,b", "c:9", api_port=8080, is_own=nobody)



def test_labels_and_strategies() -> None:
    assert parse_labels(["a=b", "c=d=e"]) == {"a": "b", "c": "d=e"}
    assert parse_strategy("binpacking") is Strategy.BEST_FIT
    with pytest.raises(VerbFailed):
        parse_labels(["a"])
    with pytest.raises(VerbFailed):
        parse_strategy("random")
