"""With what settings a server opens its log: those of its flags, or, for one that joins a running cluster, what that cluster says.

A new server is a member once `kago cluster add` named its address, before or after it was started; until then it waits here.
"""

import asyncio
import logging
from ssl import SSLContext

from kago.client.client import Client
from kago.client.errors import ClientError
from kago.client.status import ClusterStatus
from kago.config import ServeConfig
from raft.contract import Invitation, RaftConfig, Seat
from raft.identity import id_in

_logger = logging.getLogger(__name__)
ASK_AGAIN_S = 0.5
_ASK_S = 5.0


async def log_config(config: ServeConfig, dialling: SSLContext | None = None) -> RaftConfig:
    """Waits, for ever, where a new server is not a member yet."""
    if not config.join:
        return RaftConfig(me=config.me, members=config.members, rejoin=config.rejoin, guessed=config.guessed)
    if id_in(config.data_dir) is not None:
        _logger.info("the data directory knows the cluster: --join is not needed any more")
        return RaftConfig(me=config.me, members=(), rejoin=config.rejoin, guessed=config.guessed)
    return RaftConfig(me=config.me, members=(), rejoin=config.rejoin, invitation=await _invitation(config, dialling))


async def _invitation(config: ServeConfig, dialling: SSLContext | None) -> Invitation:
    said = ""
    async with Client(config.join, timeout_s=_ASK_S, tls=dialling) as client:
        while True:
            try:
                cluster = await client.cluster()
            except ClientError as error:
                trouble = f"no server to join answers: {error}"
            else:
                found = invitation_of(cluster, config.me)
                if found is not None:
                    return found
                trouble = f"this server is not a member yet: run kago cluster add {config.me}"
            if trouble != said:
                _logger.warning("waiting: %s", trouble)
            said = trouble
            await asyncio.sleep(ASK_AGAIN_S)


def invitation_of(cluster: ClusterStatus, address: str) -> Invitation | None:
    """What a new server at `address` needs to know; None while it is no member."""
    mine = next((member for member in cluster.members if member.address == address), None)
    if mine is None or not cluster.log_id:
        return None
    seats = tuple(Seat(member.id, member.address, member.voter) for member in cluster.members)
    return Invitation(cluster=cluster.log_id, id=mine.id, seats=seats)
