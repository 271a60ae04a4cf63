"""Tags of musicnn as tables of labels: those of the teacher, in the form that heads are fitted to."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from harness.commands import run_mert
from harness.sounds import music

from probes.user_labels.table import read_labels

pytestmark = pytest.mark.skipif(find_spec("musicnn") is None, reason="the package musicnn is not installed")
RATE_HZ = 24_000


def test_tables_hold_the_tags_that_are_probable_enough(tmp_path: Path) -> None:
    from teachers.musicnn.teacher import TAG_NAMES, MusicnnTeacher

    (tmp_path / "songs").mkdir()
    for seed in range(2):
        soundfile.write(tmp_path / "songs" / f"{seed}.wav", music(3.2, RATE_HZ, seed=seed), RATE_HZ, "PCM_16")
    run = run_mert("label", tmp_path / "songs", "-o", tmp_path / "labels", "--least", "0.1", "-d", "cpu")
    assert run.code == 0, run.err
    teacher = MusicnnTeacher.installed(sample_rate=RATE_HZ)
    for name, table in (("MTT", "magnatagatune"), ("MSD", "millionsong")):
        labels = read_labels(tmp_path / "labels" / f"{table}.csv")
        assert labels.task == "multilabel"
        for item in labels.items:
            wave_N, _ = soundfile.read(tmp_path / "songs" / item.file, dtype="float32")
            probability_P = teacher.tags(torch.from_numpy(wave_N)[None])[name][0].numpy()
            wanted = {tag for tag, p in zip(TAG_NAMES[name], probability_P, strict=True) if p >= 0.1}
            near = {tag for tag, p in zip(TAG_NAMES[name], probability_P, strict=True) if abs(p - 0.1) < 1e-3}
            assert item.label ^ wanted <= near
            written_P = [item.probabilities.get(tag, p) for tag, p in zip(TAG_NAMES[name], probability_P, strict=True)]
            assert item.probabilities.keys() == set(labels.classes)
            np.testing.assert_allclose(written_P, probability_P, atol=1e-3)
            assert np.isfinite(probability_P).all()


def test_recordings_shorter_than_a_patch_are_refused(tmp_path: Path) -> None:
    (tmp_path / "songs").mkdir()
    soundfile.write(tmp_path / "songs" / "short.wav", music(1.5, RATE_HZ), RATE_HZ)
    run = run_mert("label", tmp_path / "songs", "-o", tmp_path / "labels", "-d", "cpu")
    assert run.code == 1
    assert "too short" in run.err and "Traceback" not in run.err
    assert not list((tmp_path / "labels").glob("*.csv"))
