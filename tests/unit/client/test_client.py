"""What the client asks again, what it does not, and what it says when nobody answers."""

import asyncio
from collections.abc import Callable, Coroutine

import httpx
import msgspec
import pytest

from kago.client.client import RELIST, Client
from kago.client.errors import Problem, Unreachable
from kago.client.walk import normal_url
from kago.core.model.deployment import Deployment, DeploymentPatch, DeploymentSpec
from kago.core.model.report import WatchEvent

A, B = "http://a:1", "http://b:2"
WEB = Deployment(name="web", image="nginx", replicas=2)
Handler = Callable[[httpx.Request], httpx.Response]


def client_of(*servers: str, handler: Handler, timeout_s: float = 2.0) -> Client:
    return Client(servers, timeout_s=timeout_s, http=httpx.AsyncClient(transport=httpx.MockTransport(handler)))


def json_answer(thing: object, status: int = 200, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.Response(status, content=msgspec.json.encode(thing), headers=headers)


def problem(status: int, kind: str, detail: str = "because", headers: dict[str, str] | None = None) -> httpx.Response:
    return json_answer({"type": f"urn:kago:problem:{kind}", "status": status, "detail": detail}, status, headers)


def test_a_dead_server_is_left_and_the_next_one_remembered() -> None:
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if request.url.host == "a":
            raise httpx.ConnectError("connection refused")
        return json_answer([WEB])

    async def scenario() -> None:
        async with client_of(A, B, handler=handler) as client:
            assert await client.list(Deployment) == (WEB,)
            assert await client.list(Deployment) == (WEB,)
            assert client.servers == (B, A)

    asyncio.run(scenario())
    assert asked == ["a", "b", "b"]


def test_servers_that_cost_a_timeout_are_asked_last_until_they_answer_again() -> None:
    """Behind two that are cut off, one whose connection broke once would be asked too late for a lease."""
    asked: list[str] = []
    away: dict[str, Exception] = {"a": httpx.ConnectTimeout(""), "b": httpx.ConnectTimeout(""), "c": httpx.ReadError("reset")}

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if request.url.host in away:
            raise away[request.url.host]
        return json_answer([WEB])

    async def scenario() -> None:
        async with client_of(A, B, "http://c:3", handler=handler) as client:
            with pytest.raises(Unreachable):
                await client.list(Deployment)
            del away["c"]
            await client.list(Deployment)
            away["c"] = httpx.ReadTimeout("")
            del away["b"]
            await client.list(Deployment)
            del away["a"], away["c"]
            away["b"] = httpx.ReadError("reset")
            await client.list(Deployment)

    asyncio.run(scenario())
    assert "".join(asked) == "abc" + "c" + "cab" + "bc"


def test_the_servers_an_answer_names_are_asked_when_those_given_are_gone() -> None:
    gone: set[str] = set()

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.host in gone:
            raise httpx.ConnectError("connection refused")
        return json_answer([WEB], headers={"x-kago-servers": "http://c:3,http://d:4"})

    async def scenario() -> None:
        async with client_of(A, B, handler=handler) as client:
            await client.list(Deployment)
            assert client.servers == (A, B, "http://c:3", "http://d:4")
            gone.update({"a", "b"})
            assert await client.list(Deployment) == (WEB,)
            assert client.servers[0] == "http://c:3"

    asyncio.run(scenario())


def test_a_server_that_was_left_behind_does_not_tell_who_the_servers_are() -> None:
    """It was cut off, or removed without hearing of it, and knows of those there were then."""
    told = {
        "a": {"x-kago-servers": "http://c:3", "x-kago-index": "9", "x-kago-known-leader": "true"},
        "c": {"x-kago-servers": "http://d:4", "x-kago-index": "7", "x-kago-known-leader": "false"},
        "b": {"x-kago-servers": "http://d:4", "x-kago-index": "8", "x-kago-known-leader": "true"},
    }

    def handler(request: httpx.Request) -> httpx.Response:
        return json_answer([WEB], headers=told[request.url.host])

    async def scenario() -> None:
        async with client_of(A, B, handler=handler) as client:
            seen = []
            for server in (A, "http://c:3", B):
                client._walker._servers = (server, *(url for url in client._walker._servers if url != server))
                client._walker._current = 0
                await client.list(Deployment)
                seen.append("http://d:4" in client.servers)
            assert seen == [False, False, True], "one that knows the leader is believed, though it is a little behind"

    asyncio.run(scenario())


def test_nobody_answers_names_each_server_with_its_reason() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused") if request.url.host == "a" else httpx.ReadTimeout("")

    async def scenario() -> None:
        async with client_of(A, B, handler=handler) as client:
            with pytest.raises(Unreachable, match="http://a:1: connection refused; http://b:2: no answer in time"):
                await client.list(Deployment)

    asyncio.run(scenario())


def test_no_leader_is_waited_out_and_a_refusal_is_not() -> None:
    answers = [problem(503, "no-leader"), problem(503, "no-leader"), json_answer(WEB)]

    async def scenario() -> None:
        async with client_of(A, B, handler=lambda _: answers.pop(0)) as client:
            assert await client.update("web", DeploymentPatch(replicas=2)) == WEB
        async with client_of(A, handler=lambda _: problem(422, "validation", "replicas: negative")) as client:
            with pytest.raises(Problem, match="replicas: negative") as caught:
                await client.update("web", DeploymentPatch(replicas=-1))
            assert (caught.value.status, caught.value.type) == (422, "validation")

    asyncio.run(scenario())


def test_no_leader_until_the_deadline_is_that_problem() -> None:
    async def scenario() -> None:
        async with client_of(A, B, handler=lambda _: problem(503, "no-leader"), timeout_s=0.4) as client:
            with pytest.raises(Problem) as caught:
                await client.list(Deployment)
            assert caught.value.type == "no-leader"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "write",
    [
        lambda client: client.create(DeploymentSpec(name="web", image="nginx")),
        lambda client: client.update("web", DeploymentPatch(replicas=3)),
        lambda client: client.delete(Deployment, "web"),
    ],
    ids=["create", "update", "delete"],
)
def test_a_repeated_write_keeps_its_key(write: Callable[[Client], Coroutine[None, None, object]]) -> None:
    """Else the first attempt, held up on its way, could be carried out after a later write."""
    keys: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        if len(keys) == 1:
            raise httpx.ReadError("connection reset")
        return json_answer(WEB, 201)

    async def scenario() -> None:
        async with client_of(A, B, handler=handler) as client:
            await write(client)

    asyncio.run(scenario())
    assert len(keys) == 2
    assert keys[0] == keys[1]


