"""The first contact with a secured cluster: the CA is fetched and compared with what the token pins before anything else is said.

What comes over that first connection is believed only because its hash is in the token; the token itself travels over a second one, to a
server that the CA vouches for.
"""

import asyncio
import logging
from collections.abc import Iterable
from ssl import SSLContext

import httpx
import msgspec

from kago.client.errors import ClientError, Problem, Unreachable
from kago.client.walk import RETRYABLE, Walker, normal_url, reason
from kago.clock import Clock
from kago.core.model.token import JoinReply, JoinRequest, TokenRole
from kago.security.authority import ca_digest, cluster_of
from kago.security.handshake import blind_context, client_context
from kago.security.subject import Role, Subject
from kago.security.tokens import Token

_logger = logging.getLogger(__name__)
FETCH_S = 3.0
CALL_S = 6.0
AGAIN_S = 1.0
MAX_CA_BYTES = 16 * 1024


class JoinRefused(ClientError):
    """Trying again would not help; the text says what would."""


async def fetch_ca(servers: Iterable[str], token: Token) -> bytes:
    """The CA (PEM) that `token` pins, from the first server that has it. Unreachable; JoinRefused where another CA answers."""
    tried: list[tuple[str, str]] = []
    for server in [normal_url(server, "https") for server in servers]:
        if not server.startswith("https://"):
            raise JoinRefused(f"{server}: a token is for https only")
        try:
            async with httpx.AsyncClient(verify=blind_context(), trust_env=False, timeout=FETCH_S) as http:
                answer = await http.get(f"{server}/ca")
        except httpx.HTTPError as error:
            tried.append((server, reason(error)))
            continue
        if not answer.is_success or len(answer.content) > MAX_CA_BYTES:
            tried.append((server, f"HTTP {answer.status_code} for its CA; is it a secured Kago server?"))
            continue
        try:
            if token.pins(ca_digest(answer.content)):
                return answer.content
        except ValueError:
            tried.append((server, "what it calls its CA cannot be read"))
            continue
        raise JoinRefused(f"{server}: its CA is not the one the token names: another cluster, or somebody in between")
    raise Unreachable(tuple(tried))


def user_context(ca_pem: bytes) -> SSLContext:
    """For somebody without a certificate: believes servers of that CA's cluster alone."""
    cluster = cluster_of(ca_pem)

    def judge(subject: Subject) -> str:
        ours = subject.cluster == cluster and subject.role is Role.SERVER
        return "" if ours else f"{subject.key} of cluster {subject.cluster} is no server of this cluster"

    return client_context(ca_pem, judge)


async def join(
    servers: Iterable[str], token: Token, *, role: TokenRole, name: str, request_pem: bytes, clock: Clock
) -> tuple[bytes, JoinReply]:
    """(CA, answer) once a server has let us in; goes on trying while none can be reached or none can decide. JoinRefused."""
    wanted, said = tuple(servers), ""
    body = msgspec.json.encode(JoinRequest(token=token.text, role=role, name=name, request=request_pem.decode()))
    while True:
        try:
            ca_pem = await fetch_ca(wanted, token)
            walker = Walker(wanted, timeout_s=CALL_S, clock=clock, tls=user_context(ca_pem))
            try:
                answer = await walker.call("POST", "/join", body=body, headers={"content-type": "application/json"})
            finally:
                await walker.close()
            return ca_pem, msgspec.json.decode(answer.content, type=JoinReply)
        except Problem as problem:
            if problem.status not in (*RETRYABLE, 409):
                raise JoinRefused(f"the cluster does not let {role} {name} in: {problem}") from None
            error: Exception = problem
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as trouble:
            raise JoinRefused(f"the answer to the join cannot be read: {trouble}") from None
        except JoinRefused:
            raise
        except ClientError as trouble:
            error = trouble
        wanted = wanted[1:] + wanted[:1]  # only the leader knows which nodes it misses
        if str(error) != said:
            said = str(error)
            _logger.warning("cannot join yet, trying on: %s", said)
        await asyncio.sleep(AGAIN_S)
