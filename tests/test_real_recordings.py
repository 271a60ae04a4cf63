"""The real recordings that lie beside the checkout: none is skipped, and each is as long as it is."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from harness.commands import run_mert
from harness.sounds import REFERENCE, music, needs_reference

import mert
from mert.audio.find import SUFFIXES
from mert.models.config import nano

AUDIO = REFERENCE / "audio"
pytestmark = needs_reference


def recordings() -> list[Path]:
    return sorted(path for path in AUDIO.rglob("*") if path.suffix in SUFFIXES)


def test_mert_embed_takes_every_one(tmp_path: Path) -> None:
    mert.save_pretrained(mert.random_model("nano"), tmp_path / "model")
    done = run_mert("embed", AUDIO, "-m", tmp_path / "model", "-o", tmp_path / "out")
    assert done.code == 0, done.out + done.err
    rows = [json.loads(line) for line in (tmp_path / "out" / "report.jsonl").read_text().splitlines()]
    assert sorted(row["source"] for row in rows) == [str(path) for path in recordings()]
    for row in rows:
        truth = soundfile.info(row["source"])
        assert row["status"] == "ok"
        assert row["warnings"] == []
        assert row["seconds"] == pytest.approx(truth.frames / truth.samplerate, abs=1e-9)
        features = mert.Features.load(row["output"])
        assert features.values.shape == (1, row["frames"], 256)
        assert np.isfinite(features.values).all()
        assert row["frames"] == (round(row["seconds"] * 24_000) - nano().receptive_field) // 320 + 1


def test_where_the_singer_sings_the_frames_differ_from_silence() -> None:
    """vocadito's f0 track tells voiced from unvoiced: even a random model keeps the two apart in time."""
    wave, rate = soundfile.read(AUDIO / "vocadito" / "vocadito_1.wav")
    features = mert.random_model("nano").embed(wave, sr=rate, layers=["embed"])
    with open(AUDIO / "vocadito" / "vocadito_1_f0.csv", newline="") as file:
        track = np.array([[float(value) for value in row] for row in csv.reader(file)])
    assert features.times is not None
    voiced = np.interp(features.times, track[:, 0], track[:, 1] > 0) > 0.5
    frames = features.layer("embed")
    direction = frames[voiced].mean(axis=0) - frames[~voiced].mean(axis=0)
    scores = frames @ direction
    right = (scores[voiced][:, None] > scores[~voiced][None, ::7]).mean()  # area under the ROC curve
    assert right > 0.8


def test_a_quiet_copy_has_the_same_features_under_normalisation() -> None:
    m = mert.random_model("95m")
    assert m.model.config.normalize
    wave = music(2.0)
    loud, quiet = (m.embed(gain * wave, sr=24_000, layers=[2]).values for gain in (1.0, 0.01))
    assert np.abs(loud - quiet).max() < 1e-3
