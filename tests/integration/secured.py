"""Secured servers in this process, the tokens they were founded with, and ways to ask them as anybody."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from kago.client.join import user_context
from kago.clock import SystemClock
from kago.config import AgentConfig, ServeConfig
from kago.core.model.deployment import Runtime
from kago.core.model.token import TokenRole
from kago.security import tokens
from kago.security.authority import ca_digest
from kago.security.first import found_cluster
from kago.security.keyring import Keyring
from kago.server.app import Server
from kago.server.credentials import join_cluster
from tests.integration.certificates import Office
from tests.integration.test_servers import eventually, free_ports


class Secured:
    def __init__(self, servers: list[Server], first: dict[TokenRole, tokens.Token], base: Path) -> None:
        self.servers = servers
        self.first = first
        keyring = Keyring(servers[0].config.data_dir)
        assert keyring.authority is not None
        self.office = Office(base / "office")
        self.office.authority = keyring.authority
        self.ca = keyring.ca_pem

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def context(self, pair: Path | None = None) -> ssl.SSLContext:
        """Of a client that believes this cluster's servers and shows `pair`."""
        context = user_context(self.ca)
        if pair is not None:
            context.load_cert_chain(pair)
        return context

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = "admin",
        pair: Path | None = None,
        server: int = 0,
        **headers: str,
    ) -> httpx.Response:
        """By default as the administrator; `token` may be a role of the first ones, a whole token or None."""
        if token is not None and pair is None:
            text = self.first[TokenRole(token)].text if token in tuple(TokenRole) else token
            headers["authorization"] = f"Bearer {text}"
        async with httpx.AsyncClient(verify=self.context(pair), timeout=8, trust_env=False) as http:
            return await http.request(method, self.servers[server].url + path, json=body, headers=headers)

    async def token(self, role: TokenRole, **settings: Any) -> tokens.Token:
        """A new one."""
        made = tokens.mint(ca_digest(self.ca))
        body = {"role": role, "digest": made.digest, **settings}
        answer = await self.ask("PUT", f"/tokens/{made.id}", body)
        assert answer.status_code == 200, answer.text
        return made


@asynccontextmanager
async def secured(base: Path, count: int = 1, **settings: Any) -> AsyncIterator[Secured]:
    """The first founds the cluster, the others join it with its token before there is a quorum."""
    raft, api = free_ports(count), free_ports(count)
    members = tuple(f"127.0.0.1:{port}" for port in raft)
    configs = [
        ServeConfig(
            port=port, me=me, members=members, api_url=f"https://127.0.0.1:{port}", data_dir=base / f"server-{n}",
            heartbeat_s=0.1, **settings,
        )
        for n, (me, port) in enumerate(zip(members, api, strict=True))
    ]
    first = found_cluster(Keyring(configs[0].data_dir), "c0ffee", now=time.time())
    servers = [Server(configs[0])]
    try:
        await servers[0].start()
        for config in configs[1:]:
            # Servers of one machine have ports of their own: say which one to join.
            asked = msgspec.structs.replace(config, port=configs[0].port)
            await join_cluster(asked, first[TokenRole.SERVER], SystemClock())
            servers.append(Server(config))
            await servers[-1].start()
        await eventually(lambda: all(len(server.store.tables.servers) == count for server in servers))
        await eventually(lambda: all(server.credentials is not None and server.credentials.tokens_adopted for server in servers))
        yield Secured(servers, first, base)
    finally:
        await asyncio.gather(*(server.stop() for server in servers))


def agent_config(group: Secured, base: Path, name: str = "n1", **settings: Any) -> AgentConfig:
    return AgentConfig(
        name=name, masters=tuple(group.urls), port=free_ports(1)[0], address="127.0.0.1", runtime=Runtime.PROCESS,
        data_dir=base / f"agent-{name}", **settings,
    )
