"""A server's own keys at work: its certificate, who may speak on which port, and the renewal that nobody notices.

A server holds the CA's key, so it signs for itself: at its first start, at one after its certificate ran out, and at half of its life.
"""

import asyncio
import logging
import random
from typing import Any

from kago.config import ServeConfig
from kago.security.handshake import peer_of
from kago.security.keyring import Keyring, KeyringError
from kago.security.subject import NotOurs, Role
from kago.server.store import Store
from raft.identity import id_in

_logger = logging.getLogger(__name__)


class Credentials:
    """Of a secured server. KeyringError where the directory holds no CA key."""

    def __init__(self, keyring: Keyring, config: ServeConfig, store: Store) -> None:
        if keyring.authority is None:
            raise KeyringError(f"{keyring.directory} holds no CA key; join the cluster again with a server's token")
        self.keyring = keyring
        self.authority = keyring.authority
        self._me = id_in(config.data_dir) or config.me
        self._store = store
        own = keyring.subject
        named = own is not None and own.role is Role.SERVER and own.name == self._me
        if not named or not keyring.usable(now=store.clock.now()) or self._renew_in_s() <= 0:
            self._issue()
        self.raft_server = keyring.server_context(keyring.only(Role.SERVER))
        self.dialling = keyring.client_context(keyring.only(Role.SERVER))
        """For connections to other servers, Raft's and the API's."""

    def server_name(self, ssl_object: Any) -> str:
        """The server at the other end. NotOurs where it may not speak."""
        peer = peer_of(ssl_object)
        if peer is None:
            raise NotOurs("no certificate was shown")
        return peer.name

    async def renew(self) -> None:
        """For ever: a new certificate at half of each one's life."""
        while True:
            await asyncio.sleep(max(1.0, self._renew_in_s()))
            try:
                self._issue()
            except KeyringError as error:
                _logger.error("the certificate cannot be renewed, trying again: %s", error)
                await asyncio.sleep(60.0)

    def _renew_in_s(self) -> float:
        return self.keyring.renew_in_s(now=self._store.clock.now(), jitter=random.random())

    def _issue(self) -> None:
        admitted = max(self._store.tables.index, self.keyring.subject.admitted if self.keyring.subject else 0)
        self.keyring.issue(Role.SERVER, self._me, now=self._store.clock.now(), admitted=admitted)
        _logger.info("server %s has a new certificate", self._me)


def open_credentials(config: ServeConfig, store: Store) -> Credentials | None:
    """From the data directory; None where it was never given a CA. KeyringError."""
    keyring = Keyring(config.data_dir)
    return Credentials(keyring, config, store) if keyring.held else None
