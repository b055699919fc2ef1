"""How an agent comes to its certificate and keeps it: by a token at first, by itself from then on."""

import asyncio
import logging
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from kago.agent.notes import Notebook
from kago.client.client import Client
from kago.client.errors import ClientError
from kago.client.join import JoinRefused, fetch_ca, join
from kago.clock import Clock
from kago.core.model.token import TokenRole
from kago.security.authority import ca_digest
from kago.security.handshake import Judge
from kago.security.keyring import LOOK_S, Keyring, KeyringError
from kago.security.subject import Role, Subject
from kago.security.tokens import Token

logger = logging.getLogger("kago.agent")
AGAIN_S = 60.0
OTHER_CA_S = 60.0
"""A token of another CA is held up against what servers say for this long, if none can be reached."""
FRESH = "a fresh token lets it in: kago token create --role agent, then start the agent with it in KAGO_TOKEN or --token-file"


async def admitted(data_dir: Path, name: str, masters: Sequence[str], token: Token | None, clock: Clock) -> Keyring | None:
    """The keys of node `name`, after joining with `token` where need be; None where the cluster is not secured.

    KeyringError where there is neither a certificate in force nor a token; JoinRefused.
    """
    keyring = Keyring(data_dir)
    own = keyring.subject
    named = own is not None and own.role is Role.AGENT and own.name == name
    if named and keyring.usable(now=clock.now()) and not (token and await _has_another_ca(keyring, masters, token, clock)):
        return keyring
    if token is None:
        if not keyring.held:
            if secured := [master for master in masters if master.startswith("https://")]:
                raise KeyringError(f"{secured[0]} is secured and this agent has no certificate; {FRESH}")
            return None
        if own is None:
            raise KeyringError(f"this agent has no certificate any more; {FRESH}")
        if not named:
            raise KeyringError(f"this agent's certificate is for {own.key}, not for agent/{name}; {FRESH}")
        raise KeyringError(f"this agent's certificate is not in force: it ran out, or this machine's clock is wrong; {FRESH}")
    key_pem, request_pem = keyring.request()
    ca_pem, reply = await join(masters, token, role=TokenRole.AGENT, name=name, request_pem=request_pem, clock=clock)
    keyring.adopt(ca_pem)
    keyring.install(key_pem, reply.certificate.encode())
    logger.info("joined cluster %s as node %s", keyring.cluster, name)
    return keyring


def servers_of(keyring: Keyring, notebook: Notebook) -> Judge:
    """Lets the cluster's servers speak, and of those that were removed none with a certificate from before."""
    any_server = keyring.only(Role.SERVER)

    def judge(subject: Subject) -> str:
        if notebook.notes.removed_servers.get(subject.name, 0) > subject.admitted:
            return any_server(subject) or f"server {subject.name} was removed from the cluster"
        return any_server(subject)

    return judge


async def _has_another_ca(keyring: Keyring, masters: Iterable[str], token: Token, clock: Clock) -> bool:
    """Whether the cluster lost its CA and was given the one that `token` names, so that our certificate is worth nothing there.

    A token from long ago is no reason: only what a server says now counts, which may have to be waited for."""
    if token.pins(ca_digest(keyring.ca_pem)):
        return False
    until = clock.monotonic() + OTHER_CA_S
    while True:
        try:
            await fetch_ca([master for master in masters if master.startswith("https://")], token)
        except ClientError as error:
            if isinstance(error, JoinRefused) or clock.monotonic() > until:
                logger.warning("the token is of another CA than this agent's certificate, which is used on: %s", error)
                return False
        else:
            return True
        await asyncio.sleep(1.0)


async def renew(keyring: Keyring, client: Client, clock: Clock) -> None:
    """For ever: a new key and certificate at half of each one's life, while everything goes on."""
    while True:
        due_s = keyring.renew_in_s(now=clock.now(), jitter=random.random())
        if due_s > 0:
            await asyncio.sleep(min(LOOK_S, due_s))
            continue
        key_pem, request_pem = keyring.request()
        try:
            keyring.install(key_pem, await client.renew(request_pem))
            logger.info("the certificate is renewed")
        except (ClientError, KeyringError, ValueError) as error:
            logger.warning("the certificate cannot be renewed yet, trying on: %s", error)
            await asyncio.sleep(AGAIN_S)
