"""What verbs have in common: the options that many take, and a client for the time of one."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer

from kago.cli.failures import Code, VerbFailed
from kago.cli.get import Output
from kago.cli.serving import split_list
from kago.client.client import Client

CALL_S = 10.0
"""Longest wait of a verb for one answer: outlasts any election."""

Servers = Annotated[
    str, typer.Option("--server", "-s", envvar="KAGO_SERVER", metavar="URL[,URL…]", help="Servers of the cluster; any of them will do.")
]
Format = Annotated[Output, typer.Option("--output", "-o", envvar="KAGO_OUTPUT", help="How to print.")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", envvar="KAGO_DATA_DIR", help="Where to keep what must survive.")]


def run(servers: str, verb: Callable[[Client], Awaitable[None]]) -> None:
    """Do `verb` with a client of these servers."""

    async def session() -> None:
        try:
            client = Client(split_list(servers), timeout_s=CALL_S)
        except ValueError as error:
            raise VerbFailed(f"--server: {error}", Code.USAGE) from None
        async with client:
            await verb(client)

    asyncio.run(session())
