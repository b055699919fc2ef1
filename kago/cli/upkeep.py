"""Backups, and beginning again: a copy of the state to a file, what is in it, and a cluster that goes on from it or from what is left."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from kago.cli.console import note, say
from kago.cli.failures import Code, VerbFailed
from kago.cli.founding import note_authority
from kago.cli.get import Output
from kago.cli.manifest import to_yaml
from kago.cli.serving import default_data_dir, is_own_host, membership
from kago.cli.session import DataDir, Format, Servers, run
from kago.cli.tables import DEPLOYMENTS, duration
from kago.client.client import Client
from kago.config import API_PORT
from kago.core.model.node import NodeStatus
from kago.core.state.backup import Backup, decode

snapshot_app = typer.Typer(help="Backups of the whole state.", no_args_is_help=True, rich_markup_mode=None)

File = Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")]


@snapshot_app.command("save")
def snapshot_save(
    file: File,
    stale: Annotated[bool, typer.Option("--stale", help="Take what one server has, where there is no quorum to ask.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    server: Servers = "",
) -> None:
    """Save the whole state, at one index, while everything goes on; the file is complete and on disk when this returns."""
    if file.exists() and not force:
        raise VerbFailed(f"{file} exists already; name another file, or --force", Code.CONFLICT)

    part = file.with_name(f"{file.name}.part")
    source: list[str] = []
    try:
        with open(part, "wb", opener=_private) as out:

            async def save(client: Client) -> None:
                source.append(await client.backup(out.write, stale=stale))

            run(server, save)
            out.flush()
            os.fsync(out.fileno())
        backup = _read(part)
        os.replace(part, file)
        _sync_directory(file.parent)
    finally:
        part.unlink(missing_ok=True)
    say(f"{file}: {_contents(backup)} at index {backup.header.index}, from {source[0]}")


@snapshot_app.command("inspect")
def snapshot_inspect(file: File, output: Format = Output.TABLE) -> None:
    """Show what is in a backup, and whether it is whole; no server is needed."""
    backup = _read(file)
    if output in (Output.JSON, Output.YAML):
        content = _described(backup)
        text = to_yaml(content) if output is Output.YAML else msgspec.json.format(msgspec.json.encode(content), indent=2).decode()
        say(text.rstrip())
        return
    header, now = backup.header, time.time()
    taken = datetime.fromtimestamp(header.taken_at, UTC)
    say(
        f"cluster    {header.cluster_id}\n"
        f"taken      {taken:%Y-%m-%d %H:%M:%S} UTC, {duration(now - header.taken_at)} ago\n"
        f"by         {header.taken_by} (kago {header.software_version})\n"
        f"state      index {header.index}, epoch {header.epoch}, schema {header.schema}, digest {header.digest}\n"
        f"servers    {', '.join(f'{server.id} ({server.api})' for server in header.members) or 'none'}\n"
        f"holds      {_contents(backup)}\n"
        "file       whole: every byte fits its checksum"
    )
    if backup.tables.deployments:
        things = [backup.tables.deployments[name] for name in sorted(backup.tables.deployments)]
        say("\n" + DEPLOYMENTS.render(things, header.taken_at))


@snapshot_app.command("restore")
def snapshot_restore(
    file: File,
    data_dir: DataDir = None,
    port: Annotated[int, typer.Option(envvar="KAGO_PORT", help="As kago serve will be started with.")] = API_PORT,
    address: Annotated[
        str, typer.Option(envvar="KAGO_ADDRESS", metavar="HOST[:PORT]", help="Raft address, as kago serve will be started with.")
    ] = "",
) -> None:
    """Make an empty data directory that of a cluster of one, which goes on from the backup; containers are not touched.

    The old servers cannot come back into it, other than with empty data directories. Agents follow by themselves where the new
    server answers at an address they know.
    """
    from kago.server.backup import restore  # noqa: PLC0415 - a client verb need not load the server

    backup, directory = _read(file), data_dir or default_data_dir(f"server-{port}")
    me, _ = membership("", address, api_port=port, is_own=is_own_host)
    try:
        index = restore(backup, directory, me=me)
    except ValueError as error:
        raise VerbFailed(str(error), Code.CONFLICT) from error
    say(f"{directory}: cluster {backup.header.cluster_id} with {_contents(backup)}, from index {index} on")
    note_authority(directory, backup.tables.cluster)
    flags = f" --port {port}" * (port != API_PORT) + f" --address {address}" * bool(address)
    note(f"Start it: kago serve --data-dir {directory}{flags}")


def recover(
    data_dir: Annotated[
        list[Path], typer.Option("--data-dir", help="Data directory of a server that is stopped, or a copy of one (repeatable).")
    ],
    plan: Annotated[bool, typer.Option("--plan", help="Show what each has and what would be lost; change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
    server: Annotated[str, typer.Option("--server", "-s", metavar="URL[,URL…]", help="More servers to ask whether they live.")] = "",
) -> None:
    """Begin again from the best server that is left, when a majority of the servers is gone for good.

    Stop the servers that are left and name their data directories; those of other machines may be copied here to be compared. The best one
    becomes a cluster of one, under a new identity: the others come back with empty directories only. Containers are not touched.
    """
    from kago.cli.recover import begin_again  # noqa: PLC0415 - a client verb need not load the server

    begin_again(data_dir, plan=plan, yes=yes, servers=server)


def _read(file: Path) -> Backup:
    try:
        return decode(file.read_bytes())
    except ValueError as error:
        raise VerbFailed(f"{file}: {error}") from error


def _contents(backup: Backup) -> str:
    tables = backup.tables
    ready = sum(pod.ready for pod in tables.pods.values())
    up = sum(node.status is NodeStatus.READY for node in tables.nodes.values())
    return (
        f"{_count(len(tables.deployments), 'deployment')}, {_count(len(tables.pods), 'pod')} ({ready} ready), "
        f"{_count(len(tables.nodes), 'node')} ({up} ready)"
    )


def _described(backup: Backup) -> dict[str, object]:
    header = msgspec.to_builtins(backup.header)
    counts = {kind: len(getattr(backup.tables, kind)) for kind in ("deployments", "pods", "nodes", "servers")}
    return {**header, "counts": counts, "deployments": sorted(backup.tables.deployments), "whole": True}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
