"""`kago recover`: a majority is gone for good, and the cluster begins again from the best server that is left."""

import asyncio
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from ssl import SSLContext

import typer

from kago.cli.console import note, say
from kago.cli.failures import Code, VerbFailed
from kago.cli.founding import note_authority
from kago.cli.serving import split_list
from kago.cli.tables import NONE, columns, duration
from kago.client.client import Client
from kago.client.errors import ClientError, Problem
from kago.client.status import ClusterStatus
from kago.security.handshake import blind_context
from kago.security.keyring import Keyring, KeyringError
from kago.security.subject import Role
from kago.server.backup import Survivor, examine_survivor, recover

ASK_S = 3.0


def begin_again(data_dirs: Sequence[Path], *, plan: bool, yes: bool, servers: str) -> None:
    """Show what each data directory holds; unless it is only a plan, make the best one that of a new cluster of one. VerbFailed."""
    survivors = [_examined(path) for path in data_dirs]
    _check_kinship(survivors)
    best = max(survivors, key=lambda survivor: survivor.remains.rank)
    known = {one.api for survivor in survivors for one in survivor.tables.servers.values()}
    living = asyncio.run(ask_who_lives(sorted(known | set(split_list(servers))), _dialling(survivors)))
    say(_overview(survivors, best, now=time.time()))
    _refuse_while_it_lives(best, living)
    note(_losses(survivors, best, living))
    if plan:
        return
    if not yes and not _confirmed(best):
        raise VerbFailed("nothing was changed; add --yes to do it", Code.USAGE)
    try:
        index, kept = recover(best)
    except ValueError as error:
        raise VerbFailed(str(error), Code.CONFLICT) from error
    say(f"{best.data_dir}: server {best.remains.address} is a cluster of one, from index {index} on; its old files are in {kept}")
    note_authority(best.data_dir, best.tables.cluster)
    note(
        f"Start it as before (kago serve --data-dir {best.data_dir} …), then add servers with empty data directories: "
        "kago cluster add ADDRESS there, kago serve --join URL --address ADDRESS on the new machine."
    )


def _examined(path: Path) -> Survivor:
    try:
        return examine_survivor(path)
    except ValueError as error:
        raise VerbFailed(str(error), Code.CONFLICT) from error


def _check_kinship(survivors: Sequence[Survivor]) -> None:
    first = survivors[0]
    for other in survivors[1:]:
        if other.remains.cluster != first.remains.cluster:
            raise VerbFailed(f"{other.data_dir} is of another cluster, or of another life of it, than {first.data_dir}", Code.CONFLICT)


def _dialling(survivors: Iterable[Survivor]) -> SSLContext | None:
    """What a server of this cluster proves itself with; None where it is not secured.

    Whoever has nothing that is in force, as after a year in a drawer, is told no more than that there is a server: enough to stop here."""
    try:
        keyrings = [Keyring(survivor.data_dir) for survivor in survivors]
    except KeyringError as error:
        raise VerbFailed(str(error), Code.CONFLICT) from error
    good = next((keyring for keyring in keyrings if keyring.usable(now=time.time())), None)
    if good is not None:
        return good.client_context(good.only(Role.SERVER))
    secured = any(one.api.startswith("https://") for survivor in survivors for one in survivor.tables.servers.values())
    return blind_context() if secured else None


async def ask_who_lives(urls: Iterable[str], tls: SSLContext | None) -> dict[str, ClusterStatus | None]:
    """What each server that lives says, by its URL; None of one that says nothing of the cluster."""

    async def one(url: str) -> tuple[str, ClusterStatus | None, bool]:
        try:
            async with Client([url], timeout_s=ASK_S, tls=tls) as client:
                return url, await client.cluster(), True
        except Problem:
            return url, None, True
        except (ClientError, ValueError):
            return url, None, False

    return {url: status for url, status, lives in await asyncio.gather(*map(one, urls)) if lives}


def _overview(survivors: Sequence[Survivor], best: Survivor, *, now: float) -> str:
    rows = [("SERVER", "TERM", "ENTRY", "INDEX", "LAST-CHANGE", "DEPLOYMENTS", "PODS", "DATA")]
    for one in sorted(survivors, key=lambda survivor: survivor.remains.rank, reverse=True):
        age = f"{duration(now - one.changed_at)} ago" if one.changed_at else NONE
        counts = (str(len(one.tables.deployments)), str(len(one.tables.pods)))
        place = f"{one.data_dir}{' (best)' if one is best else ''}"
        remains = one.remains
        rows.append((remains.id, str(remains.last_term), str(remains.last_index), str(remains.applied), age, *counts, place))
    return columns(rows)


def _refuse_while_it_lives(best: Survivor, living: dict[str, ClusterStatus | None]) -> None:
    voters = {seat.id for seat in best.remains.seats if seat.voter}
    for url, status in living.items():
        if status is not None and status.leader is not None:
            raise VerbFailed(f"nothing is to be recovered: {url} answers, and {status.leader} leads there", Code.CONFLICT)
    up = len(living)
    if up > len(voters) // 2:
        raise VerbFailed(
            f"nothing is to be recovered: {up} of {len(voters)} servers answer ({', '.join(sorted(living))}), which is a majority; start "
            "the one that is stopped, and see kago doctor why they do not elect a leader",
            Code.CONFLICT,
        )


def _losses(survivors: Sequence[Survivor], best: Survivor, living: dict[str, ClusterStatus | None]) -> str:
    voters = sorted(seat.id for seat in best.remains.seats if seat.voter)
    here = {survivor.remains.id for survivor in survivors}
    missing = [id for id in voters if id not in here]
    lines = [f"{len(voters)} servers were to vote: {', '.join(voters)}."]
    if missing:
        lines.append(f"Not looked at: {', '.join(missing)}. What these had acknowledged together and none above has is lost.")
    if len(here & set(voters)) > len(voters) // 2:
        lines.append("A majority is here: nothing acknowledged is lost. They need no recovery if they can be started as they are.")
    for other in survivors:
        if other is not best and other.remains.last_index > best.remains.last_index:
            lines.append(
                f"Entries {best.remains.last_index + 1} to {other.remains.last_index} of {other.remains.id} are of an older term and were "
                "never acknowledged, or were replaced."
            )
    for url, status in sorted(living.items()):
        where = f", without a leader, at index {status.index}" if status is not None else ""
        lines.append(
            f"{url} still runs{where}: stop it, and name its data directory too, for it may have more than index {best.remains.applied}. "
            "It cannot come into the new cluster."
        )
    return "\n".join(lines)


def _confirmed(best: Survivor) -> bool:
    return sys.stdin.isatty() and typer.confirm(f"Begin again from {best.data_dir}?")
