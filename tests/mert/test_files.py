"""Folders that are written whole or not at all: what was there before is replaced, or stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mert.errors import CheckpointError, OutputError
from mert.files import only_process, read_json, read_rows, write_folder, write_whole


def write(path: Path, text: str) -> None:
    with write_folder(path) as folder:
        (folder / "a.txt").write_text(text)


def test_a_folder_is_written_and_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    for text in ("first", "second"):
        write(tmp_path / "head", text)
        assert (tmp_path / "head" / "a.txt").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["head"]


@pytest.mark.parametrize("error, raised", [(KeyboardInterrupt(), KeyboardInterrupt), (OSError("full"), OutputError)])
def test_an_exchange_that_is_interrupted_keeps_the_old_folder(
    error: BaseException, raised: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "head", "first")
    rename = os.rename

    def interrupted(source: Path, target: Path) -> None:
        if Path(source).name == "new":
            raise error
        rename(source, target)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(raised):
        write(tmp_path / "head", "second")
    assert (tmp_path / "head" / "a.txt").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["head"]


def test_a_block_that_fails_leaves_the_old_folder_as_it_was(tmp_path: Path) -> None:
    write(tmp_path / "head", "first")
    with pytest.raises(ZeroDivisionError), write_folder(tmp_path / "head"):
        raise ZeroDivisionError
    assert (tmp_path / "head" / "a.txt").read_text() == "first"


def killed_while(code: str, path: Path) -> None:
    """Run lines of Python with `path` in a process that kills itself."""
    code = f"import os, sys; from pathlib import Path; from mert.files import *; path = Path(sys.argv[1])\n{code}"
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == -signal.SIGKILL


def names_after_the_next_write(folder: Path) -> set[str]:
    code = "import sys; from pathlib import Path; from mert.files import write_json; write_json(Path(sys.argv[1]), {})"
    subprocess.run([sys.executable, "-c", code, str(folder / "next.json")], check=True)
    return {path.name for path in folder.iterdir()}


def test_a_file_that_a_kill_left_unfinished_is_removed_by_the_next_write(tmp_path: Path) -> None:
    code = "with write_whole(path) as temporary:\n    temporary.write_text('half'); os.kill(os.getpid(), 9)"
    killed_while(code, tmp_path / "a.json")
    assert len(list(tmp_path.iterdir())) == 1
    assert names_after_the_next_write(tmp_path) == {"next.json"}


def test_a_folder_that_a_kill_left_moved_away_is_put_back_by_the_next_write(tmp_path: Path) -> None:
    write(tmp_path / "head", "first")
    code = (
        "rename = os.rename\n"
        "os.rename = lambda a, b: os.kill(os.getpid(), 9) if str(a).endswith('new') else rename(a, b)\n"
        "with write_folder(path) as folder: (folder / 'a.txt').write_text('second')"
    )
    killed_while(code, tmp_path / "head")
    assert not (tmp_path / "head").exists()
    assert names_after_the_next_write(tmp_path) == {"next.json", "head"}
    assert (tmp_path / "head" / "a.txt").read_text() == "first"


def test_any_name_that_the_disk_takes_can_be_written(tmp_path: Path) -> None:
    for name in ("a" * 255, "é" * 127, "[a]*?", "a\nb"):
        with write_whole(tmp_path / name) as temporary:
            temporary.write_text("whole")
    assert len(list(tmp_path.iterdir())) == 4


def test_lines_end_with_line_feeds_alone(tmp_path: Path) -> None:
    rows = [{"name": "a\u2028b\x85c.wav"}, {"name": "d.wav"}]
    (tmp_path / "rows.jsonl").write_text("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\r\n")
    assert read_rows(tmp_path / "rows.jsonl") == rows


def test_json_from_a_pipe_or_without_end_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    for path in (tmp_path / "config.json", Path("/dev/zero")):
        with pytest.raises(CheckpointError, match="no file of reasonable size"):
            read_json(path)


def test_a_system_without_locks_gets_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Windows has no fcntl."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with only_process(tmp_path, ".lock", "another run trains into it"):
        assert "cannot be locked" in caplog.text and "start nothing else that writes there" in caplog.text
