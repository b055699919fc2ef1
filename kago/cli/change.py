"""The verbs that change something: `apply`, `delete`, `scale`."""

from collections.abc import Iterable, Sequence

from kago.cli.console import note, say
from kago.cli.failures import Code, VerbFailed, explained
from kago.cli.kinds import DEPLOYMENT, Kind, kind_of, referenced
from kago.cli.wait import wait_until_settled
from kago.client.client import Client
from kago.client.errors import ClientError, Problem
from kago.core.model.deployment import SPEC_FIELDS, Deployment, DeploymentPatch, DeploymentSpec
from kago.core.model.quantity import parse_whole


class Reporter:
    """Prints `TYPE/NAME verbed`, as every change does."""

    def __init__(self, *, only_names: bool, dry_run: bool) -> None:
        self._only_names = only_names
        self._behind = " (dry run)" if dry_run else ""

    def __call__(self, kind: Kind, name: str, verbed: str) -> None:
        thing = f"{kind.singular}/{name}"
        say(thing if self._only_names else f"{thing} {verbed}{self._behind}")


async def apply(
    client: Client, specs: Iterable[DeploymentSpec], report: Reporter, *, dry_run: bool, wait: bool, timeout_s: float | None
) -> None:
    """Make each deployment what its manifest says, in order; the first error ends it."""
    applied: list[Deployment] = []
    for spec in specs:
        try:
            deployment, verbed = await _apply_one(client, spec, dry_run=dry_run)
        except Problem as problem:
            failed = explained(problem)
            raise VerbFailed(f"deployment/{spec.name}: {failed}", failed.code) from problem
        report(DEPLOYMENT, spec.name, verbed)
        applied.append(deployment)
    if wait and not dry_run:
        await wait_until_settled(client, applied, timeout_s=timeout_s)


async def _apply_one(client: Client, spec: DeploymentSpec, *, dry_run: bool) -> tuple[Deployment, str]:
    """PUT of the whole spec, POST where there is none; again where somebody else was faster."""
    for _ in range(3):
        try:
            before = await client.get(Deployment, spec.name)
        except Problem as problem:
            if problem.status != 404:
                raise
            try:
                return await client.create(spec, dry_run=dry_run), "created"
            except Problem as raced:
                if raced.status != 409:
                    raise
                continue
        if all(getattr(before, field) == getattr(spec, field) for field in SPEC_FIELDS):
            return before, "unchanged"
        try:
            return await client.update(spec.name, spec, dry_run=dry_run), "configured"
        except Problem as raced:
            if raced.status != 404:
                raise
    raise VerbFailed(f"deployment/{spec.name} is created and deleted by somebody else at the same time", Code.CONFLICT)


async def delete(client: Client, things: Sequence[tuple[Kind, str]], report: Reporter, *, dry_run: bool, ignore_missing: bool) -> None:
    """Delete all of them, going on after an error; the first error's code counts."""
    failures: list[VerbFailed] = []
    for kind, name in things:
        try:
            await client.delete(kind.type, name, dry_run=dry_run)
        except Problem as problem:
            if problem.status != 404:
                failures.append(explained(problem))
            elif ignore_missing:
                note(f"{kind.singular}/{name} not found")
            else:
                failures.append(VerbFailed(f"{kind.singular}/{name} not found", Code.NOT_FOUND))
        except ClientError as error:
            raise explained(error) from error
        else:
            report(kind, name, "deleted")
    if failures:
        raise VerbFailed("\n".join(str(failure) for failure in failures), failures[0].code)


def scaled(words: Sequence[str], replicas: int | None) -> tuple[list[str], int]:
    """(deployment names, replicas) of `scale web 5`, `scale deployment/web --replicas 5` and `scale deployment web api 5`."""
    names = list(words)
    if replicas is None:
        replicas = parse_whole(names.pop())
        if replicas is None:
            raise VerbFailed(f"how many? Write `kago scale {words[0]} 5` or `kago scale {words[0]} --replicas 5`", Code.USAGE)
    if len(names) > 1 and "/" not in names[0] and names[0].lower() in ("deployment", "deployments", "deploy"):
        kind_of(names.pop(0))
    found: list[str] = []
    for name in names:
        kind, name = referenced(name) if "/" in name else (DEPLOYMENT, name)
        if kind is not DEPLOYMENT:
            raise VerbFailed(f"a {kind.singular} cannot be scaled, only a deployment", Code.USAGE)
        found.append(name)
    if not found:
        raise VerbFailed("which deployment? Write `kago scale NAME N`", Code.USAGE)
    return found, replicas


async def scale(
    client: Client, names: Sequence[str], replicas: int, report: Reporter, *, dry_run: bool, wait: bool, timeout_s: float | None
) -> None:
    done: list[Deployment] = []
    for name in names:
        try:
            before = await client.get(Deployment, name)
            after = await client.update(name, DeploymentPatch(replicas=replicas), dry_run=dry_run)
        except Problem as problem:
            if problem.status == 404:
                raise VerbFailed(f"deployment/{name} not found", Code.NOT_FOUND) from problem
            raise
        report(DEPLOYMENT, name, "unchanged" if before.replicas == replicas else "scaled")
        done.append(after)
    if wait and not dry_run:
        await wait_until_settled(client, done, timeout_s=timeout_s)
