"""The command line: what each verb is called, takes and says of itself. What they do is next door."""

import asyncio
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer
from typer.exceptions import Abort, TyperException

from kago.cli import change, cluster, history
from kago.cli.console import note, say
from kago.cli.doctor import examine
from kago.cli.failures import Code, VerbFailed, explained
from kago.cli.founding import found_once, init, read_token
from kago.cli.get import Output
from kago.cli.get import get as get_things
from kago.cli.kinds import DEPLOYMENT, named
from kago.cli.manifest import MAX_BYTES, ManifestError, open_sources, read_manifests, to_yaml
from kago.cli.serving import ANY, agent_config, default_data_dir, serve_config
from kago.cli.session import DataDir, Format, Servers, run
from kago.cli.tables import cluster_table
from kago.cli.tokens import context_app, token_app
from kago.cli.upkeep import recover, snapshot_app
from kago.cli.wait import parse_duration
from kago.client.client import Client
from kago.client.errors import ClientError
from kago.client.fetch import FetchFailed, fetch
from kago.config import AGENT_PORT, API_PORT, DEFAULT_SERVER
from kago.security.keyring import KeyringError

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    name="kago",
    help="Runs containers on a few machines, and keeps them running when any of those machines dies.",
    epilog="Start here: kago demo. Exit codes: 0 done, 1 error, 2 usage, 4 not found, 5 conflict, 6 no server or quorum, "
    "8 accepted but no room, 124 timed out, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
cluster_app = typer.Typer(help="The control plane itself.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(cluster_app, name="cluster")
app.add_typer(snapshot_app, name="snapshot")
app.command()(recover)
app.add_typer(token_app, name="token")
app.add_typer(context_app, name="context")

Selector = Annotated[str, typer.Option("--selector", "-l", metavar="k=v,…", help="Only things with these labels.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Let the server check everything, change nothing.")]
Wait = Annotated[bool, typer.Option("--wait", help="Return when all pods of the new state are ready.")]
Timeout = Annotated[str, typer.Option("--timeout", metavar="5m", help="Longest wait of --wait; 0 is no limit.")]
Files = Annotated[
    list[str], typer.Option("--file", "-f", metavar="FILE|DIR|URL|-", help="Manifest, directory of them, address, or - (repeatable).")
]
TokenText = Annotated[str, typer.Option("--token", envvar="KAGO_TOKEN", help="Join with this token; better in KAGO_TOKEN or a file.")]
TokenFile = Annotated[Path | None, typer.Option("--token-file", envvar="KAGO_TOKEN_FILE", help="Join with the token in this file.")]


@app.command()
def serve(
    port: Annotated[int, typer.Option(envvar="KAGO_PORT", help="Port of the REST API.")] = API_PORT,
    host: Annotated[str, typer.Option(envvar="KAGO_HOST", metavar="ADDR", help="Address the REST API listens on.")] = "0.0.0.0",
    peers: Annotated[
        str,
        typer.Option(
            envvar="KAGO_PEERS", metavar="a,b,c", help="Raft addresses, host[:7080], of ALL servers, this one too, alike everywhere."
        ),
    ] = "",
    address: Annotated[
        str, typer.Option(envvar="KAGO_ADDRESS", metavar="HOST[:PORT]", help="Where the other servers reach this one; a new one moves it.")
    ] = "",
    data_dir: DataDir = None,
    scheduler: Annotated[
        str, typer.Option(envvar="KAGO_SCHEDULER", metavar="NAME", help="first-fit, best-fit, least-allocated or balanced.")
    ] = "first-fit",
    node_lease: Annotated[
        str, typer.Option(envvar="KAGO_NODE_LEASE", metavar="5s", help="A node is down this long after its last heartbeat.")
    ] = "5s",
    join: Annotated[
        str,
        typer.Option(envvar="KAGO_JOIN", metavar="URL[,URL…]", help="Become a new server of the cluster these belong to; needs --address."),
    ] = "",
    rejoin: Annotated[bool, typer.Option("--rejoin", help="This server lost its data directory: come back with an empty one.")] = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", envvar="KAGO_INSECURE", help="No TLS and no questions, on a network where you trust everybody.")
    ] = False,
    init: Annotated[bool, typer.Option("--init", envvar="KAGO_INIT", help="Begin a secured cluster with this server.")] = False,
    token: TokenText = "",
    token_file: TokenFile = None,
) -> None:
    """Start a control-plane server.

    Alone it is a cluster of one. With --peers it is one of several, and the cluster lives as long as a majority of them.
    """
    lease_s = parse_duration(node_lease)
    if lease_s is None:
        raise VerbFailed("--node-lease must be more than 0", Code.USAGE)
    shown = read_token(token, token_file)
    config = serve_config(
        host=host,
        port=port,
        peers=peers,
        address=address,
        data_dir=data_dir,
        scheduler=scheduler,
        rejoin=rejoin,
        insecure=insecure,
        node_lease_s=lease_s,
        join=join,
        joins=init or shown is not None,
    )
    if init and not insecure:
        found_once(config.data_dir)
    if insecure:
        note("warning: --insecure: whoever reaches this server's ports can read and change everything, and nothing is encrypted.")
    elif host in ANY and not config.api_url.startswith("https://"):
        note("warning: this server is not secured and its REST API listens on all addresses; choose one with --host, or secure it: --init.")
    from kago.server.app import run as run_server  # noqa: PLC0415 - a client verb need not load the server

    run_server(config, shown)


