"""The API of a secured cluster: who gets in, as whom, and what that one may do."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from kago.cli.recover import ask_who_lives
from kago.clock import SystemClock
from kago.config import ServeConfig
from kago.core.model.token import TokenRole
from kago.core.state.commands import RemoveServer
from kago.security.authority import new_key, request_for
from kago.security.handshake import blind_context
from kago.security.subject import Role, subject_of
from kago.security.tokens import mint
from kago.server.app import HANDSHAKE_S, Server
from kago.server.credentials import Credentials, join_cluster
from tests.integration.certificates import DAY_S, Office, intruder
from tests.integration.secured import Secured, secured
from tests.integration.test_servers import NODE, WEB, eventually, free_ports


def play(base: Path, scenario: Callable[[Secured], Awaitable[None]], count: int = 1) -> None:
    async def all_of_it() -> None:
        async with asyncio.timeout(60), secured(base, count) as group:
            await scenario(group)

    asyncio.run(all_of_it())


async def reached(url: str, context: ssl.SSLContext, path: str = "/health") -> int:
    """The status; 0 where nobody answers this one."""
    try:
        async with httpx.AsyncClient(verify=context, timeout=5, trust_env=False) as http:
            return (await http.get(url + path)).status_code
    except httpx.TransportError:
        return 0


def test_every_wrong_certificate_is_turned_away_at_the_door(tmp_path: Path) -> None:
    async def scenario(group: Secured) -> None:
        url, office, other = group.urls[0], group.office, Office(tmp_path / "other")
        wrong = {
            "other CA": other.pair(Role.AGENT, "n1", cluster="c0ffee"),
            "expired": office.pair(Role.AGENT, "n1", ago_s=31 * DAY_S),
            "not yet valid": office.pair(Role.AGENT, "n1", ago_s=-2 * DAY_S),
            "wrong cluster": office.pair(Role.AGENT, "n1", cluster="another"),
        }
        assert {name: await reached(url, intruder(pair)) for name, pair in wrong.items()} == dict.fromkeys(wrong, 0)
        right = office.pair(Role.AGENT, "n1")
        assert await reached(url, intruder(right)) == 200
        assert await reached(url, intruder(right, version=ssl.TLSVersion.TLSv1_2)) == 0
        assert await reached(url, intruder(None)) == 200, "health is everybody's"
        assert await reached(url, intruder(None), "/pods") == 401
        assert await reached(url.replace("https", "http"), intruder(None)) == 0, "plain text"

    play(tmp_path, scenario)


def test_a_client_talks_to_servers_of_its_cluster_only(tmp_path: Path) -> None:
    """An agent's certificate is good for a port, too: nobody takes it for a server's."""

    async def scenario(group: Secured) -> None:
        office, other = group.office, Office(tmp_path / "other")

        async def served(pair: Path) -> int:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pair)

            async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.read(1 << 16)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                writer.close()

            server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
            async with server:
                return await reached(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", group.context())

        assert await served(office.pair(Role.SERVER, "s9")) == 200
        assert await served(office.pair(Role.AGENT, "n1")) == 0
        assert await served(office.pair(Role.SERVER, "s9", cluster="another")) == 0
        assert await served(office.pair(Role.SERVER, "s9", ago_s=31 * DAY_S)) == 0
        assert await served(other.pair(Role.SERVER, "s9", cluster="c0ffee")) == 0

    play(tmp_path, scenario)


def test_what_each_role_may_do(tmp_path: Path) -> None:
    async def scenario(group: Secured) -> None:
        texts = {role: (await group.token(role)).text for role in (TokenRole.READ, TokenRole.WRITE, TokenRole.ADMIN)}
        calls: list[tuple[str, str, Any, set[TokenRole]]] = [
            ("GET", "/deployments", None, {*texts}),
            ("GET", "/v1/pods", None, {*texts}),
            ("GET", "/cluster", None, {*texts}),
            ("GET", "/metrics", None, {*texts}),
            ("PUT", "/deployments/web", {"replicas": 1}, {TokenRole.WRITE, TokenRole.ADMIN}),
            ("PUT", "/v1/deployments/web", {"replicas": 1}, {TokenRole.WRITE, TokenRole.ADMIN}),
            ("DELETE", "/pods/none", None, {TokenRole.WRITE, TokenRole.ADMIN}),
            ("DELETE", "/nodes/none", None, {TokenRole.ADMIN}),
            ("GET", "/tokens", None, {TokenRole.ADMIN}),
            ("DELETE", "/tokens/none", None, {TokenRole.ADMIN}),
            ("POST", "/nodes/register", NODE, set()),
            ("POST", "/nodes/n1/heartbeat", {"node_id": "x", "incarnation": 1}, set()),
            ("POST", "/renew", {"request": ""}, set()),
            ("GET", "/nothing", None, {TokenRole.ADMIN}),
        ]
        for method, path, body, allowed in calls:
            for role, text in texts.items():
                answer = await group.ask(method, path, body, token=text)
                assert (answer.status_code == 403) == (role not in allowed), (method, path, role, answer.text)
                if answer.status_code == 403:
                    problem = answer.json()
                    assert problem["type"] == "urn:kago:problem:forbidden" and answer.headers["content-type"] == "application/problem+json"
            nobody = await group.ask(method, path, body, token=None)
            assert nobody.status_code == 401 and nobody.headers["www-authenticate"].startswith("Bearer"), (method, path)
            assert "Authorization: Bearer" in nobody.json()["detail"]

    play(tmp_path, scenario)


def test_tokens_that_do_not_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(group: Secured) -> None:
        good = await group.token(TokenRole.READ)
        short = await group.token(TokenRole.READ, ttl_s=1)
        revoked = await group.token(TokenRole.READ)
        assert (await group.ask("DELETE", f"/tokens/{revoked.id}")).status_code == 200
        await asyncio.sleep(1.1)
        swapped = good.text.replace(good.secret, short.secret)
        another = mint(b"x" * 32).text
        moved = another.rpartition(".")[0].rpartition(".")[0] + good.text[len("kago1.") + 52 :]
        for text in (short.text, revoked.text, good.text[:-1], swapped, another, moved, "kago1", group.first[TokenRole.AGENT].text):
            answer = await group.ask("GET", "/pods", token=text)
            assert answer.status_code == (403 if text == group.first[TokenRole.AGENT].text else 401), text
            assert len(text) < 10 or text not in answer.text
        assert (await group.ask("GET", "/pods", token=good.text)).status_code == 200
        assert (await group.ask("GET", "/pods", token=None, authorization="Basic abc")).status_code == 401
        shown = (await group.ask("GET", "/tokens")).text
        for token in (good, short, *group.first.values()):
            assert token.secret not in shown and token.digest not in shown
            assert token.secret not in caplog.text and token.digest not in caplog.text

    play(tmp_path, scenario)


def join_body(token: str, role: str = "agent", name: str = "n7", request: str | None = None) -> dict[str, str]:
    return {"token": token, "role": role, "name": name, "request": request_for(new_key()).decode() if request is None else request}


def test_joining(tmp_path: Path) -> None:
    async def scenario(group: Secured) -> None:
        once = await group.token(TokenRole.AGENT, uses=1, ttl_s=3600)
        wasted = await group.ask("POST", "/join", join_body(once.text, request="rubbish"), token=None)
        assert wasted.status_code == 422, "and it is not used up by that"
        body = join_body(once.text)
        first = await group.ask("POST", "/join", body, token=None)
        assert first.status_code == 200 and first.json()["ca_key"] == "", first.text
        again = await group.ask("POST", "/join", body, token=None)
        assert again.status_code == 200, "the answer may have been lost"
        used = await group.ask("POST", "/join", join_body(once.text, name="n8"), token=None)
        assert used.status_code == 403 and "used already" in used.json()["detail"]
        short = await group.token(TokenRole.AGENT, ttl_s=1)
        admin = group.first[TokenRole.ADMIN]
        server = group.first[TokenRole.SERVER]
        await asyncio.sleep(1.1)
        refusals = {
            "expired": (join_body(short.text), 401),
            "truncated": (join_body(once.text[:-3]), 401),
            "unknown": (join_body(mint(b"x" * 32).text), 401),
            "other role": (join_body(server.text), 403),
            "agent's for a server": (join_body(once.text, role="server", name="s9:1", request=""), 403),
            "a user's": (join_body(admin.text, role="admin"), 403),
            "no request": (join_body(group.first[TokenRole.AGENT].text, request="rubbish"), 422),
            "no name": (join_body(group.first[TokenRole.AGENT].text, name="a/b"), 422),
            "the route's": (join_body(group.first[TokenRole.AGENT].text, name="register"), 422),
        }
        for what, (wrong, status) in refusals.items():
            answer = await group.ask("POST", "/join", wrong, token=None)
            assert answer.status_code == status, (what, answer.text)
            assert wrong["token"] not in answer.text
        let_in = await group.ask("POST", "/join", join_body(server.text, role="server", name="s9:1", request=""), token=None)
        assert "PRIVATE KEY" in let_in.json()["ca_key"]

    play(tmp_path, scenario)


def test_an_agent_speaks_for_its_own_node(tmp_path: Path) -> None:
    async def scenario(group: Secured) -> None:
        pair = group.office.pair(Role.AGENT, "n1")
        other = group.office.pair(Role.AGENT, "n2")
        assert (await group.ask("POST", "/nodes/register", NODE, pair=other)).status_code == 403
        assert (await group.ask("POST", "/nodes/register", NODE, pair=pair)).status_code == 200
        beat = {"node_id": "node-1", "incarnation": 1}
        assert (await group.ask("POST", "/nodes/n1/heartbeat", beat, pair=pair)).status_code == 200
        assert (await group.ask("POST", "/nodes/n1/heartbeat", beat, pair=other)).status_code == 403
        others = ("/pods", "/pods?node_name=n2", "/pods?deployment_name=web", "/nodes", "/deployments", "/cluster", "/tokens", "/metrics")
        for path in others:
            assert (await group.ask("GET", path, pair=pair)).status_code == 403, path
        assert (await group.ask("GET", "/pods?node_name=n1", pair=pair)).status_code == 200
        assert (await group.ask("DELETE", "/nodes/n1?force=true", pair=pair)).status_code == 403
        assert (await group.ask("POST", "/deployments", WEB, pair=pair)).status_code == 403
        for user in ("admin",):
            assert (await group.ask("POST", "/nodes/n1/heartbeat", beat, token=user)).status_code == 403
        server = group.office.pair(Role.SERVER, "s9:7080")
        assert (await group.ask("GET", "/cluster", pair=server)).status_code == 200
        assert (await group.ask("POST", "/deployments", WEB, pair=server)).status_code == 403
        assert (await group.ask("POST", "/nodes/register", NODE, pair=server)).status_code == 403

    play(tmp_path, scenario)


def test_a_users_certificate_is_worth_its_token(tmp_path: Path) -> None:
    async def scenario(group: Secured) -> None:
        token = await group.token(TokenRole.WRITE)
        pair = group.office.pair(Role.USER, token.id)
        assert (await group.ask("POST", "/deployments", WEB, pair=pair)).status_code == 201
        assert (await group.ask("GET", "/tokens", pair=pair)).status_code == 403
        await group.ask("DELETE", f"/tokens/{token.id}")
        assert (await group.ask("GET", "/deployments", pair=pair)).status_code == 401

    play(tmp_path, scenario)


def test_a_removed_node_is_shut_out_until_it_has_a_new_token(tmp_path: Path) -> None:
    async def scenario(group: Secured) -> None:
        pair = group.office.pair(Role.AGENT, "n1")
        assert (await group.ask("POST", "/nodes/register", NODE, pair=pair)).status_code == 200
        async with (
            httpx.AsyncClient(verify=group.context(pair), timeout=8, trust_env=False) as http,
            http.stream("GET", f"{group.urls[0]}/pods?watch=true&node_name=n1") as watch,
        ):
            lines = watch.aiter_lines()
            await anext(lines)
            assert (await group.ask("DELETE", "/nodes/n1?force=true")).status_code == 200
            began = time.monotonic()
            with pytest.raises(httpx.TransportError):
                async for _ in lines:
                    assert time.monotonic() - began < 5
        refused = await group.ask("POST", "/nodes/register", NODE, pair=pair)
        assert refused.status_code == 403 and refused.json()["type"] == "urn:kago:problem:removed"
        assert (await group.ask("POST", "/renew", {"request": request_for(new_key()).decode()}, pair=pair)).status_code == 403
        back = await group.ask("POST", "/join", join_body(group.first[TokenRole.AGENT].text, name="n1"), token=None)
        assert back.status_code == 200
        admitted = back.json()["admitted"]
        fresh = group.office.pair(Role.AGENT, "n1", admitted=admitted)
        assert (await group.ask("POST", "/nodes/register", {**NODE, "incarnation": 2}, pair=fresh)).status_code == 200

    play(tmp_path, scenario)


def test_a_ready_nodes_name_is_not_given_away(tmp_path: Path) -> None:
    async def scenario(group: Secured) -> None:
        await group.ask("POST", "/nodes/register", NODE, pair=group.office.pair(Role.AGENT, "n1"))
        taken = await group.ask("POST", "/join", join_body(group.first[TokenRole.AGENT].text, name="n1"), token=None)
        assert taken.status_code == 409 and "ready" in taken.json()["detail"]

    play(tmp_path, scenario)


def test_a_revoked_tokens_watch_ends(tmp_path: Path) -> None:
    async def scenario(group: Secured) -> None:
        token = await group.token(TokenRole.READ)
        headers = {"authorization": f"Bearer {token.text}"}
        async with (
            httpx.AsyncClient(verify=group.context(), timeout=8, trust_env=False, headers=headers) as http,
            http.stream("GET", f"{group.urls[0]}/deployments?watch=true") as watch,
        ):
            lines = watch.aiter_lines()
            await anext(lines)
            assert (await group.ask("DELETE", f"/tokens/{token.id}")).status_code == 200
            with pytest.raises(httpx.TransportError):
                async for _ in lines:
                    pass

    play(tmp_path, scenario)


def test_three_servers_of_one_cluster(tmp_path: Path) -> None:
    """Two joined by token before there was a quorum; each signs, and knows every token."""

    async def scenario(group: Secured) -> None:
        await eventually(lambda: all(server.credentials is not None and not server.credentials.first_tokens for server in group.servers))
        token = await group.token(TokenRole.WRITE)
        for n in range(3):
            assert (await group.ask("GET", "/deployments", token=token.text, server=n)).status_code == 200
            cluster = (await group.ask("GET", "/cluster", token=token.text, server=n)).json()
            assert sorted(member["role"] for member in cluster["members"]) == ["follower", "follower", "leader"]
            assert all(member["lag"] is not None for member in cluster["members"]), "the leader was asked over TLS"
            joined = await group.ask("POST", "/join", join_body(group.first[TokenRole.AGENT].text, name=f"n{n}"), token=None, server=n)
            assert joined.status_code == 200
            made = tmp_path / f"joined-{n}.pem"
            made.write_text(joined.json()["certificate"])
            assert subject_of(ssl.PEM_cert_to_DER_cert(joined.json()["certificate"])).key == f"agent/n{n}"
        assert not list(tmp_path.glob("server-*/tls/first-tokens.json"))

    play(tmp_path, scenario, count=3)


def test_a_server_that_is_added_later_and_removed_again(tmp_path: Path) -> None:
    """Its id and its certificate's name are one; once removed, it is refused on the API, too."""

    async def scenario(group: Secured) -> None:
        (raft,), (api,) = free_ports(1), free_ports(1)
        me = f"127.0.0.1:{raft}"
        config = ServeConfig(
            port=api, me=me, members=(me,), join=(group.urls[0],), api_url=f"https://127.0.0.1:{api}", data_dir=tmp_path / "added"
        )
        token = await group.token(TokenRole.SERVER, uses=1, ttl_s=60)
        await join_cluster(config, token, SystemClock())
        added = Server(config)
        starting = asyncio.create_task(added.start())
        made = await group.ask("POST", "/cluster/members", {"address": me})
        assert made.status_code == 201, made.text
        await starting
        try:
            await eventually(lambda: len(group.servers[0].store.tables.servers) == 2)
            assert added.credentials is not None and added.credentials.keyring.subject is not None
            assert added.credentials.keyring.subject.name == added.store.status().me == made.json()["id"]
            pair = group.office.pair(Role.SERVER, me)
            assert (await group.ask("GET", "/cluster", pair=pair)).status_code == 200
            await eventually(lambda: all(member.voter for member in group.servers[0].store.status().members))
            gone = await group.ask("DELETE", f"/cluster/members/{me}")
            assert gone.status_code == 200, gone.text
            await eventually(lambda: f"server/{me}" in group.servers[0].store.tables.removals)
            refused = await group.ask("GET", "/cluster", pair=pair)
            assert refused.status_code == 403 and refused.json()["type"] == "urn:kago:problem:removed"
        finally:
            await added.stop()

    play(tmp_path, scenario)


