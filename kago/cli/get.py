"""`kago get`: lists, single things, and watches that go on at another server."""

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, cast

import msgspec

from kago.cli.console import note, say
from kago.cli.failures import Code, VerbFailed
from kago.cli.kinds import Kind, Thing, queried
from kago.cli.manifest import to_yaml
from kago.cli.tables import columns
from kago.client.client import PATHS, RELIST, Client
from kago.client.errors import Problem

CONCURRENT_READS = 8


class Output(StrEnum):
    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


async def get(client: Client, words: Sequence[str], *, output: Output, selector: str, watch: bool) -> None:
    """Print what `words` name; VerbFailed 4 for names that do not exist, after printing those that do."""
    queries = queried(words)
    if watch:
        if len(queries) > 1:
            raise VerbFailed("-w follows one type at a time", Code.USAGE)
        await _follow(client, *queries[0], output=output, selector=selector)
        return
    missing: list[str] = []
    found: list[tuple[Kind, list[Thing]]] = []
    for kind, names in queries:
        things, lost = await _read(client, kind, names, selector)
        found.append((kind, things))
        missing += lost
    single = len(queries) == 1 and len(queries[0][1]) == 1
    _print(client, found, output, single=single)
    if missing:
        raise VerbFailed("\n".join(missing), Code.NOT_FOUND)


async def _read(client: Client, kind: Kind, names: tuple[str, ...], selector: str) -> tuple[list[Thing], list[str]]:
    """(things, what was said of those that are not there)."""
    if not names:
        return sorted(cast("tuple[Thing, ...]", await client.list(kind.type, selector=selector)), key=lambda thing: thing.name), []
    if selector:
        raise VerbFailed("names and a selector do not go together", Code.USAGE)
    gate = asyncio.Semaphore(CONCURRENT_READS)

    async def one(name: str) -> Thing | str:
        async with gate:
            try:
                return cast(Thing, await client.get(kind.type, name))
            except Problem as problem:
                if problem.status != 404:
                    raise
                return f"{kind.singular}/{name} not found"

    answers = await asyncio.gather(*(one(name) for name in names))
    return [a for a in answers if not isinstance(a, str)], [a for a in answers if isinstance(a, str)]


def _print(client: Client, found: list[tuple[Kind, list[Thing]]], output: Output, *, single: bool) -> None:
    everything = [thing for _, things in found for thing in things]
    match output:
        case Output.JSON | Output.YAML:
            if single and not everything:
                return
            content: object = msgspec.to_builtins(everything[0] if single else everything)
            text = to_yaml(content) if output is Output.YAML else msgspec.json.format(msgspec.json.encode(content), indent=2).decode()
            say(text.rstrip())
        case Output.NAME:
            for kind, things in found:
                for thing in things:
                    say(f"{kind.singular}/{thing.name}")
        case Output.TABLE | Output.WIDE:
            blocks = [
                kind.table.render(things, client.server_now(), wide=output is Output.WIDE) for kind, things in found if things
            ]
            if blocks:
                say("\n\n".join(blocks))
            elif not single:
                note("No resources found.")


async def _follow(client: Client, kind: Kind, names: tuple[str, ...], *, output: Output, selector: str) -> None:
    """The listing, then a line a change, until interrupted."""
    params = {"selector": selector} if selector else {}
    printer = _Lines(client, kind, output)
    known: dict[str, int] = {}
    listed: list[Thing] | None = None
    async for event in client.follow(PATHS[kind.type], params):
        match event.type:
            case t if t == RELIST:
                listed = []
            case "synced":
                if listed is not None:
                    printer.rows(sorted(listed, key=lambda thing: thing.name))
                listed = None
            case "put" | "removed" if event.object is not None:
                thing = _thing(kind, event.object)
                if names and thing.name not in names:
                    continue
                if event.type == "removed":
                    known.pop(thing.name, None)
                elif known.get(thing.name) == thing.version:
                    continue  # a listing after a gap brings what was shown already
                else:
                    known[thing.name] = thing.version
                if listed is not None:
                    listed.append(thing)
                else:
                    printer.rows([thing])


def _thing(kind: Kind, content: dict[str, Any]) -> Thing:
    try:
        return msgspec.convert(content, kind.type)
    except msgspec.ValidationError as error:
        raise VerbFailed(f"a server sent a {kind.singular} that this kago does not understand: {error}") from error


class _Lines:
    """Rows one after another under one title line, columns at least as wide as they have been."""

    def __init__(self, client: Client, kind: Kind, output: Output) -> None:
        self._client = client
        self._kind = kind
        self._output = output
        self._template: tuple[str, ...] | None = None

    def rows(self, things: list[Thing]) -> None:
        if self._output not in (Output.TABLE, Output.WIDE):
            for thing in things:
                _print(self._client, [(self._kind, [thing])], self._output, single=True)
            return
        table = self._kind.table
        titles = table.titles + (table.wide_titles if self._output is Output.WIDE else ())
        rows = [table.cells(thing, self._client.server_now())[: len(titles)] for thing in things]
        first = self._template is None
        template = self._template or titles
        self._template = tuple(max((row[n] for row in [template, *rows]), key=len) for n in range(len(titles)))
        if first and things:
            say(columns([titles, *rows]))
        elif first:
            self._template = None
        else:
            say("\n".join(columns([self._template, *rows]).splitlines()[1:]))
