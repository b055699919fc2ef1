"""Agents of a secured cluster: let in by a token, known by a certificate that they renew, and deaf to all but its servers."""

import asyncio
import shutil
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from kago.agent import masters
from kago.agent.app import SUPERSEDED, serve_agent
from kago.agent.credentials import admitted
from kago.client.join import JoinRefused
from kago.clock import SystemClock
from kago.config import AgentConfig
from kago.core.model.token import TokenRole
from kago.core.state.commands import RemoveServer
from kago.security.authority import Authority
from kago.security.keyring import Keyring, KeyringError
from kago.security.subject import Role, Subject
from kago.security.tokens import Token, mint
from tests.integration.certificates import DAY_S, Office, intruder
from tests.integration.secured import Secured, agent_config, secured
from tests.integration.test_secured_api import reached
from tests.integration.test_servers import eventually, free_ports

SLEEPER = {"name": "app", "runtime": "process", "command": ["/bin/sleep", "99999"], "replicas": 2, "stop_grace_s": 1,
           "resources": {"cpu_millis": 10, "memory_mb": 32}}


def play(base: Path, scenario: Callable[[Secured], Awaitable[None]], count: int = 1) -> None:
    async def all_of_it() -> None:
        async with asyncio.timeout(60), secured(base, count) as group:
            await scenario(group)

    asyncio.run(all_of_it())


@asynccontextmanager
async def running(config: AgentConfig, token: Token | None) -> AsyncIterator["asyncio.Task[int]"]:
    task = asyncio.create_task(serve_agent(config, token))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def status_of(group: Secured, name: str = "n1") -> str:
    node = group.servers[0].store.tables.nodes.get(name)
    return node.status if node is not None else ""


def keep(config: AgentConfig, group: Secured, *, ago_s: float) -> Keyring:
    """The keys of an agent that joined `ago_s` seconds ago."""
    keyring = Keyring(config.data_dir)
    keyring.adopt(group.ca)
    key, request = keyring.request()
    subject = Subject(cluster=keyring.cluster, role=Role.AGENT, name=config.name)
    keyring.install(key, group.office.authority.sign(request, subject, now=time.time() - ago_s))
    return keyring


def test_an_agent_joins_works_and_starts_again_without_its_token(tmp_path: Path) -> None:
    async def scenario(group: Secured) -> None:
        config = agent_config(group, tmp_path)
        token = await group.token(TokenRole.AGENT, uses=1, ttl_s=60)
        async with running(config, token):
            await eventually(lambda: status_of(group) == "ready")
            assert (await group.ask("POST", "/deployments", SLEEPER)).status_code == 201
            await eventually(lambda: [pod.ready for pod in group.servers[0].store.tables.pods.values()] == [True, True])
            port = f"https://127.0.0.1:{config.port}"
            office, other = group.office, Office(tmp_path / "other")
            wrong = {
                "none": None,
                "other CA": other.pair(Role.SERVER, "s1", cluster="c0ffee"),
                "expired": office.pair(Role.SERVER, "s1", ago_s=31 * DAY_S),
                "not yet valid": office.pair(Role.SERVER, "s1", ago_s=-2 * DAY_S),
                "agent": office.pair(Role.AGENT, "n2"),
                "user": office.pair(Role.USER, "abc"),
                "wrong cluster": office.pair(Role.SERVER, "s1", cluster="another"),
            }
            assert {name: await reached(port, intruder(pair)) for name, pair in wrong.items()} == dict.fromkeys(wrong, 0)
            assert await reached(port, intruder(office.pair(Role.SERVER, "s1")), "/pods") == 200
            assert await reached(port.replace("https", "http"), intruder(None)) == 0
        before = group.servers[0].store.tables.nodes["n1"].incarnation
        async with running(config, None):
            await eventually(lambda: group.servers[0].store.tables.nodes["n1"].incarnation > before)
            await group.ask("DELETE", "/deployments/app")
            await eventually(lambda: not group.servers[0].store.tables.pods)

    play(tmp_path, scenario)