@app.command()
def agent(
    name: Annotated[str, typer.Option("--name", "-n", envvar="KAGO_NAME", help="This node's name, its own in the cluster.")],
    master: Annotated[
        str, typer.Option("--master", "-m", envvar="KAGO_MASTER", metavar="URL[,URL…]", help="Servers; it learns the others from any.")
    ] = DEFAULT_SERVER,
    port: Annotated[int, typer.Option("--port", "-p", envvar="KAGO_PORT", help="Port this agent listens on.")] = AGENT_PORT,
    address: Annotated[
        str, typer.Option("--address", "-a", envvar="KAGO_ADDRESS", metavar="HOST", help="Host others reach it by; default: host name.")
    ] = "",
    cpu: Annotated[str, typer.Option(envvar="KAGO_CPU", help="CPU it has to give, in millicores.")] = "4000",
    memory: Annotated[str, typer.Option(envvar="KAGO_MEMORY", help="Memory it has to give, in MB.")] = "8192",
    runtime: Annotated[
        str, typer.Option(envvar="KAGO_RUNTIME", metavar="docker|process|auto", help="What runs the pods; auto takes what is there.")
    ] = "auto",
    label: Annotated[list[str] | None, typer.Option("--label", metavar="k=v", help="Label of this node (repeatable).")] = None,
    data_dir: DataDir = None,
    token: TokenText = "",
    token_file: TokenFile = None,
) -> None:
    """Start the agent of a worker node: it runs the pods the control plane gives it, with or without a control plane."""
    shown = read_token(token, token_file)
    config = agent_config(
        name=name,
        masters=master,
        port=port,
        address=address,
        cpu=cpu,
        memory=memory,
        runtime=runtime,
        labels=label or (),
        data_dir=data_dir,
    )
    from kago.agent.app import run as run_agent  # noqa: PLC0415 - a client verb need not load the agent

    run_agent(config, shown)


@app.command()
def apply(
    file: Files,
    dry_run: DryRun = False,
    wait: Wait = False,
    timeout: Timeout = "5m",
    output: Format = Output.TABLE,
    server: Servers = "",
) -> None:
    """Make deployments what their manifests say; nothing is sent unless all of it is right."""
    specs = read_manifests(open_sources(file, stdin=sys.stdin.read, fetch=lambda url: fetch(url, max_bytes=MAX_BYTES)))
    timeout_s = parse_duration(timeout)
    report = change.Reporter(only_names=output is Output.NAME, dry_run=dry_run)
    run(server, lambda client: change.apply(client, specs, report, dry_run=dry_run, wait=wait, timeout_s=timeout_s))


