"""`kago token …` and `kago context …`: who may come in, and which clusters this user knows."""

import asyncio
import os
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from kago.cli import contexts
from kago.cli.console import note, say
from kago.cli.failures import Code, VerbFailed
from kago.cli.founding import read_token
from kago.cli.get import Output
from kago.cli.manifest import to_yaml
from kago.cli.serving import split_list
from kago.cli.session import Format, Servers, run, run_known
from kago.cli.tables import context_table, token_table
from kago.cli.wait import parse_duration
from kago.client.client import Client
from kago.core.model.token import JOINING, NewToken, TokenRole
from kago.security.authority import ca_digest
from kago.security.tokens import mint

JOIN_TTL = "1h"
USER_TTL = "2160h"
"""90 days."""

token_app = typer.Typer(help="Who may come in: tokens to join with, and users'.", no_args_is_help=True, rich_markup_mode=None)
context_app = typer.Typer(help="The clusters this user knows.", no_args_is_help=True, rich_markup_mode=None)


@token_app.command("create")
def create(
    role: Annotated[TokenRole, typer.Option(help="server and agent join with it; read, write and admin are users.")] = TokenRole.AGENT,
    ttl: Annotated[str, typer.Option(metavar="1h", help="How long it counts, 0 for ever; by default 1h, a user's 90 days.")] = "",
    uses: Annotated[int, typer.Option(min=0, help="How many may join with it; 0: any number while it counts.")] = 1,
    description: Annotated[str, typer.Option(help="For whoever reads the list later.")] = "",
    server: Servers = "",
) -> None:
    """Make a token and print it; it is shown this once, and only its hash leaves this machine."""
    ttl_s = parse_duration(ttl or (JOIN_TTL if role in JOINING else USER_TTL))

    async def made(client: Client, known: contexts.Access) -> None:
        if not known.ca:
            raise VerbFailed("tokens are of secured clusters, and this one is asked without TLS: see `kago context add`", Code.USAGE)
        token = mint(ca_digest(known.ca))
        counted = uses if role in JOINING and uses else None
        asked = NewToken(id=token.id, role=role, digest=token.digest, ttl_s=ttl_s, uses=counted, description=description)
        await client.create_token(asked)
        note(f"token/{token.id} created; nobody can show it again")
        say(token.text)

    run_known(server, made)


@token_app.command("ls")
def list_tokens(output: Format = Output.TABLE, server: Servers = "") -> None:
    """Show the tokens there are; never their secrets."""

    async def shown(client: Client) -> None:
        found = await client.tokens()
        if output is Output.JSON:
            say(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        elif output is Output.YAML:
            say(to_yaml(msgspec.to_builtins(found)).rstrip())
        elif output is Output.NAME:
            say("\n".join(f"token/{token.id}" for token in found))
        elif not found:
            note("No resources found.")
        else:
            say(token_table(found, client.server_now()))

    run(server, shown)


@token_app.command("revoke")
def revoke(ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Of kago token ls.")], server: Servers = "") -> None:
    """Shut out whoever holds these tokens, at once. Machines that joined with one stay: delete the node to remove it."""

    async def revoked(client: Client) -> None:
        for id in ids:
            await client.revoke_token(id.removeprefix("token/"))
            say(f"token/{id.removeprefix('token/')} revoked")

    run(server, revoked)


@context_app.command("ls")
def list_contexts() -> None:
    """Show the known clusters; the one in use is marked."""
    known = contexts.load(os.environ)
    if not known.contexts:
        note("No contexts: kago context add NAME --server https://…")
        return
    rows = [(name, context.servers, bool(context.ca), bool(context.token)) for name, context in sorted(known.contexts.items())]
    say(context_table(rows, current=os.environ.get("KAGO_CONTEXT") or known.current))


@context_app.command("use")
def use_context(name: str) -> None:
    """Let every verb go to this cluster from now on."""
    contexts.use(os.environ, name)
    say(f"context/{name} in use")


@context_app.command("add")
def add_context(
    name: str,
    server: Annotated[str, typer.Option("--server", "-s", metavar="URL[,URL…]", help="Servers of the cluster.")],
    token: Annotated[str, typer.Option("--token", envvar="KAGO_TOKEN", help="Who you are there; better in KAGO_TOKEN or a file.")] = "",
    token_file: Annotated[Path | None, typer.Option("--token-file", envvar="KAGO_TOKEN_FILE", help="A file with the token.")] = None,
    use: Annotated[bool, typer.Option("--use", help="And use it from now on; the first one is used in any case.")] = False,
) -> None:
    """Remember a cluster under a name; with a token, its CA is fetched and compared with what the token says."""
    servers = tuple(split_list(server))
    asyncio.run(contexts.add(os.environ, name, servers, read_token(token, token_file), use=use))
    say(f"context/{name} created")


@context_app.command("rm")
def remove_context(name: str) -> None:
    """Forget a cluster and the token for it."""
    contexts.remove(os.environ, name)
    say(f"context/{name} deleted")
