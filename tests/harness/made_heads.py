"""Heads with random weights, saved as `mert probe fit` saves them, for any encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mert.describe.head import HeadCard, SavedHead
from mert.embedding.embedder import Embedder

CLASSES = {
    "key": ("classification", ["C major", "A minor", "G major"]),
    "genre": ("multilabel", ["rock", "folk", "jazz", "pop"]),
    "mood": ("regression", ["arousal", "valence"]), "beats": ("frames", ["event"]),
}  # fmt: skip


def made_head(
    encoder: Embedder, kind: str, seed: int = 0, layer: str | None = None, least: tuple[float, ...] = (), **facts: Any
) -> SavedHead:
    """A linear head of one of `CLASSES` on a layer of an encoder; `facts` change how its features were embedded."""
    task, classes = CLASSES[kind]
    pool = facts.pop("pool", None if task == "frames" else "mean")
    settings = encoder.settings(layers=[layer or encoder.layer_names[-1]], pool=pool, dtype="float32")
    features = encoder.embed(np.zeros(encoder.sample_rate), sr=encoder.sample_rate, layers=[-1], dtype="float32").meta
    width = encoder.dim * (2 if pool == "meanstd" else 1)
    random = np.random.default_rng(seed)
    tensors = {
        "w2": random.standard_normal((len(classes), width)), "b2": random.standard_normal(len(classes)),
        "mean": random.standard_normal(width), "deviation": random.uniform(0.5, 2, width),
    }  # fmt: skip
    if task == "regression":
        tensors |= {"target_mean": np.ones(len(classes)), "target_deviation": np.full(len(classes), 2.0)}
    card = HeadCard(
        task=task, classes=classes, layer=encoder.names(settings)[0], layers=list(encoder.names(settings)),
        encoder={"name": encoder.info.name, "revision": None, "sha256": encoder.sha256},
        features=features | {"pool": pool} | facts, head={"kind": "linear"}, scores={"metric": "none"},
        tracking={"post": "dbn", "tolerance_s": 0.07} if task == "frames" else None, split={}, counts={}, grid=[],
        least=list(least),
    )  # fmt: skip
    return SavedHead(card, {name: value.astype(np.float32) for name, value in tensors.items()})


def save_heads(folder: Path, **heads: SavedHead) -> Path:
    """The folder with one head in a folder each."""
    for name, head in heads.items():
        head.save(folder / name)
    return folder
