"""The short form of `make fuzz`, the same cases every time, and what fuzzing found."""

import asyncio
import ssl
import zlib
from pathlib import Path
from random import Random

import httpx
import pytest

from kago.agent.notes import FILE, DataDirError, Notebook
from kago.client.client import Client
from kago.client.errors import Problem, Unreachable
from kago.core.model.pod import Pod
from kago.security.authority import Authority, ca_digest, new_key
from kago.security.subject import NotOurs, Role, Subject, subject_of
from raft.contract import RaftConfig
from raft.errors import Corrupt
from raft.identity import Identity
from tests.fuzz.__main__ import OPENAPI, SECURED, TARGETS, fuzz, plan_of
from tests.unit.raft.memory_disk import MemoryDisk

SHORT = {**plan_of(30_000), "manifests": 150, "notes": 300, "sockets": 150, OPENAPI: 19 * 6, SECURED: 19 * 4}
CONFIG = RaftConfig(me="a:1", members=("a:1", "b:1", "c:1"))


@pytest.mark.parametrize("target", [*TARGETS, OPENAPI, SECURED])
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


def test_an_answer_that_cannot_be_unpacked_is_none() -> None:
    async def story() -> None:
        def answer(request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(b"rubbish"))

        async with Client(["http://a:1"], http=httpx.AsyncClient(transport=httpx.MockTransport(answer))) as client:
            with pytest.raises(Unreachable):
                await client.list(Pod)

    asyncio.run(story())


def test_of_a_list_of_servers_only_those_are_learnt_that_are_any() -> None:
    async def story() -> None:
        async with Client(["http://a:1"]) as client:
            client.learn(["http://b:1", "\u202e", "ftp://c"])
            assert client.servers == ("http://a:1", "http://b:1")

    asyncio.run(story())


@pytest.mark.parametrize("where", ["uri", "version"])
def test_a_certificate_that_is_none_is_refused_in_words(where: str) -> None:
    authority = Authority.make("c0ffee", now=0.0)
    der = pem_to_der(authority.certify(new_key().public_key(), Subject(cluster="c", role=Role.AGENT, name="n1"), now=0.0))
    spoilt = der.replace(b"kago://c/", b"kago://[/") if where == "uri" else der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x22")
    with pytest.raises(NotOurs):
        subject_of(spoilt)
    ca = pem_to_der(authority.pem).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x22")
    with pytest.raises(ValueError, match="no certificate of a CA"):
        ca_digest(ssl.DER_cert_to_PEM_cert(ca).encode())


def pem_to_der(pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.decode())


def test_an_identity_that_is_not_text_is_corrupt() -> None:
    body = b'{"format":1,"me":"\xff"}'
    with pytest.raises(Corrupt):
        Identity(CONFIG, MemoryDisk({"identity": body + b"\n%08x" % zlib.crc32(body)}), Random(1))
