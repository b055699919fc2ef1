"""What verbs have in common: the options that many take, and a client for the time of one."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from kago.cli.contexts import Access, remember, resolve
from kago.cli.failures import Code, VerbFailed
from kago.cli.get import Output
from kago.client.client import Client

CALL_S = 10.0
"""Longest wait of a verb for one answer: outlasts any election."""

Servers = Annotated[
    str,
    typer.Option(
        "--server", "-s", envvar="KAGO_SERVER", metavar="URL[,URL…]",
        help="Servers of the cluster, any of them will do; else the context's (kago context), else http://localhost:8080.",
    ),
]
Format = Annotated[Output, typer.Option("--output", "-o", envvar="KAGO_OUTPUT", help="How to print.")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", envvar="KAGO_DATA_DIR", help="Where to keep what must survive.")]


def run(servers: str, verb: Callable[[Client], Awaitable[None]]) -> None:
    """Do `verb` with a client of these servers; empty: of the context's."""
    run_known(servers, lambda client, known: verb(client))


def run_known(servers: str, verb: Callable[[Client, Access], Awaitable[None]]) -> None:
    """The same for a verb that wants to know the cluster's CA, too."""

    async def session() -> None:
        known = await resolve(servers, os.environ)
        try:
            token = known.token.text if known.token is not None else ""
            client = Client(known.servers, timeout_s=CALL_S, tls=known.tls, token=token)
        except ValueError as error:
            raise VerbFailed(f"--server: {error}", Code.USAGE) from None
        async with client:
            try:
                await verb(client, known)
            finally:
                with suppress(OSError):  # a home that cannot be written to is no reason to fail
                    remember(os.environ, known.context, client.announced)

    asyncio.run(session())
