"""Hours of synthetic music as files: what is written, resumed, and refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mir_benchmarks.synth.corpus import SynthCorpus
from mir_benchmarks.synth.write import write_hours

HOURS = 4 * 2.0 / 3600


def test_files_hold_what_the_corpus_plays(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in write_hours(HOURS, tmp_path, seed=5, seconds=2.0).read_text().splitlines()]
    music = SynthCorpus(5, 4, 2.0)
    assert [row["index"] for row in rows] == [0, 1, 2, 3]
    for row in rows:
        wave, rate = soundfile.read(tmp_path / row["path"], dtype="float32")
        assert rate == 24_000 and np.abs(wave - music.read(row["index"])).max() <= 2**-15
        assert row["key"] == music.score(row["index"]).key and row["notes"]


def test_resumes_where_it_was_cut(tmp_path: Path) -> None:
    first = write_hours(HOURS, tmp_path, seconds=2.0).read_bytes()
    kept = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.flac"))}
    lost = next(iter(kept))
    lost.unlink()
    (tmp_path / "shards" / "00000000.jsonl").unlink()
    assert write_hours(HOURS, tmp_path, seconds=2.0).read_bytes() == first
    assert lost.exists() and all(path.stat().st_mtime_ns == at for path, at in kept.items() if path != lost)
    longer = write_hours(1.5 * HOURS, tmp_path, seconds=2.0).read_text().splitlines()
    assert len(longer) == 6 and longer[:4] == first.decode().splitlines()
    assert not list(tmp_path.rglob("*.partial"))


def test_workers_write_the_same(tmp_path: Path) -> None:
    alone = write_hours(HOURS, tmp_path / "a", seconds=2.0, suffix="wav")
    several = write_hours(HOURS, tmp_path / "b", seconds=2.0, suffix="wav", workers=2)
    assert alone.read_bytes() == several.read_bytes()
    for path in (tmp_path / "a").rglob("*.wav"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_other_options_and_nonsense_are_refused(tmp_path: Path) -> None:
    write_hours(HOURS / 4, tmp_path, seconds=2.0)
    with pytest.raises(ValueError, match="choose another folder"):
        write_hours(HOURS / 4, tmp_path, seconds=2.0, seed=1)
    for wrong in ({"hours": 0.0}, {"hours": float("nan")}, {"workers": 0}, {"suffix": "mp3"}):
        with pytest.raises(ValueError):
            write_hours(**{"hours": 1.0, "folder": tmp_path, **wrong})  # type: ignore[arg-type]