def test_renewal_under_load_drops_nothing(tmp_path: Path) -> None:
    """Agent and server change keys again and again while heartbeats, watches and users go on."""

    async def scenario(group: Secured) -> None:
        config = agent_config(group, tmp_path)
        keyring = keep(config, group, ago_s=16 * DAY_S)  # past half of its life: due at once
        before = keyring.subject
        answers: list[int] = []
        async with running(config, None) as task:
            await eventually(lambda: status_of(group) == "ready")
            for n in range(60):
                answers.append((await group.ask("PUT", "/deployments/app" if n else "/deployments/none", {"replicas": n % 3})).status_code)
                if n == 0:
                    answers.append((await group.ask("POST", "/deployments", SLEEPER)).status_code)
                if n % 10 == 5:
                    credentials = group.servers[0].credentials
                    assert credentials is not None
                    credentials._issue()
                assert not task.done() and status_of(group) == "ready"
            await eventually(lambda: Keyring(config.data_dir).subject != before)
            assert answers[:2] == [404, 201] and set(answers[2:]) == {200}
            await group.ask("DELETE", "/deployments/app")
            await eventually(lambda: not group.servers[0].store.tables.pods)
        renewed = Keyring(config.data_dir).subject
        assert renewed is not None and before is not None and renewed.expires_at > before.expires_at + 10 * DAY_S

    play(tmp_path, scenario)


def test_expired_while_it_was_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(group: Secured) -> None:
        config = agent_config(group, tmp_path)
        keep(config, group, ago_s=31 * DAY_S)
        assert await serve_agent(config) == 1
        assert "ran out" in caplog.text and "kago token create" in caplog.text
        token = await group.token(TokenRole.AGENT, uses=1, ttl_s=60)
        async with running(config, token):
            await eventually(lambda: status_of(group) == "ready")
        assert token.secret not in caplog.text

    play(tmp_path, scenario)


def test_removed_and_back_with_a_token(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(group: Secured) -> None:
        config = agent_config(group, tmp_path)
        async with running(config, group.first[TokenRole.AGENT]) as task:
            await eventually(lambda: status_of(group) == "ready")
            assert (await group.ask("DELETE", "/nodes/n1?force=true")).status_code == 200
            async with asyncio.timeout(10):
                assert await task == SUPERSEDED
        assert "was removed from this cluster" in caplog.text
        assert await serve_agent(config) == 1, "its certificate is gone"
        async with running(config, group.first[TokenRole.AGENT]):
            await eventually(lambda: status_of(group) == "ready")

    play(tmp_path, scenario)


def test_without_a_token_or_with_a_wrong_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(group: Secured) -> None:
        config = agent_config(group, tmp_path)
        assert await serve_agent(config) == 1
        assert "is secured and this agent has no certificate" in caplog.text
        keep(config, group, ago_s=0)
        plain = msgspec.structs.replace(config, masters=(group.urls[0].replace("https", "http"),))
        assert await serve_agent(plain) == 1 and "over https alone" in caplog.text, "nobody unknown tells it what to run"
        shutil.rmtree(config.data_dir)
        revoked = await group.token(TokenRole.AGENT, uses=1, ttl_s=60)
        await group.ask("DELETE", f"/tokens/{revoked.id}")
        for token in (revoked, group.first[TokenRole.SERVER], mint(b"x" * 32)):
            caplog.clear()
            assert await serve_agent(config, token) == SUPERSEDED
            assert token.secret not in caplog.text
        assert "its CA is not the one the token names" in caplog.text
        assert not Keyring(config.data_dir).held

    play(tmp_path, scenario)


def test_a_joiner_tells_its_secret_to_nobody_but_a_server_of_its_cluster(tmp_path: Path) -> None:
    """The man in between has the CA's certificate (it is no secret) and a key of his own."""

    async def scenario(group: Secured) -> None:
        heard: list[bytes] = []
        for pair in (
            Office(tmp_path / "other").pair(Role.SERVER, "s1", cluster="c0ffee"),
            group.office.pair(Role.AGENT, "n9"),
        ):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pair)

            async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                heard.append(await reader.read(1 << 16))
                writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(group.ca) + group.ca)
                writer.close()

            server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
            async with server:
                url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(2):
                        await admitted(tmp_path / "a", "n1", [url], group.first[TokenRole.AGENT], SystemClock())
        assert heard and all(request.startswith((b"GET /ca ", b"")) for request in heard)
        assert group.first[TokenRole.AGENT].secret.encode() not in b"".join(heard)
        with pytest.raises(JoinRefused, match="https only"):
            await admitted(tmp_path / "a", "n1", ["http://127.0.0.1:1"], group.first[TokenRole.AGENT], SystemClock())

    play(tmp_path, scenario)


