"""The Raft port with certificates: three members that talk, and everybody else, who does not."""

import asyncio
import ssl
import struct
import time
from pathlib import Path

import httpx
import pytest

from kago.client.join import user_context
from kago.config import ServeConfig
from kago.core.model.token import Token, TokenRole
from kago.security.authority import Authority, ca_digest
from kago.security.keyring import Keyring
from kago.security.subject import Role
from kago.security.tokens import mint
from kago.server.app import Server
from raft.contract import Role as RaftRole
from tests.integration.certificates import DAY_S, Office, intruder, wrong_for_raft
from tests.integration.test_servers import Three, eventually, free_ports


async def secured_three(base: Path, authority: Authority) -> Three:
    raft, api = free_ports(3), free_ports(3)
    members = tuple(f"127.0.0.1:{port}" for port in raft)
    servers = []
    for me, port in zip(members, api, strict=True):
        data_dir = base / str(port)
        Keyring(data_dir).adopt(authority.pem, authority.key_pem)
        servers.append(Server(ServeConfig(port=port, me=me, members=members, api_url=f"http://127.0.0.1:{port}", data_dir=data_dir)))
    await asyncio.gather(*(server.start() for server in servers))
    group = Three(servers)
    token = mint(ca_digest(authority.pem))
    for server in servers:
        assert server.credentials is not None
        server.credentials.first_tokens[token.id] = Token(id=token.id, role=TokenRole.ADMIN, digest=token.digest)
    await group.http.aclose()
    headers = {"authorization": f"Bearer {token.text}"}
    group.http = httpx.AsyncClient(timeout=8, trust_env=False, verify=user_context(authority.pem), headers=headers)
    return group


async def close(group: Three) -> None:
    await group.http.aclose()
    await asyncio.gather(*(server.stop() for server in group.servers))


async def hello_from(address: str, context: ssl.SSLContext | None, hello: bytes) -> bytes:
    """What comes back for a hello; empty where the connection is closed without a word."""
    host, port = address.split(":")
    try:
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    except (OSError, ssl.SSLError):
        return b""
    try:
        writer.write(struct.pack(">I", len(hello) + 1) + b"H" + hello)
        async with asyncio.timeout(5):
            return await reader.read(1 << 16)
    except (OSError, ssl.SSLError):
        return b""
    finally:
        writer.close()


def test_members_talk_and_intruders_do_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        office, other = Office(tmp_path / "office"), Office(tmp_path / "other")
        group = await secured_three(tmp_path, office.authority)
        try:
            await eventually(lambda: group.leader is not None)
            await eventually(lambda: all(len(server.store.tables.servers) == 3 for server in group.servers))
            target, posing = group.servers[0].config.me, group.servers[1].config.me
            told = {name: await hello_from(target, intruder(pair), b"x") for name, pair in wrong_for_raft(office, other, posing).items()}
            assert told == dict.fromkeys(told, b"")
            right = office.pair(Role.SERVER, posing)
            assert b"not a hello" in await hello_from(target, intruder(right), b"x"), "that certificate alone is heard"
            assert await hello_from(target, None, b"x") == b"", "plain text"
            assert await hello_from(target, intruder(right, version=ssl.TLSVersion.TLSv1_2), b"x") == b""
            assert not [record for record in caplog.records if record.exc_info], "no tracebacks"
            assert {server.store.status().role for server in group.servers} == {RaftRole.LEADER, RaftRole.FOLLOWER}
        finally:
            await close(group)

    asyncio.run(story())


def test_no_member_speaks_under_another_ones_name(tmp_path: Path) -> None:
    async def story() -> None:
        office = Office(tmp_path / "office")
        group = await secured_three(tmp_path, office.authority)
        try:
            await eventually(lambda: group.leader is not None)
            target, _, two = (server.config.me for server in group.servers)
            hello = group.servers[1].store.log.introduce(target)  # type: ignore[attr-defined]
            answer = await hello_from(target, intruder(office.pair(Role.SERVER, two)), hello)
            assert f"certificate is {two}'s".encode() in answer
        finally:
            await close(group)

    asyncio.run(story())


def test_a_renewal_is_used_by_the_next_connection_and_breaks_none(tmp_path: Path) -> None:
    async def story() -> None:
        office = Office(tmp_path / "office")
        group = await secured_three(tmp_path, office.authority)
        try:
            await eventually(lambda: group.leader is not None)
            before = {server.config.me: server.store.status().term for server in group.servers}
            await asyncio.sleep(1.0)  # certificates are dated to the second
            for server in group.servers:
                assert server.credentials is not None
                old = server.credentials.keyring.subject
                server.credentials._issue()
                assert server.credentials.keyring.subject != old
            made = await group.ask(group.servers[0], "POST", "/deployments", {"name": "web", "image": "nginx"})
            assert made.status_code == 201
            assert {server.config.me: server.store.status().term for server in group.servers} == before
            # Whoever comes back shakes hands with the new pairs.
            for server in group.servers:
                for peer in group.servers:
                    server.store.log._wire.drop(peer.config.me)  # type: ignore[attr-defined]
            await eventually(lambda: all(s.store.status().leader is not None for s in group.servers))
            made = await group.ask(group.servers[1], "PUT", "/deployments/web", {"replicas": 3})
            assert made.status_code == 200
        finally:
            await close(group)

    asyncio.run(story())


def test_a_server_that_was_off_for_too_long_signs_for_itself(tmp_path: Path) -> None:
    async def story() -> None:
        office = Office(tmp_path / "office")
        (raft,), (api,) = free_ports(1), free_ports(1)
        me = f"127.0.0.1:{raft}"
        keyring = Keyring(tmp_path / "s")
        keyring.adopt(office.authority.pem, office.authority.key_pem)
        keyring.issue(Role.SERVER, me, now=time.time() - 31 * DAY_S, admitted=7)
        config = ServeConfig(port=api, me=me, members=(me,), api_url=f"https://127.0.0.1:{api}", data_dir=tmp_path / "s")
        async with Server(config) as server, httpx.AsyncClient(verify=user_context(office.authority.pem), trust_env=False) as http:
            assert (await http.get(server.url + "/health")).status_code == 200
            assert server.credentials is not None and server.credentials.keyring.subject is not None
            assert server.credentials.keyring.subject.admitted == 7, "nobody lets itself in anew"

    asyncio.run(story())
