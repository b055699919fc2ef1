"""The data directory on a real file system."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raft.disk import FileDisk
from raft.errors import StartRefused
from raft.journal import Journal


def test_is_private_and_for_one_process_only(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path / "data")
    disk.open_append("file").close()
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "data" / "file").stat().st_mode & 0o777 == 0o600
    with pytest.raises(StartRefused, match="another process uses"):
        FileDisk(tmp_path / "data")
    disk.close()
    disk.close()
    FileDisk(tmp_path / "data").close()


_HOLDER = """
import sys
from pathlib import Path
from raft.disk import FileDisk
disk = FileDisk(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_another_process_keeps_it_until_it_ends_however(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _HOLDER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StartRefused, match="another process uses the data directory"):
            FileDisk(tmp_path)
        holder.kill()
    FileDisk(tmp_path).close()


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what was synced, and how."""
    calls: list[str] = []
    for how in ("fsync", "fdatasync"):
        real = getattr(os, how)

        def recorded(descriptor: int, how: str = how, real: object = real) -> None:
            calls.append(f"{how} {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
            assert callable(real)
            real(descriptor)

        monkeypatch.setattr(os, how, recorded)
    return calls


def test_syncs_what_must_survive_power_loss(tmp_path: Path, synced: list[str]) -> None:
    disk = FileDisk(tmp_path / "some" / "data")
    assert synced == ["fsync some", f"fsync {tmp_path.name}"], "a directory that was made is in its parent's hands"
    synced.clear()
    file = disk.open_append("a")
    file.append(b"0123")
    assert synced == []
    file.sync()
    file.close()
    disk.replace("a", "b")
    assert synced == ["fdatasync a", "fsync data"]
    synced.clear()
    disk.open_append("b", truncate_to=9).close()
    assert synced == []
    disk.open_append("b", truncate_to=2).close()
    assert synced == ["fsync b"]
    disk.close()


def test_a_group_is_one_write_and_one_sync(tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FileDisk(tmp_path)
    journal = Journal(disk)
    synced.clear()
    writes: list[int] = []
    real = os.pwrite

    def counted(descriptor: int, data: bytes, offset: int) -> int:
        writes.append(len(data))
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", counted)
    for index in range(1, 17):
        journal.add(b"command", index, 1)
    journal.sync()
    assert (len(writes), synced) == (1, ["fdatasync journal"])
    journal.close()
    disk.close()


def test_short_writes_are_continued_and_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FileDisk(tmp_path)
    file = disk.open_append("a")
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: real(descriptor, data[:3], offset))
    file.append(b"0123456789")
    assert (disk.read("a"), file.size()) == (b"0123456789", 10)

    def full(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        file.append(b"x")
    file.close()
    disk.close()


def test_what_is_written_on_after_a_sync_has_its_length_before(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path)
    file = disk.open_append("a")
    file.append(b"first")
    assert (tmp_path / "a").stat().st_size == 5, "what is written once is as long as it is"
    file.sync()
    written = bytearray(b"first")
    file.append(b"second")
    written += b"second"
    length = (tmp_path / "a").stat().st_size
    for n in range(3 * length // 1000):
        file.append(bytes([n % 255 + 1]) * 1000)
        written += bytes([n % 255 + 1]) * 1000
        assert file.size() == len(written)
        assert (tmp_path / "a").stat().st_size == length or len(written) + 1000 > length
        length = max(length, (tmp_path / "a").stat().st_size)
    long = os.urandom(length)
    file.append(long)
    written += long
    assert (tmp_path / "a").stat().st_size == len(written), "a long one is not worth it"
    file.append(b"end")
    written += b"end"
    content = disk.read("a")
    assert (content[: len(written)], content[len(written) :].strip(b"\0")) == (bytes(written), b"")
    file.close()
    disk.close()


def test_zeros_that_do_not_fit_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FileDisk(tmp_path)
    file = disk.open_append("a")
    file.sync()
    real, room = os.pwrite, 1000

    def nearly_full(descriptor: int, data: bytes, offset: int) -> int:
        if offset >= room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data[: room - offset], offset)

    monkeypatch.setattr(os, "pwrite", nearly_full)
    for size in (300, 300, 400):
        file.append(b"x" * size)
    assert (file.size(), disk.read("a")) == (1000, b"x" * 1000)
    with pytest.raises(OSError, match="No space left"):
        file.append(b"y")
    assert (file.size(), disk.read("a")) == (1000, b"x" * 1000)
    file.close()
    disk.close()


def test_appends_truncates_replaces_and_removes(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path)
    file = disk.open_append("a")
    file.append(b"0123456789")
    file.sync()
    assert file.size() == 10
    file.close()
    file.close()
    file = disk.open_append("a", truncate_to=4)
    file.append(b"x")
    file.close()
    assert disk.read("a") == b"0123x"
    disk.replace("a", "b")
    assert disk.list() == ["b"]
    disk.remove("b")
    disk.remove("b")
    with pytest.raises(FileNotFoundError):
        disk.read("b")
    disk.close()


def test_does_not_follow_a_link_out_of_the_directory(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    disk = FileDisk(tmp_path / "data")
    (tmp_path / "data" / "journal").symlink_to(outside)
    with pytest.raises(OSError, match="symbolic"):
        disk.open_append("journal")
    with pytest.raises(OSError, match="symbolic"):
        disk.read("journal")
    assert "journal" not in disk.list()
    disk.close()
    (tmp_path / "data" / "lock").unlink()
    (tmp_path / "data" / "lock").symlink_to(outside)
    with pytest.raises(OSError, match="symbolic"):
        FileDisk(tmp_path / "data")
    assert outside.read_bytes() == b"mine"


def test_the_journal_comes_back_and_a_failed_write_is_an_error(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path)
    journal = Journal(disk)
    journal.add(b"command", 1, 1)
    journal.sync()
    journal.close()
    disk.close()
    again = FileDisk(tmp_path)
    journal = Journal(again)
    assert journal[:] == [(b"command", 1, 1)]
    for index in range(2, 2000):
        journal.add(b"command", index, 1)
        if index % 7 == 0:
            journal.sync()
    journal.sync()
    copy = tmp_path / "killed"  # as a process leaves it that is killed now
    FileDisk(copy).close()
    (copy / "journal").write_bytes((tmp_path / "journal").read_bytes())
    assert (copy / "journal").read_bytes().endswith(bytes(1000))
    left = FileDisk(copy)
    recovered = Journal(left)
    assert recovered[:] == journal[:]
    recovered.add(b"command", 2000, 1)
    recovered.close()
    left.close()
    journal.close()
    journal.add(b"command", 2, 1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        journal.sync()
    again.close()
