"""Golden stories: the commands of each transcript, and below each what it was answered and what it changed.

`KAGO_REWRITE=1 pytest tests/unit/core/test_transcripts.py` writes the answers and changes anew; read the difference before keeping it.
In commands and changes `web.1` is the first pod ever made for the deployment web, `web.2` the second.
"""

import os
import re
from pathlib import Path

import msgspec
import pytest

from kago.core.model.deployment import SPEC_FIELDS
from kago.core.model.pod import Pod
from kago.core.state.changes import Change, Put, Thing
from kago.core.state.commands import AnyCommand
from kago.core.state.rejections import Rejection, Reply
from tests.unit.core.stage import Stage

STORIES = sorted(Path(__file__).parent.glob("transcripts/*.txt"))
HIDDEN = ("version", "kind", "name", "deployment_name")


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    told = path.read_text()
    retold = Story().tell(told)
    if os.environ.get("KAGO_REWRITE"):
        path.write_text(retold)
    else:
        assert retold == told


class Story:
    def __init__(self) -> None:
        self.stage = Stage(epoch=0)
        self.ids: dict[str, str] = {}
        """Pod id by its name in the story."""

    def tell(self, text: str) -> str:
        """The same story with answers and changes as they are now."""
        lines: list[str] = []
        for line in text.splitlines():
            if line.startswith("> "):
                lines += [line, *self.act(line[2:])]
            elif not line.startswith("  "):
                lines.append(line)
        return "\n".join(lines) + "\n"

    def act(self, line: str) -> list[str]:
        verb, _, body = line.partition(" ")
        fields = msgspec.json.decode(re.sub(r'"([\w-]+\.\d+)"', lambda match: f'"{self.ids.get(match[1], match[1])}"', body))
        command = msgspec.convert({"type": verb, **fields}, type=AnyCommand)
        reply = self.stage.do(command)
        self._name_new_pods()
        return [f"  {self._answer(reply)}", *(f"  {self._change(change)}" for change in self.stage.changes)]

    def _name_new_pods(self) -> None:
        for change in self.stage.changes:
            if isinstance(change, Put) and isinstance(change.after, Pod) and change.before is None:
                ordinal = 1 + sum(name.rpartition(".")[0] == change.after.deployment_name for name in self.ids)
                self.ids[f"{change.after.deployment_name}.{ordinal}"] = change.after.id

    def _answer(self, reply: Reply) -> str:
        if isinstance(reply, Rejection):
            return f"refused: {reply.refusal} ({reply.detail})"
        return "accepted" + (f", {reply.count} pods" if reply.count else "") + ("" if reply.changed else ", unchanged")

    def _change(self, change: Change) -> str:
        if not isinstance(change, Put):
            return f"- {self._title(change.before)}"
        after, before = self._fields(change.after), self._fields(change.before)
        shown = " ".join(f"{name}={value}" for name, value in after.items() if before.get(name) != value)
        return f"{'~' if change.before else '+'} {self._title(change.after)} {shown}"

    def _title(self, thing: Thing) -> str:
        if isinstance(thing, Pod):
            return f"pod {next(name for name, id in self.ids.items() if id == thing.id)}"
        return f"{type(thing).__name__.lower()} {getattr(thing, 'name', '') or getattr(thing, 'id', '')}"

    def _fields(self, thing: Thing | None) -> dict[str, str]:
        """The fields worth showing, as JSON: a pod's template is its deployment's."""
        if thing is None:
            return {}
        template = SPEC_FIELDS if isinstance(thing, Pod) else ()
        values = {name: getattr(thing, name) for name in thing.__struct_fields__}
        fields = {name: msgspec.json.encode(value).decode() for name, value in values.items() if value is not msgspec.UNSET}
        shown = {name: value for name, value in fields.items() if name not in HIDDEN and name not in template and name != "id"}
        return {name: value for name, value in shown.items() if value not in ('""', "{}", "[]", "null")}
