"""Clips of songs in MARBLE's JSONL: one number a song, from the windows of all its clips."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from harness.sounds import music

from mir_benchmarks.datasets.dataset import TaskError
from mir_benchmarks.tasks.clips import Songs, by_song
from mir_benchmarks.tasks.kind import Options
from mir_benchmarks.tasks.registry import TASKS
from mir_benchmarks.tasks.run import run_task
from probes.clip_probe import Labelled
from probes.encoders import Encoder, EncoderFacts
from probes.results import Result, load_outputs

FACTS = EncoderFacts("level", "3" * 64, 8_000, 1.0, ("embed",), 2)


def level(wave_N: np.ndarray) -> np.ndarray:
    """One frame: how loud, and one."""
    return np.array([[[float(np.abs(wave_N).mean()), 1.0]]])


def test_keys_from_jsonl_are_scored_song_by_song(tmp_path: Path) -> None:
    home = tmp_path / "giantsteps"
    (home / "GS").mkdir(parents=True)
    for split, n_songs in (("train", 6), ("val", 4), ("test", 4)):
        lines = []
        for song in range(n_songs):
            for clip in range(song % 3 + 1):
                name = f"GS/{split}{song}_{clip}.wav"
                gain = (0.1, 1.0)[song % 2]
                soundfile.write(home / name, gain * music(1.5, 8_000, seed=10 * song + clip), 8_000)
                label = ("C major", "A minor")[song % 2]
                facts = {"ori_uid": f"{split}{song}", "artist": f"{split} band" if song < 2 else ""}
                lines.append(json.dumps({"audio_path": name, "label": label} | facts))
        (home / f"GS.{split}.jsonl").write_text("\n".join(lines))
    options = Options(lrs=(1e-2,), seeds=(0,), max_epochs=40, protocol={"features": "standardized"})
    path = run_task(TASKS["giantsteps_key"], Encoder(FACTS, level), home=tmp_path, out=tmp_path, options=options)
    outputs, result = load_outputs(path), Result.load(path)
    assert outputs.ids.tolist() == ["test0", "test1", "test2", "test3"]
    assert outputs.groups is not None and outputs.groups[:2].tolist() == ["test band"] * 2
    assert len(set(outputs.groups)) == 3 and result.score["groups"] == 3
    assert result.score["n"] == 4 and result.score["mean"] == 100.0
    assert any("clips of 14 songs, scored song by song" in note for note in result.notes)
    few, encoder = replace(options, limit=6), Encoder(FACTS, level)  # without features of before
    result = Result.load(run_task(TASKS["giantsteps_key"], encoder, home=tmp_path, out=tmp_path / "few", options=few))
    assert result.score["n"] == 4 and str(result.limit).startswith("6 items of each split")


def test_a_song_has_the_windows_of_its_clips_in_order() -> None:
    class Rows:
        layers = ("embed",)

        def rows(self, ids: list[str]) -> tuple[np.ndarray, np.ndarray]:
            return np.array([int(name) for name in ids]), np.arange(len(ids))

        def windows(self, rows: np.ndarray, layer: int | slice) -> np.ndarray:
            return rows[:, None].astype(np.float32)

    source = Songs(Rows(), {"7": "b", "2": "a", "9": "b"})
    rows, owners = source.rows(["b", "a", "5"])
    assert rows.tolist() == [7, 9, 2, 5] and owners.tolist() == [0, 0, 1, 2]


def test_a_song_of_two_labels_is_refused() -> None:
    for targets in (np.array([3, 5]), np.array([[0.5, np.nan], [0.5, 0.1]])):
        with pytest.raises(TaskError, match="x: its clips a and b have different labels"):
            by_song({"train": Labelled(("a", "b"), targets)}, {"a": "x", "b": "x"})


def test_a_song_in_two_splits_is_refused() -> None:
    splits = {name: Labelled((f"{name}1",), np.array([0])) for name in ("train", "test")}
    with pytest.raises(TaskError, match="x: has clips in train and in test"):
        by_song(splits, {"train1": "x", "test1": "x"})
