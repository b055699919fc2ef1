"""The data directory on a real file system."""

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
    assert "journal" not in disk.list()
    disk.close()


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
    journal.close()
    journal.add(b"command", 2, 1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        journal.sync()
    again.close()
