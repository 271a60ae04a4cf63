"""Writing a model to publish: weights, model card and golden states in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from mert.files import write_whole
from mert.models.mert import Mert
from mert.weights.card import model_card
from mert.weights.checkpoints import load_model, write_model
from mert.weights.golden import write_golden
from mert.weights.registry import ModelInfo


class Publishable(Protocol):
    """A model and its record: an Embedder is one."""

    model: Mert
    info: ModelInfo


def save_pretrained(embedder: Publishable, folder: str | Path, licence: str | None = None, half: bool = False) -> Path:
    """Write config.json, model.safetensors, README.md and golden.safetensors; returns the folder.

    `licence` is a hub licence id such as "cc-by-4.0"; by default it stays that of the loaded model. `half`
    stores the weights in fp16, half the size; the golden states are those of the stored weights.
    OutputError if the disk refuses.
    """
    folder = write_model(embedder.model, folder, torch.float16 if half else torch.float32)
    model, checkpoint, _ = load_model(folder)  # the golden states are of the weights as written
    card = model_card(embedder.info, model.config, checkpoint.sha256, licence)
    with write_whole(folder / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8")
    write_golden(model, folder, checkpoint.sha256)
    return folder
