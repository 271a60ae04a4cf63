"""Folders that are written whole or not at all: what was there before is replaced, or stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mert.errors import OutputError
from mert.files import write_folder


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