def test_agents_hear_of_servers_that_were_removed(tmp_path: Path) -> None:
    """At once, and they remember it: with a certificate from before it opens no port and is not asked."""

    async def scenario(group: Secured) -> None:
        config, store = agent_config(group, tmp_path), group.servers[0].store
        port, before = f"https://127.0.0.1:{config.port}", group.office.pair(Role.SERVER, "s9:7080")
        async with running(config, group.first[TokenRole.AGENT]):
            await eventually(lambda: status_of(group) == "ready")
            assert await reached(port, intruder(before)) == 200
            await store.submit(RemoveServer(epoch=store.tables.cluster.epoch, id="s9:7080"))
            deadline = time.monotonic() + 10
            while await reached(port, intruder(before)):
                assert time.monotonic() < deadline
            assert await reached(port, intruder(group.office.pair(Role.SERVER, "s9:7080", admitted=store.tables.index))) == 200
            assert await reached(port, intruder(group.office.pair(Role.SERVER, "s8:7080"))) == 200
        async with running(config, None):
            await eventually(lambda: status_of(group) == "ready")
            assert await reached(port, intruder(before)) == 0

    play(tmp_path, scenario)


def test_an_agent_whose_directory_is_an_older_copy_begins_a_new_life(tmp_path: Path) -> None:
    async def scenario(group: Secured) -> None:
        config, nodes = agent_config(group, tmp_path), group.servers[0].store.tables.nodes
        lives: list[int] = []
        while len(lives) < 5:
            async with running(config, group.first[TokenRole.AGENT]):
                await eventually(lambda: "n1" in nodes and nodes["n1"].incarnation not in lives)
            lives.append(nodes["n1"].incarnation)
            if lives == [1]:
                shutil.copytree(config.data_dir, tmp_path / "copy")
        shutil.rmtree(config.data_dir)
        shutil.move(tmp_path / "copy", config.data_dir)
        async with running(config, None) as task:
            await eventually(lambda: status_of(group) == "ready" and nodes["n1"].incarnation == 6)
            assert not task.done()

    play(tmp_path, scenario)


def test_two_agents_of_one_identity_do_not_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a copy from before nor one that was superseded acts while the other does, however often it is started."""
    monkeypatch.setattr(masters, "TAKEOVER_S", 1.0)

    async def scenario(group: Secured) -> None:
        config, nodes = agent_config(group, tmp_path), group.servers[0].store.tables.nodes
        other = msgspec.structs.replace(config, data_dir=tmp_path / "copy", port=free_ports(1)[0])
        async with running(config, group.first[TokenRole.AGENT]) as first:
            await eventually(lambda: status_of(group) == "ready")
            shutil.copytree(config.data_dir, other.data_dir, ignore=shutil.ignore_patterns("*.new"))
            async with running(other, None) as second:  # began later: it goes before, as an agent that was started again does
                await eventually(lambda: nodes["n1"].incarnation == 2)
                async with asyncio.timeout(10):
                    assert await first == SUPERSEDED
                for _ in range(3):
                    assert await serve_agent(config) == SUPERSEDED
                    assert nodes["n1"].incarnation == 2 and status_of(group) == "ready" and not second.done()

    play(tmp_path, scenario)


def test_a_certificate_of_another_name_is_not_used(tmp_path: Path) -> None:
    async def story() -> None:
        authority = Authority.make("c0ffee", now=time.time())
        keyring = Keyring(tmp_path)
        keyring.adopt(authority.pem)
        key, request = keyring.request()
        keyring.install(key, authority.sign(request, Subject(cluster="c0ffee", role=Role.AGENT, name="old"), now=time.time()))
        with pytest.raises(KeyringError, match="agent/old, not for agent/new"):
            await admitted(tmp_path, "new", ["https://127.0.0.1:1"], None, SystemClock())
        assert await admitted(tmp_path / "other", "new", ["http://127.0.0.1:1"], None, SystemClock()) is None

    asyncio.run(story())
