"""A server's own keys at work: its certificate, who may speak on which port, and the renewal that nobody notices.

A server holds the CA's key, so it signs for itself: at its first start, at one after its certificate ran out, and at half of its life.
"""

import asyncio
import logging
import random
from typing import Any
from urllib.parse import urlsplit

from kago.client.join import JoinRefused, join
from kago.clock import Clock
from kago.config import ServeConfig
from kago.core.model.token import JoinReply, TokenRole
from kago.core.model.token import Token as KnownToken
from kago.core.state.backup import INDEX_LEAP
from kago.core.state.commands import AdoptTokens
from kago.security.authority import ca_digest
from kago.security.first import forget_first_tokens, keep_first_tokens, read_first_tokens
from kago.security.handshake import peer_of
from kago.security.keyring import LOOK_S, Keyring, KeyringError
from kago.security.subject import NotOurs, Role
from kago.security.tokens import Token
from kago.server.store import Store
from raft.errors import LogError, LogHalted
from raft.identity import id_in

_logger = logging.getLogger(__name__)
AGAIN_S = 0.5


class Credentials:
    """Of a secured server. KeyringError where the directory holds no CA key."""

    def __init__(self, keyring: Keyring, config: ServeConfig, store: Store) -> None:
        if keyring.authority is None:
            raise KeyringError(f"{keyring.directory} holds no CA key; join the cluster again with a server's token")
        self.keyring = keyring
        self.authority = keyring.authority
        self.ca_digest = ca_digest(keyring.ca_pem)
        self.first_tokens: dict[str, KnownToken] = {token.id: token for token in read_first_tokens(keyring)}
        """Those made before there was a log; they count until it holds them."""
        self._me = id_in(config.data_dir) or config.me
        self._hosts = _hosts(config)
        self._store = store
        own = keyring.subject
        named = own is not None and own.role is Role.SERVER and own.name == self._me
        if not named or not keyring.usable(now=store.clock.now()) or self._renew_in_s() <= 0:
            self._issue()
        self.raft_server = keyring.server_context(keyring.only(Role.SERVER))
        self.api_server = keyring.server_context(keyring.only(*Role), certificate_optional=True)
        self.dialling = keyring.client_context(keyring.only(Role.SERVER))
        """For connections to other servers, Raft's and the API's."""

    def server_name(self, ssl_object: Any) -> str:
        """The server at the other end of a Raft connection. NotOurs where it may not speak."""
        peer = peer_of(ssl_object)
        if peer is None:
            raise NotOurs("no certificate was shown")
        removal = self._store.tables.removals.get(peer.key)
        if removal is not None and removal.version > peer.admitted:
            raise NotOurs(f"server {peer.name} was removed from this cluster")
        return peer.name

    def left_s(self) -> tuple[float, float]:
        """Seconds until this server's certificate runs out, and until the CA does."""
        own, now = self.keyring.subject, self._store.clock.now()
        return (own.expires_at - now if own is not None else 0.0), self.authority.expires_at - now

    @property
    def tokens_adopted(self) -> bool:
        """Whether the log holds the first tokens, so that ours count no more."""
        return self._store.tables.cluster.tokens_of == self.keyring.cluster

    def named(self, id: str) -> None:
        """The cluster calls this server so: its certificate must, too."""
        if id != self._me:
            self._me = id
            self._issue()

    def welcome_server(self) -> JoinReply:
        """What a server that joins needs to be one: the CA's key, and the tokens that no log keeps yet."""
        tokens = () if self.tokens_adopted else tuple(self.first_tokens.values())
        return JoinReply(ca_key=self.authority.key_pem.decode(), admitted=self._store.tables.index, first_tokens=tokens)

    async def run(self) -> None:
        """For ever: hand the first tokens over to the log, then a new certificate at half of each one's life."""
        if self.first_tokens:
            await self._hand_over_tokens()
        if self._of_another_life():
            self._issue()
        while True:
            due_s = self._renew_in_s()
            if due_s > 0:
                await asyncio.sleep(min(LOOK_S, due_s))
                continue
            try:
                self._issue()
            except KeyringError as error:
                _logger.error("the certificate cannot be renewed, trying again: %s", error)
                await asyncio.sleep(60.0)

    async def _hand_over_tokens(self) -> None:
        while not self.tokens_adopted:
            try:
                await self._store.submit(AdoptTokens(authority=self.keyring.cluster, tokens=tuple(self.first_tokens.values())))
            except LogHalted:
                raise
            except LogError as error:
                _logger.debug("the first tokens are not in the log yet: %s", error)
            await asyncio.sleep(AGAIN_S)
        self.first_tokens = {}
        forget_first_tokens(self.keyring)

    def _of_another_life(self) -> bool:
        """Whether our certificate is from before our id was removed, or the cluster was begun again: we are a member all the same."""
        admitted = self.keyring.subject.admitted if self.keyring.subject is not None else 0
        removal = self._store.tables.removals.get(f"{Role.SERVER}/{self._me}")
        return (removal is not None and removal.version > admitted) or self._store.tables.index - admitted >= INDEX_LEAP

    def _renew_in_s(self) -> float:
        return self.keyring.renew_in_s(now=self._store.clock.now(), jitter=random.random())

    def _issue(self) -> None:
        admitted = max(self._store.tables.index, self.keyring.subject.admitted if self.keyring.subject else 0)
        try:
            self.keyring.issue(Role.SERVER, self._me, now=self._store.clock.now(), admitted=admitted, hosts=self._hosts)
        except NotOurs as error:
            raise KeyringError(f"{error}. Is this machine's clock right? Else the cluster needs a new CA: README.md, Security") from error
        _logger.info("server %s has a new certificate", self._me)


def _hosts(config: ServeConfig) -> tuple[str, ...]:
    """Under which this server may be dialled, as far as it knows."""
    api, raft = urlsplit(config.api_url).hostname, urlsplit(f"//{config.me}").hostname
    return tuple(dict.fromkeys(host for host in (api, raft, "localhost", "127.0.0.1", "::1") if host))


def open_credentials(config: ServeConfig, store: Store) -> Credentials | None:
    """From the data directory; None where it was never given a CA, or is to be ignored. KeyringError."""
    if config.insecure:
        return None
    keyring = Keyring(config.data_dir)
    return Credentials(keyring, config, store) if keyring.held else None


async def join_cluster(config: ServeConfig, token: Token, clock: Clock) -> None:
    """Get the cluster's CA from a server that has it, unless the data directory holds one. JoinRefused, KeyringError."""
    keyring = Keyring(config.data_dir)
    if keyring.held or config.insecure:
        return
    hosts = dict.fromkeys(member.rpartition(":")[0] for member in config.members if member != config.me)
    servers = config.join or tuple(f"https://{host}:{config.port}" for host in hosts)
    if not servers:
        raise JoinRefused("whom to join? Name the other servers with --peers, or their API with --join")
    ca_pem, reply = await join(servers, token, role=TokenRole.SERVER, name=config.me, request_pem=b"", clock=clock)
    if reply.first_tokens:
        keep_first_tokens(keyring, reply.first_tokens)
    keyring.adopt(ca_pem, reply.ca_key.encode())
    keyring.issue(Role.SERVER, config.me, now=clock.now(), admitted=reply.admitted, hosts=_hosts(config))
    _logger.info("joined cluster %s as server %s", keyring.cluster, config.me)
