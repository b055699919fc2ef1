"""The agent's data directory: one identity for ever, one agent at a time, and no guessing from a damaged file."""

from pathlib import Path

import msgspec
import pytest

from kago.agent.notes import FILE, DataDirError, Notebook


def test_the_identity_stays_and_each_start_is_counted(tmp_path: Path) -> None:
    ids = []
    for incarnation in (1, 2, 3):
        with Notebook(tmp_path / "new" / "place") as notebook:
            assert notebook.notes.incarnation == incarnation
            ids.append(notebook.notes.agent_id)
    assert len(set(ids)) == 1
    assert (tmp_path / "new" / "place").stat().st_mode & 0o777 == 0o700


def test_only_one_agent_at_a_time(tmp_path: Path) -> None:
    with Notebook(tmp_path), pytest.raises(DataDirError, match="another agent runs"):
        Notebook(tmp_path)
    with Notebook(tmp_path):
        pass


def test_nothing_is_written_where_nothing_changed(tmp_path: Path) -> None:
    with Notebook(tmp_path) as notebook:
        before = (tmp_path / FILE).stat().st_ino
        notebook.flush()
        assert (tmp_path / FILE).stat().st_ino == before
        notebook.notes = msgspec.structs.replace(notebook.notes, index=5)
        notebook.flush()
        assert (tmp_path / FILE).stat().st_ino != before


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 1}', b'{"format": 1, "agent_id": 3}'])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(DataDirError, match="is damaged"):
        Notebook(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b'{"format": 99}')
    with pytest.raises(DataDirError, match="newer Kago"):
        Notebook(tmp_path)
