"""Files are whole or not there, and what is no regular file stays what it is."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from kd.files import write_whole


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("old")
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "real" / "a.txt")
    write_whole(link, lambda path: path.write_text("new"))
    assert link.is_symlink()
    assert (tmp_path / "real" / "a.txt").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    heard: list[str] = []
    reader = threading.Thread(target=lambda: heard.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    write_whole(tmp_path / "pipe", lambda path: path.write_text("told"))
    reader.join(20)
    assert heard == ["told"]
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.txt", "pipe", "real"]


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    def breaks(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left") as told:
        write_whole(tmp_path / "new" / "a.txt", breaks)
    assert told.value.filename == str(tmp_path / "new" / "a.txt")
    assert not any((tmp_path / "new").iterdir())
