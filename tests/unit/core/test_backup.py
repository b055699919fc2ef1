"""Backups: what is read back is what was saved, and nothing that was cut off or changed by a bit is read at all."""

from hashlib import blake2b

import pytest

from kago.core.model.node import NodeStatus
from kago.core.state.backup import INDEX_LEAP, MAGIC, Header, decode, encode, reborn
from kago.core.state.commands import RegisterServer
from kago.core.state.invariants import check
from kago.core.state.machine import Machine
from tests.unit.core.stage import Stage


def staged() -> Stage:
    stage = Stage()
    stage.accepted(RegisterServer(id="s1:7080", api="http://s1:8080", software_version="0.2.0"))
    stage.node("n1")
    pods = stage.deployment(replicas=2)
    stage.assign("n1", *pods)
    stage.running("n1", pods[0])
    return stage


def saved(machine: Machine) -> bytes:
    tables = machine.tables
    header = Header(
        cluster_id=tables.cluster.id, index=tables.index, epoch=tables.cluster.epoch, term=1, raft_index=9, schema=1, digest=machine.digest,
        taken_at=1.0, taken_by="s1:7080", software_version="0.2.0", members=tuple(tables.servers.values()),
    )  # fmt: skip
    return b"".join(encode(header, machine.snapshot()()))


def test_what_was_saved_is_read_back() -> None:
    machine = staged().machine
    backup = decode(saved(machine))
    for table in ("cluster", "index", "deployments", "pods", "nodes", "servers", "unplaced_ids"):
        assert getattr(backup.tables, table) == getattr(machine.tables, table)
    assert (backup.header.index, backup.digest.hex()) == (machine.tables.index, machine.digest)
    assert check(backup.tables) == []


def test_cut_off_anywhere_it_is_refused() -> None:
    whole = saved(staged().machine)
    for length in range(len(whole)):
        with pytest.raises(ValueError, match=r"not a backup|cut off or damaged"):
            decode(whole[:length])
    with pytest.raises(ValueError, match="cut off or damaged"):
        decode(whole + b"\0")


def test_changed_anywhere_it_is_refused() -> None:
    whole = saved(staged().machine)
    for at in range(len(whole)):
        for change in (0x01, 0x80, 0xFF):
            with pytest.raises(ValueError, match=r"not a backup|cut off or damaged"):
                decode(whole[:at] + bytes([whole[at] ^ change]) + whole[at + 1 :])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "cannot be read"),
        (b"\xff\xff\xff\xff", "cannot be read"),
        (b"\x00\x00\x00\x00\xff\xff\xff\xff", "cannot be read"),
        (b"\x00\x00\x00\x7f\xff\xff\xff\xff", "cannot be read"),
        (b"\x09\x00\x00\x00\x81\xa6format\x07\xff\xff\xff\xff", "of format 7"),
        (b"\x09\x00\x00\x00\x81\xa6format\x01\xff\xff\xff\xff", "cannot be read"),
        (b"\x09\x00\x00\x00\x81\xa6format\x01\xff\xff\xff\xffmore", "do not end"),
    ],
)
def test_rubbish_with_a_good_checksum_is_refused_all_the_same(body: bytes, words: str) -> None:
    data = MAGIC + body
    data += blake2b(data, digest_size=32).digest()
    with pytest.raises(ValueError, match=words):
        decode(data)


def test_a_new_life_has_everything_but_the_servers_and_no_index_of_the_old_one() -> None:
    stage = staged()
    tables = stage.machine.tables
    index, chunks = reborn(tables, bytes(16))
    machine = Machine()
    machine.restore(index, chunks)
    assert index == tables.index + INDEX_LEAP
    assert (machine.tables.deployments, machine.tables.pods, machine.tables.nodes) == (tables.deployments, tables.pods, tables.nodes)
    assert (machine.tables.servers, machine.tables.cluster.leader, machine.tables.cluster.id) == ({}, "", "story")
    assert machine.tables.nodes["n1"].status is NodeStatus.READY
    assert check(machine.tables) == []
    assert tables.servers, "what it was made from stays as it is"