@app.command()
def get(
    what: Annotated[list[str], typer.Argument(metavar="TYPE [NAME…] | TYPE/NAME…", help="deployments, pods or nodes.")],
    output: Format = Output.TABLE,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Then print a line a change.")] = False,
    selector: Selector = "",
    server: Servers = "",
) -> None:
    """Show things."""
    run(server, lambda client: get_things(client, what, output=output, selector=selector, watch=watch))


@app.command()
def delete(
    what: Annotated[list[str] | None, typer.Argument(metavar="[NAME… | TYPE NAME… | TYPE/NAME…]", help="What to delete.")] = None,
    file: Annotated[list[str] | None, typer.Option("--file", "-f", metavar="FILE|DIR|URL|-", help="What these describe.")] = None,
    ignore_not_found: Annotated[bool, typer.Option("--ignore-not-found", help="What is gone already is no error.")] = False,
    dry_run: DryRun = False,
    output: Format = Output.TABLE,
    server: Servers = "",
) -> None:
    """Delete deployments, pods or nodes; pods of a deployment are replaced, a bare NAME is a deployment."""
    things = named(what) if what else []
    if file:
        specs = read_manifests(open_sources(file, stdin=sys.stdin.read, fetch=lambda url: fetch(url, max_bytes=MAX_BYTES)))
        things += [(DEPLOYMENT, spec.name) for spec in specs]
    if not things:
        raise VerbFailed("delete what? Write a NAME, TYPE/NAME or -f FILE", Code.USAGE)
    report = change.Reporter(only_names=output is Output.NAME, dry_run=dry_run)
    run(server, lambda client: change.delete(client, things, report, dry_run=dry_run, ignore_missing=ignore_not_found))


@app.command()
def scale(
    what: Annotated[list[str], typer.Argument(metavar="NAME… [N]", help="deployment/NAME or NAME, and how many.")],
    replicas: Annotated[int | None, typer.Option("--replicas", min=0, help="How many, if not the last argument.")] = None,
    dry_run: DryRun = False,
    wait: Wait = False,
    timeout: Timeout = "5m",
    output: Format = Output.TABLE,
    server: Servers = "",
) -> None:
    """Set the number of replicas: kago scale web 5."""
    names, count = change.scaled(what, replicas)
    timeout_s = parse_duration(timeout)
    report = change.Reporter(only_names=output is Output.NAME, dry_run=dry_run)
    run(server, lambda client: change.scale(client, names, count, report, dry_run=dry_run, wait=wait, timeout_s=timeout_s))


@app.command("changes")
def list_changes(
    what: Annotated[str, typer.Argument(metavar="[TYPE/NAME]", help="Only what was done to this one.")] = "",
    since: Annotated[int, typer.Option("--since", metavar="INDEX", min=0, help="Only what came after this index.")] = 0,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Then print a line a change.")] = False,
    output: Format = Output.TABLE,
    server: Servers = "",
) -> None:
    """Who changed what and when; -o wide says how and from where."""
    run(server, lambda client: history.changes(client, what, since=since, output=output, watch=watch))


@cluster_app.command("init")
def cluster_init(
    data_dir: DataDir = None,
    port: Annotated[int, typer.Option(envvar="KAGO_PORT", help="Port of the server's API; names the default data directory.")] = API_PORT,
    tokens_to: Annotated[Path | None, typer.Option("--tokens-to", metavar="DIR", help="Write the tokens to files there, too.")] = None,
    once: Annotated[bool, typer.Option("--once", help="For scripts: no error where it was done; tokens in --tokens-to alone.")] = False,
) -> None:
    """Begin a secured cluster on this machine: a CA for its first server, and tokens for all that join."""
    init(data_dir or default_data_dir(f"server-{port}"), tokens_to, once=once, port=port, environment=os.environ)


@cluster_app.command("status")
def cluster_status(output: Format = Output.TABLE, server: Servers = "") -> None:
    """Who leads, how far each server is, and how many more may fail."""

    async def show(client: Client) -> None:
        cluster = await client.cluster()
        if output is Output.JSON:
            say(msgspec.json.format(msgspec.json.encode(cluster), indent=2).decode())
        elif output is Output.YAML:
            say(to_yaml(msgspec.to_builtins(cluster)).rstrip())
        else:
            say(cluster_table(cluster))

    run(server, show)


