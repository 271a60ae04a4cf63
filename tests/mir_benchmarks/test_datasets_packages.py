"""Free recordings in Debian packages: listed with package, version and licence, on two sides that share no name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from harness.commands import run_mert

from mert.errors import MertError
from mir_benchmarks.datasets import packages
from mir_benchmarks.datasets.packages import SOUNDTRACKS, free_recordings, rows


@pytest.fixture
def installed(tmp_path: Path, write, monkeypatch: pytest.MonkeyPatch) -> Path:  # type: ignore[no-untyped-def]
    """A dpkg-query that knows one package of sounds."""
    from harness.sounds import music

    names = [f"song {i}.ogg" for i in range(30)]
    for i, name in enumerate(names):
        write(f"files/{name}", music(2.0, 24_000, seed=i))
    write("files/click.wav", music(0.3, 24_000))
    (tmp_path / "files/readme.txt").write_text("no sound")
    (tmp_path / "files/broken.ogg").write_bytes(b"OggS")
    listing = "\n".join(str(tmp_path / "files" / name) for name in [*names, "click.wav", "readme.txt", "broken.ogg"])
    program = tmp_path / "dpkg-query"
    lines = ["#!/bin/sh", f'if [ "$1" = -L ]; then cat "{tmp_path}/list"', 'elif [ "$3" = music ]; then printf 1.0']
    program.write_text("\n".join([*lines, "else exit 1; fi", ""]))
    program.chmod(0o755)
    (tmp_path / "list").write_text(f"{tmp_path / 'files'}\n{listing}\n")
    monkeypatch.setattr(shutil, "which", lambda name: str(program))
    monkeypatch.setattr(packages, "LEAST_S", 1.0)
    return tmp_path


def test_songs_are_listed_once_and_neither_effects_nor_what_is_no_sound(installed: Path) -> None:
    found = list(free_recordings({"music": "CC0-1.0"}))
    train, test = (rows(iter(found), split) for split in ("train", "test"))
    assert sorted(str(row["title"]) for row in train + test) == sorted(f"song {i}" for i in range(30))
    assert 1 <= len(test) <= 12
    assert {(row["package"], row["version"], row["licence"]) for row in train} == {("music", "1.0", "CC0-1.0")}
    assert all(row["seconds"] == pytest.approx(2.0, abs=0.05) for row in train)


def test_a_package_that_is_not_installed_is_named_with_its_command(installed: Path) -> None:
    with pytest.raises(MertError, match="Debian package other: is not installed; apt-get install other"):
        list(free_recordings({"other": "CC0-1.0"}))


def test_the_manifest_of_installed_soundtracks_can_be_trained_on(tmp_path: Path) -> None:
    done = run_mert("bench", "recordings", "-o", tmp_path / "list.jsonl")
    if done.code:
        pytest.skip(f"no soundtracks here: {done.err.strip()}")
    lines = [json.loads(line) for line in (tmp_path / "list.jsonl").read_text().splitlines()]
    assert len(lines) > 40 and {line["package"] for line in lines} == set(SOUNDTRACKS)
    assert all(Path(line["path"]).is_file() and line["split"] == "train" for line in lines)
