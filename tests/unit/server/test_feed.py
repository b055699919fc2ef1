"""The feed: what a watcher is told, when it must list again, and that nothing is lost between listing and following."""

import asyncio
from collections.abc import Iterable

import msgspec
import pytest

from kago.core.model.deployment import Deployment
from kago.core.model.pod import Pod, PodStatus
from kago.core.state.changes import Put, Removed, Thing
from kago.server.feed import MAX_QUEUED_LINES, Encodings, Feed, IndexTooOld, Subscription


def web(version: int, replicas: int = 1) -> Deployment:
    return Deployment(name="web", image="nginx", replicas=replicas, version=version)


def pod(name: str, *, node: str | None = None, status: PodStatus = PodStatus.PENDING, version: int = 1) -> Pod:
    return Pod(id=f"id-{name}", name=name, deployment_name="web", revision=1, node_name=node, status=status, version=version)


def everything(thing: Thing) -> bool:
    return True


def running(thing: Thing) -> bool:
    return isinstance(thing, Pod) and thing.status is PodStatus.RUNNING


def told(subscription: Subscription) -> list[tuple[str, int, str]]:
    """(type, index, name) of every line that waits."""
    lines: Iterable[tuple[int | None, bytes]] = subscription.take()
    decoded = [msgspec.json.decode(line) for _, line in lines]
    return [(line["type"], line["index"], line["object"]["name"]) for line in decoded]


def test_a_watcher_hears_what_comes_after_it_began() -> None:
    feed = Feed(Encodings())
    feed.publish(1, (Put(web(1)),))
    subscription = feed.subscribe("deployments", everything)
    feed.publish(2, (Put(web(2, 3), web(1)),))
    feed.publish(3, ())
    feed.publish(4, (Removed(web(2, 3)),))
    assert told(subscription) == [("put", 2, "web"), ("removed", 4, "web")]


def test_what_a_thing_was_is_known_after_it_is_gone() -> None:
    feed = Feed(Encodings(), ring_changes=3)
    feed.publish(1, (Put(web(1)),))
    feed.publish(3, (Put(web(3, 4), web(1)), Put(pod("a"))))
    feed.publish(5, (Removed(web(3, 4)),))
    key = ("Deployment", "web")
    assert [feed.at_version(version, key) for version in (1, 2, 3, 5)] == [web(1), None, web(3, 4), None]
    assert feed.at_version(3, ("Deployment", "api")) is None
    feed.publish(6, (Put(pod("b")), Put(pod("c"))))
    assert feed.at_version(1, key) is None, "older than the ring"
    assert feed.at_version(3, key) == web(3, 4)


def test_only_the_last_line_of_an_entry_says_where_to_go_on() -> None:
    feed = Feed(Encodings())
    feed.publish(1, (Put(web(1)),))
    feed.publish(2, (Put(web(2, 3), web(1)), Put(web(2, 4), web(2, 3)), Put(pod("a"))))
    assert [index for index, _ in feed.subscribe("deployments", everything, after=0).take()] == [1, None, 2]


def test_a_watcher_goes_on_where_it_left_off() -> None:
    feed = Feed(Encodings())
    for index in range(1, 6):
        feed.publish(index, (Put(web(index)),))
    assert [index for _, index, _ in told(feed.subscribe("deployments", everything, after=2))] == [3, 4, 5]
    assert told(feed.subscribe("deployments", everything, after=5)) == []


def test_what_a_watcher_missed_is_told_as_it_was_then() -> None:
    feed = Feed(Encodings())
    feed.publish(1, (Put(web(1, 1)),))
    feed.publish(2, (Put(web(2, 2), web(1, 1)),))
    lines = [msgspec.json.decode(line) for _, line in feed.subscribe("deployments", everything, after=0).take()]
    assert [line["object"]["replicas"] for line in lines] == [1, 2]


def test_older_than_the_ring_must_list_again() -> None:
    feed = Feed(Encodings(), ring_changes=3)
    for index in range(1, 10):
        feed.publish(index, (Put(web(index)),))
    with pytest.raises(IndexTooOld, match="from 7"):
        feed.subscribe("deployments", everything, after=5)
    assert len(told(feed.subscribe("deployments", everything, after=6))) == 3