Patience = Annotated[str, typer.Option("--timeout", metavar="5m", help="Longest wait until it votes; 0 is no limit.")]


@cluster_app.command("members")
def cluster_members(output: Format = Output.TABLE, server: Servers = "") -> None:
    """Every server: its id, where it is reached, and whether it votes."""
    run(server, lambda client: cluster.members(client, output=output))


@cluster_app.command("add")
def cluster_add(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Raft address of the new server, host[:7080].")],
    timeout: Patience = "5m",
    server: Servers = "",
) -> None:
    """Add a server, and wait until it has caught up and votes. It is started with: kago serve --join URL --address ADDRESS."""
    run(server, lambda client: cluster.add(client, address, timeout_s=parse_duration(timeout)))


@cluster_app.command("remove")
def cluster_remove(
    id: Annotated[str, typer.Argument(metavar="ID", help="As `kago cluster members` shows it.")], server: Servers = ""
) -> None:
    """Remove a server for good; it stops by itself."""
    run(server, lambda client: cluster.remove(client, id))


@cluster_app.command("replace")
def cluster_replace(
    old: Annotated[str, typer.Argument(metavar="OLD", help="Id of the server that goes.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Raft address of the one that comes.")],
    timeout: Patience = "5m",
    server: Servers = "",
) -> None:
    """Put a new server in the place of another: of a dead one it is removed first, of a live one the new one is added first."""
    run(server, lambda client: cluster.replace(client, old, new, timeout_s=parse_duration(timeout)))


@cluster_app.command("transfer-leader")
def cluster_transfer_leader(
    id: Annotated[str, typer.Argument(metavar="[ID]", help="Who is to lead; left out: whoever is best placed.")] = "",
    server: Servers = "",
) -> None:
    """Let another server lead, without a moment's loss."""
    run(server, lambda client: cluster.transfer_leader(client, id))


@app.command()
def doctor(output: Format = Output.TABLE, server: Servers = "") -> None:
    """Say what is wrong with the cluster, or soon will be, and what to do about it; exit code 1 where there is anything."""
    run(server, lambda client: examine(client, output))


@app.command("demo")
def demo_command(
    runtime: Annotated[str, typer.Option(metavar="docker|process|auto", help="What runs the demo's pods.")] = "auto",
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running until Ctrl-C.")] = False,
) -> None:
    """Three servers and two agents on this machine, an application, and a leader killed under it. Cleans up after itself."""
    from kago.cli import demo  # noqa: PLC0415 - the only verb that needs it

    raise typer.Exit(asyncio.run(demo.run(runtime=runtime, keep=keep)))


@app.command("version")
def version_command() -> None:
    """Print the version of this program."""
    try:
        number = version("kago")
    except PackageNotFoundError:
        number = "unknown (not installed)"
    say(f"kago {number} (Python {platform.python_version()}, {platform.system().lower()}/{platform.machine()})")


def main() -> NoReturn:
    """Entry point of the `kago` command: every failure becomes one paragraph on stderr and an exit code."""
    try:
        code = app(prog_name="kago", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else Code.DONE)
    except TyperException as error:
        message = error.format_message()
        note(message if message.startswith("Usage") else f"error: {message}\nSee `kago --help` or `kago VERB --help`.")
        sys.exit(error.exit_code)
    except VerbFailed as failed:
        _fail(failed)
    except (ClientError, ManifestError) as error:
        _fail(explained(error))
    except KeyringError as error:
        _fail(VerbFailed(str(error)))
    except FetchFailed as error:
        _fail(VerbFailed(str(error)))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read our output has seen enough
        sys.exit(Code.ERROR)
    except OSError as error:
        _fail(explained(error))
    except (KeyboardInterrupt, Abort):
        sys.exit(Code.INTERRUPTED)


def _fail(failed: VerbFailed) -> NoReturn:
    note(f"error: {failed}")
    sys.exit(failed.code)


if __name__ == "__main__":
    main()
