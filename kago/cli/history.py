"""`kago changes`: who changed what and when, and what changes from now on."""

import msgspec

from kago.cli.console import note, say
from kago.cli.failures import Code, VerbFailed
from kago.cli.get import Output
from kago.cli.kinds import referenced
from kago.cli.manifest import to_yaml
from kago.cli.tables import CHANGES, columns
from kago.client.client import PATHS, Client
from kago.core.model.history import ChangeRecord

UNTABLED = ("token/", "server/")
"""What can be changed but not be got."""


async def changes(client: Client, thing: str, *, since: int, output: Output, watch: bool) -> None:
    """Print the records after the index `since`, oldest first, of `thing` (TYPE/NAME; empty: of everything)."""
    after, name = str(since) if since else "", _full(thing) if thing else ""
    lines = _Lines(client, output)
    if not watch:
        lines.show(list(await client.list(ChangeRecord, since=after, name=name)), whole=True)
        return
    seen = since
    filters = {key: value for key, value in (("since", after), ("name", name)) if value}
    async for event in client.follow(PATHS[ChangeRecord], filters):
        if event.type == "put" and event.object is not None:
            record = _record(event.object)
            if record.index > seen:
                lines.show([record])
                seen = record.index


def _full(thing: str) -> str:
    if thing.startswith(UNTABLED):
        return thing
    kind, name = referenced(thing)
    return f"{kind.singular}/{name}"


def _record(content: object) -> ChangeRecord:
    try:
        return msgspec.convert(content, ChangeRecord)
    except msgspec.ValidationError as error:
        raise VerbFailed(f"a server sent a change that this kago does not understand: {error}", Code.ERROR) from error


class _Lines:
    """One listing, or one record after another under one title line."""

    def __init__(self, client: Client, output: Output) -> None:
        self._client = client
        self._output = output
        self._titled = False

    def show(self, records: list[ChangeRecord], *, whole: bool = False) -> None:
        content = msgspec.to_builtins(records if whole else records[0])
        match self._output:
            case Output.JSON:
                encoded = msgspec.json.encode(content)
                say((msgspec.json.format(encoded, indent=2) if whole else encoded).decode())
            case Output.YAML:
                say(to_yaml(content).rstrip())
            case Output.NAME:
                for record in records:
                    say(record.name)
            case _ if not records:
                note("No changes found.")
            case _:
                self._rows(records)

    def _rows(self, records: list[ChangeRecord]) -> None:
        titles = CHANGES.titles + (CHANGES.wide_titles if self._output is Output.WIDE else ())
        rows = [CHANGES.cells(record, self._client.server_now())[: len(titles)] for record in records]
        text = columns([titles, *rows])
        say("\n".join(text.splitlines()[1:]) if self._titled else text)
        self._titled = True