def test_not_found_after_a_lost_answer_to_our_own_delete_is_done() -> None:
    def after(first: Handler) -> Handler:
        calls: list[int] = []

        def handler(request: httpx.Request) -> httpx.Response:
            calls.append(1)
            return first(request) if len(calls) == 1 else problem(404, "not-found")

        return handler

    def lost(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("reset")

    def refused(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    async def scenario() -> None:
        async with client_of(A, B, handler=after(lost)) as client:
            await client.delete(Deployment, "web")
        async with client_of(A, B, handler=after(refused)) as client:
            with pytest.raises(Problem):
                await client.delete(Deployment, "web")

    asyncio.run(scenario())


def test_a_stale_read_carries_the_index_of_our_own_write() -> None:
    seen: list[dict[str, str]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(dict(request.url.params))
        return json_answer(WEB if request.method == "PUT" else [WEB], headers={"x-kago-index": "42"})

    async def scenario() -> None:
        async with client_of(A, handler=handler) as client:
            await client.update("web", DeploymentPatch(replicas=2))
            await client.list(Deployment, stale=True)

    asyncio.run(scenario())
    assert seen[1] == {"stale": "true", "min_index": "42"}


def test_learned_servers_come_first_and_the_list_never_empties() -> None:
    async def scenario() -> None:
        async with client_of(A, handler=lambda _: json_answer([])) as client:
            client.learn([])
            assert list(client.servers) == [A]
            client.learn([B, "c:3/"])
            assert list(client.servers) == [A, B, "http://c:3"]

    asyncio.run(scenario())


def lines(*events: WatchEvent) -> httpx.Response:
    return httpx.Response(200, content=b"".join(msgspec.json.encode(event) + b"\n" for event in events))


def followed(*answers: httpx.Response, until: WatchEvent) -> tuple[list[WatchEvent], list[str | None]]:
    """What `follow` gives up to an event from servers that answer so, and the index each was asked to go on from."""
    left, asked = list(answers), list[str | None]()

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.params.get("index"))
        return left.pop(0)

    async def scenario() -> list[WatchEvent]:
        got: list[WatchEvent] = []
        async with client_of(A, B, handler=handler) as client:
            async for event in client.follow("/pods", {}):
                got.append(event)
                if event == until:
                    break
        return got

    return asyncio.run(scenario()), asked


def test_follow_resumes_where_a_stream_broke_and_lists_again_when_it_is_too_late() -> None:
    put, last = WatchEvent(type="put", index=5, object={"name": "we\u2028b"}), WatchEvent(type="synced", index=20, epoch=2)
    broken = lines(put, WatchEvent(type="synced", index=7, epoch=1), WatchEvent(type="put", index=9))
    got, asked = followed(broken, problem(410, "index-too-old"), lines(last), until=last)
    assert [(event.type, event.index) for event in got] == [
        (RELIST, 0), ("put", 5), ("synced", 7), ("put", 9), (RELIST, 0), ("synced", 20),
    ]
    assert asked == [None, "8", None]


def test_a_stream_that_breaks_amid_the_changes_of_one_entry_loses_and_repeats_none() -> None:
    first, second, third = (WatchEvent(type="put", index=9, object={"name": name}) for name in "abc")
    synced, beat, last = WatchEvent(type="synced", index=7), WatchEvent(type="heartbeat", index=9), WatchEvent(type="put", index=10)
    got, asked = followed(lines(synced, first, second), lines(first, second, third, beat, beat), lines(last), until=last)
    assert got == [WatchEvent(type=RELIST, index=0), synced, first, second, third, beat, beat, last]
    assert asked == [None, "8", "9"]


def test_a_listing_that_breaks_is_begun_again() -> None:
    synced = WatchEvent(type="synced", index=7)
    _, asked = followed(lines(WatchEvent(type="put", index=5)), lines(synced), until=synced)
    assert asked == [None, None]


@pytest.mark.parametrize(("given", "url"), [("a:1", "http://a:1"), ("http://a:1/", "http://a:1"), (" https://x ", "https://x")])
def test_urls(given: str, url: str) -> None:
    assert normal_url(given) == url


@pytest.mark.parametrize("given", ["", "ftp://a", "http://"])
def test_bad_urls(given: str) -> None:
    with pytest.raises(ValueError, match="not a server URL"):
        normal_url(given)
