"""The short form of `make fuzz`, the same cases every time, and what fuzzing found."""

import zlib
from pathlib import Path
from random import Random

import pytest

from kago.agent.notes import FILE, DataDirError, Notebook
from kago.client.errors import Problem
from raft.contract import RaftConfig
from raft.errors import Corrupt
from raft.identity import Identity
from tests.fuzz.__main__ import OPENAPI, TARGETS, fuzz, plan_of
from tests.unit.raft.memory_disk import MemoryDisk

SHORT = {**plan_of(30_000), "manifests": 150, "notes": 300, "sockets": 150, OPENAPI: 19 * 6}
CONFIG = RaftConfig(me="a:1", members=("a:1", "b:1", "c:1"))


@pytest.mark.parametrize("target", [*TARGETS, OPENAPI])
def test_nothing_is_found(target: str) -> None:
    found = fuzz({target: SHORT[target]}, seed=1)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("content", [b'{"format":1,"agent_id":"\xff"}', b"[" * 100_000], ids=["not UTF-8", "nested"])
def test_damaged_notes_are_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(DataDirError, match="is damaged"):
        Notebook(tmp_path)


@pytest.mark.parametrize("content", [b'{"detail":"\xff"}', b"[" * 100_000], ids=["not UTF-8", "nested"])
def test_an_answer_that_is_no_problem_document_becomes_one(content: bytes) -> None:
    assert Problem.decode(502, content).status == 502


def test_an_identity_that_is_not_text_is_corrupt() -> None:
    body = b'{"format":1,"me":"\xff"}'
    with pytest.raises(Corrupt):
        Identity(CONFIG, MemoryDisk({"identity": body + b"\n%08x" % zlib.crc32(body)}), Random(1))