def test_a_handshake_that_is_not_made_is_not_waited_for(tmp_path: Path) -> None:
    """Or whoever only connects would hold as many sockets as it likes: they are not counted before they shake hands."""

    async def scenario(group: Secured) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", group.servers[0].config.port)
        async with asyncio.timeout(HANDSHAKE_S + 5):
            assert await reader.read() == b""
        writer.close()

    play(tmp_path, scenario)


def test_the_description_names_what_a_secured_server_has(tmp_path: Path) -> None:
    async def scenario(group: Secured) -> None:
        described = (await group.ask("GET", "/openapi.json", token=None)).json()
        assert {"/ca", "/join", "/renew", "/tokens", "/tokens/{name}", "/deployments"} <= described["paths"].keys()
        assert described["security"] == [{"token": []}, {"certificate": []}] and described["paths"]["/join"]["post"]["security"] == []
        ca = await group.ask("GET", "/ca", token=None)
        assert ca.content == group.ca
        other = await group.ask("PUT", "/tokens/aaaaaaaa", {"id": "bbbbbbbb", "role": "read", "digest": "0" * 64})
        assert other.status_code == 422

    play(tmp_path, scenario)


def test_a_member_whose_id_was_removed_in_another_life_has_a_certificate_of_this_one(tmp_path: Path) -> None:
    """A backup may be begun again at an address that was removed before it was taken: what its state says of the address is over."""

    async def scenario(group: Secured) -> None:
        server = group.servers[0]
        await server.store.submit(RemoveServer(epoch=server.store.tables.cluster.epoch, id=server.config.me))
        removed_at = server.store.tables.removals[f"server/{server.config.me}"].version
        assert server.credentials is not None and admitted(server.credentials) < removed_at
        await server.stop()
        group.servers[0] = server = Server(server.config)
        await server.start()
        await eventually(lambda: server.credentials is not None and admitted(server.credentials) >= removed_at)

    play(tmp_path, scenario)


def admitted(credentials: Credentials) -> int:
    return credentials.keyring.subject.admitted if credentials.keyring.subject is not None else -1


def test_recovery_hears_that_a_server_lives_also_without_a_certificate_in_force(tmp_path: Path) -> None:
    async def scenario(group: Secured) -> None:
        assert await ask_who_lives(group.urls, blind_context()) == {group.urls[0]: None}

    play(tmp_path, scenario)
