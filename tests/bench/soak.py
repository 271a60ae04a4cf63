"""Embed a day of audio in bounded memory, by both kinds of network: `make soak` (by hand), or `soak.py --hours 1`."""

from __future__ import annotations

import argparse
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
from mert.models.conformer.config import ConformerConfig
from mert.models.conformer.network import Conformer
from mert.models.interface import Network
from mert.models.mert import Mert
from mert.weights.checkpoints import digest
from mert.weights.registry import ModelInfo

RATE_HZ = 24_000


def networks() -> dict[str, Network]:
    """A network of each kind, as small as its clock allows."""
    torch.manual_seed(0)
    conformer = ConformerConfig(dim=16, n_layers=1, n_heads=2, ffn_dim=32, conv_dim=8)
    return {"MERT": Mert(tiny_config(n_layers=1, conv_dim=32, window_s=5.0)), "conformer": Conformer(conformer)}


def main(hours: int) -> None:
    """Print a line for each kind of network."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        minute = music(60)
        with soundfile.SoundFile(folder / "day.flac", "w", RATE_HZ, 1) as file:
            for _ in range(hours * 60):
                file.write(minute)
        for kind, model in networks().items():
            embedder = Embedder(model, ModelInfo.of(model, "soak", licence="Apache-2.0"), digest(model), "cpu")
            print(f"{kind}: {embedded(embedder, folder / 'day.flac', folder / kind)}")


def embedded(embedder: Embedder, audio: Path, folder: Path) -> str:
    """What `mert embed` made of a recording, how fast and in how much memory."""
    mert.save_pretrained(embedder, folder / "model")
    start = time.perf_counter()
    peak = peak_mib(folder / "model", audio, folder / "out")
    elapsed = time.perf_counter() - start
    row = json.loads((folder / "out" / "report.jsonl").read_text())
    with np.load(folder / "out" / f"{audio.name}.npz") as made:
        times = made["times"]
    clock = embedder.clock
    expected = (clock.stride * (len(times) - 1) + Fraction(clock.centre)) / clock.rate_hz
    return (
        f"{row['seconds'] / 3600:.2f} h of audio, {row['frames']} frames in {elapsed:.0f} s "
        f"({row['seconds'] / elapsed:.0f} x real time), peak {peak:.0f} MiB, "
        f"last time off by {float(abs(Fraction(float(times[-1])) - expected)):.1e} s, error: {row['error']}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=int, default=24)
    main(parser.parse_args().hours)