def test_watchers_of_one_node_hear_of_its_pods_only() -> None:
    feed = Feed(Encodings())
    one = feed.subscribe("pods/node/n1", everything)
    of_web = feed.subscribe("pods/deployment/web", everything)
    feed.publish(1, (Put(pod("a")), Put(pod("b"))))
    feed.publish(2, (Put(pod("a", node="n1"), pod("a")), Put(pod("b", node="n2"), pod("b"))))
    assert told(one) == [("put", 2, "a")]
    assert len(told(of_web)) == 4


def test_who_comes_back_to_the_pods_of_a_node_misses_what_all_of_its_changes_would_have_told() -> None:
    feed, happened = Feed(Encodings(), ring_changes=6), []
    for index in range(1, 12):
        name, node = f"p{index % 3}", ("n1", "n2", None)[index % 3]
        change: Put | Removed = Removed(pod(name, node=node, version=index)) if index % 4 == 0 else Put(pod(name, node=node, version=index))
        feed.publish(index, (change, Put(web(index))))
        happened.append((index, name, node, "put" if isinstance(change, Put) else "removed"))
    assert len(feed._of_node) == 3
    for node in ("n1", "n2", None, "n9"):
        for after in range(8, 12):
            missed = [(kind, index, name) for index, name, at, kind in happened if at == node and index > after]
            assert told(feed.subscribe(f"pods/node/{node}", everything, after=after)) == missed
    feed.publish(12, tuple(Put(web(n)) for n in range(7)))
    assert feed._of_node == {}, "nothing is kept of what the ring has forgotten"
    feed.publish(13, (Put(pod("a", node="n1")),))
    feed.restored(14)
    assert feed._of_node == {}


def test_what_leaves_a_filter_is_removed_for_its_watcher() -> None:
    feed = Feed(Encodings())
    subscription = feed.subscribe("pods", running)
    starting, up = pod("a", status=PodStatus.CREATING), pod("a", status=PodStatus.RUNNING)
    feed.publish(1, (Put(starting),))
    feed.publish(2, (Put(up, starting),))
    feed.publish(3, (Put(pod("a", status=PodStatus.TERMINATING), up),))
    feed.publish(4, (Removed(pod("a", status=PodStatus.TERMINATING)),))
    expected = [("put", 2, "a"), ("removed", 3, "a")]
    assert told(subscription) == expected
    assert told(feed.subscribe("pods", running, after=0)) == expected, "the same from the ring"


def test_a_slow_watcher_is_closed_and_keeps_nothing() -> None:
    feed = Feed(Encodings(), ring_changes=10)
    slow = feed.subscribe("deployments", everything)
    for index in range(1, MAX_QUEUED_LINES + 5):
        feed.publish(index, (Put(web(index)),))
    assert "slower" in slow.closed and told(slow) == []


def test_a_snapshot_ends_every_watch_and_forgets_the_ring() -> None:
    feed = Feed(Encodings())
    feed.publish(1, (Put(web(1)),))
    subscription = feed.subscribe("deployments", everything)
    feed.restored(100)
    assert "snapshot" in subscription.closed
    with pytest.raises(IndexTooOld):
        feed.subscribe("deployments", everything, after=99)
    assert told(feed.subscribe("deployments", everything, after=100)) == []


def test_a_watcher_that_left_is_forgotten() -> None:
    feed = Feed(Encodings())
    subscription = feed.subscribe("pods/node/n1", everything)
    assert feed.watchers == 1
    feed.unsubscribe(subscription)
    feed.unsubscribe(subscription)
    assert feed.watchers == 0


def test_each_thing_is_encoded_once_and_forgotten_when_it_is_gone() -> None:
    encodings = Encodings()
    feed = Feed(encodings)
    now = web(1)
    feed.publish(1, (Put(now),))
    assert encodings.of(now) is encodings.of(now)
    newer = web(2)
    assert encodings.of(newer) != encodings.of(web(3)), "a newer version is encoded anew"
    feed.publish(4, (Removed(web(3)),))
    assert not encodings._known


def test_waiting_ends_with_news_with_closing_and_with_the_time() -> None:
    async def scenario() -> None:
        feed = Feed(Encodings())
        subscription = feed.subscribe("deployments", everything)
        assert await subscription.wait(0.01) is False
        asyncio.get_running_loop().call_later(0.01, feed.publish, 1, (Put(web(1)),))
        assert await subscription.wait(5) is True
        assert told(subscription) == [("put", 1, "web")]
        asyncio.get_running_loop().call_later(0.01, feed.close, "bye")
        assert await subscription.wait(5) is True
        assert subscription.closed == "bye"

    asyncio.run(scenario())
