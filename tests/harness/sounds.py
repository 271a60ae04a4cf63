"""Sounds and models for the tests: all synthesised, seeded and small."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from mert.embedding.embedder import Embedder
from mert.models.config import MertConfig
from mert.models.mert import Mert
from mert.weights.checkpoints import digest
from mert.weights.registry import ModelInfo

# Real recordings and published lists, which are not part of this repository: CONTRIBUTING.md, "Tests".
REFERENCE = Path(os.environ.get("MERT_REFERENCE") or "MERT_REFERENCE is not set")
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="MERT_REFERENCE names no folder (CONTRIBUTING.md)")


def music(seconds: float, rate_hz: int = 24_000, seed: int = 0) -> np.ndarray:
    """Float32 [N]: a few decaying harmonic notes and a little noise, different for each seed."""
    random = np.random.default_rng(seed)
    n = round(seconds * rate_hz)
    t = np.arange(n) / rate_hz
    wave = 0.003 * random.standard_normal(n)
    for onset in np.arange(0, seconds, 0.25):
        hz = 110 * 2 ** (random.integers(0, 30) / 12)
        note = slice(int(np.ceil(onset * rate_hz)), int((onset + 2) * rate_hz))
        since = t[note] - onset
        wave[note] += np.exp(-5 * since) * sum(np.sin(2 * np.pi * k * hz * since) / k for k in range(1, 5)) * 0.1
    return wave.astype(np.float32)


def tiny_config(**changes: object) -> MertConfig:
    """A MERT of a few thousand parameters with the published strides and kernels."""
    small = dict(
        dim=32, n_layers=3, n_heads=2, ffn_dim=64, conv_dim=16, position_kernel=16, position_groups=4, window_s=1.0
    )
    return MertConfig(**(small | changes))  # type: ignore[arg-type]


def tiny_embedder(seed: int = 0, **changes: object) -> Embedder:
    torch.manual_seed(seed)
    model = Mert(tiny_config(**changes))
    return Embedder(model, ModelInfo.of(model, "tiny", licence="Apache-2.0"), digest(model), device="cpu")


def close(got: np.ndarray, wanted: np.ndarray) -> bool:
    """CONTRIBUTING rule 2: at most 1e-5 of max(1, rms) apart; arrays of one layer."""
    scale = max(1.0, float(np.sqrt(np.mean(np.square(wanted, dtype=np.float64)))))
    return got.shape == wanted.shape and float(np.abs(got - wanted).max()) <= 1e-5 * scale


def all_close(got_LTD: np.ndarray, wanted_LTD: np.ndarray) -> bool:
    """`close` for each layer of [L, T, D]."""
    return len(got_LTD) == len(wanted_LTD) and all(map(close, got_LTD, wanted_LTD))
