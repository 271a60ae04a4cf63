"""Embed a day of audio in bounded memory: `make soak` (by hand, about ten minutes on two cores)."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from embedding import peak_mib
from harness.sounds import music, tiny_config

import mert
from mert.embedding.embedder import Embedder
from mert.models.mert import Mert
from mert.weights.checkpoints import digest
from mert.weights.registry import ModelInfo

HOURS = 24
RATE_HZ = 24_000


def main() -> None:
    torch.manual_seed(0)
    model = Mert(tiny_config(n_layers=1, conv_dim=32, window_s=5.0))
    embedder = Embedder(model, ModelInfo.of(model, "soak", licence="Apache-2.0"), digest(model), "cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mert.save_pretrained(embedder, folder / "model")
        minute = music(60)
        with soundfile.SoundFile(folder / "day.flac", "w", RATE_HZ, 1) as file:
            for _ in range(HOURS * 60):
                file.write(minute)
        start = time.perf_counter()
        peak = peak_mib(folder / "model", folder / "day.flac", folder / "out")
        elapsed = time.perf_counter() - start
        row = json.loads((folder / "out" / "report.jsonl").read_text())
        with np.load(folder / "out" / "day.flac.npz") as made:
            times = made["times"]
    expected = Fraction(320 * (len(times) - 1) + 200, RATE_HZ)
    print(
        f"{row['seconds'] / 3600:.2f} h of audio, {row['frames']} frames in {elapsed:.0f} s "
        f"({row['seconds'] / elapsed:.0f} x real time), peak {peak:.0f} MiB, "
        f"last time off by {float(abs(Fraction(float(times[-1])) - expected)):.1e} s, error: {row['error']}"
    )


if __name__ == "__main__":
    main()
