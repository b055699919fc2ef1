"""Waiting until deployments are as wanted, telling meanwhile what is still missing."""

import asyncio
import re
from collections.abc import Iterable

import msgspec

from kago.cli.console import Progress, note
from kago.cli.failures import Code, VerbFailed
from kago.cli.tables import pod_word
from kago.client.client import PATHS, RELIST, Client
from kago.client.errors import ClientError
from kago.core.model.deployment import Deployment
from kago.core.model.pod import Pod, PodStatus

UNPLACED_S = 10.0
"""Pods that nothing but a lack of room holds up are given this long before we say so; nodes come and go."""
MAX_WORDS = 5

_DURATION = re.compile(r"(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9}(?:\.[0-9]{1,9})?)s?)?")


def parse_duration(text: str) -> float | None:
    """`5m`, `1h30m`, `30s` or `30` in seconds; None for `0`, no limit. VerbFailed (usage)."""
    match = _DURATION.fullmatch(text.strip())
    if not match or not any(match.groups()):
        raise VerbFailed(f"{text!r} is not a duration; write 30s, 5m, 1h30m, or 0 for no limit", Code.USAGE)
    hours, minutes, seconds = match.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds or 0) or None


def settled(deployment: Deployment) -> bool:
    """All pods there are of the newest revision, as many as wanted, and ready."""
    wanted = deployment.replicas
    return deployment.ready_replicas == deployment.updated_replicas == deployment.total_replicas == wanted


async def wait_until_settled(client: Client, deployments: Iterable[Deployment], *, timeout_s: float | None) -> None:
    """Returns when each of them is settled at or after the version given; VerbFailed 124, 8, 4 otherwise."""
    waiting = {deployment.name: deployment for deployment in deployments}
    waiting = {name: deployment for name, deployment in waiting.items() if not settled(deployment)}
    if not waiting:
        return
    try:
        async with asyncio.timeout(timeout_s):
            await _watch(client, waiting)
    except asyncio.CancelledError:
        note("interrupted; the change goes on. Follow it with `kago get deployments -w`.")
        raise
    except TimeoutError:
        missing, unplaced = await _missing(client, waiting)
        code = Code.NOT_PLACED if unplaced else Code.TIMED_OUT
        raise VerbFailed(f"not done after {timeout_s:.0f} s, and going on:\n{missing}", code) from None


async def _watch(client: Client, waiting: dict[str, Deployment]) -> None:
    """Until nothing is waited for any more, or one of the two finds that it will not come to that."""
    tasks = {asyncio.create_task(_follow(client, waiting)), asyncio.create_task(_look_for_unplaced(client, waiting))}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def _follow(client: Client, waiting: dict[str, Deployment]) -> None:
    asked = {name: deployment.spec_version for name, deployment in waiting.items()}
    with Progress() as progress:
        progress.show(_summary(waiting))
        listed: set[str] | None = None
        async for event in client.follow(PATHS[Deployment], {}):
            if event.type == RELIST:
                listed = set()
            elif event.type == "synced" and listed is not None:
                if gone := sorted(waiting.keys() - listed):
                    raise VerbFailed(f"deployment/{gone[0]} was deleted meanwhile", Code.NOT_FOUND)
                listed = None
            elif event.object is not None and event.object.get("name") in waiting:
                deployment = msgspec.convert(event.object, Deployment)
                if event.type == "removed":
                    raise VerbFailed(f"deployment/{deployment.name} was deleted meanwhile", Code.NOT_FOUND)
                if listed is not None:
                    listed.add(deployment.name)
                if deployment.spec_version < asked[deployment.name]:
                    continue
                waiting[deployment.name] = deployment
                if settled(deployment):
                    del waiting[deployment.name]
                if not waiting:
                    return
                progress.show(_summary(waiting))


async def _look_for_unplaced(client: Client, waiting: dict[str, Deployment]) -> None:
    """Ends with VerbFailed once nothing but room has been missing for UNPLACED_S."""
    alone_s = 0.0
    while alone_s < UNPLACED_S:
        await asyncio.sleep(1.0)
        try:
            pods = [pod for name in list(waiting) for pod in await client.list(Pod, deployment_name=name)]
        except ClientError:
            alone_s = 0.0  # no server just now: the watch tells what matters
            continue
        behind = [pod for pod in pods if not pod.ready]
        alone_s = alone_s + 1.0 if behind and all(_unplaced(pod) for pod in behind) else 0.0
    missing, _ = await _missing(client, waiting)
    raise VerbFailed(f"accepted, but cannot be placed now; it will be as soon as there is room:\n{missing}", Code.NOT_PLACED)


async def _missing(client: Client, waiting: dict[str, Deployment]) -> tuple[str, bool]:
    """(what each one lacks, whether it is room alone)."""
    lines: list[str] = []
    unplaced = True
    for name, deployment in sorted(waiting.items()):
        lines.append(f"  deployment/{name}: {_counts(deployment)}{f' - {deployment.message}' if deployment.message else ''}")
        try:
            pods = [pod for pod in await client.list(Pod, deployment_name=name) if not pod.ready and pod.live]
        except ClientError as error:
            lines.append(f"    {error}")
            pods = []
        unplaced = unplaced and bool(pods) and all(_unplaced(pod) for pod in pods)
        for pod in pods[:MAX_WORDS]:
            word, message = pod_word(pod), pod.message.replace("\n", "\n      ")
            reason = f" ({pod.reason})" if pod.reason not in ("", word) else ""
            lines.append(f"    pod/{pod.name}: {word}{reason} {message}".rstrip())
        if len(pods) > MAX_WORDS:
            lines.append(f"    and {len(pods) - MAX_WORDS} more")
    return "\n".join(lines), unplaced


def _unplaced(pod: Pod) -> bool:
    return pod.status is PodStatus.PENDING and pod.node_name is None


def _summary(waiting: dict[str, Deployment]) -> str:
    return "waiting for " + "; ".join(f"{name}: {_counts(deployment)}" for name, deployment in sorted(waiting.items()))


def _counts(deployment: Deployment) -> str:
    old = deployment.total_replicas - deployment.updated_replicas
    more = f", {old} of an older revision" if old else ""
    return f"{deployment.ready_replicas}/{deployment.replicas} ready, {deployment.updated_replicas} up to date{more}"
