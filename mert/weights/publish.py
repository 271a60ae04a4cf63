"""A model to publish: weights, model card (README.md) and golden states in one folder."""

import logging
from pathlib import Path
from typing import Any, Protocol

import torch

from mert.errors import CheckpointError
from mert.files import write_whole
from mert.models.mert import Mert
from mert.models.onnx import OnnxMert
from mert.weights.arrays import ORIGINAL
from mert.weights.cards import model_card
from mert.weights.checkpoints import export_hubert, load_model, write_model
from mert.weights.golden import write_golden
from mert.weights.licences import restrictions
from mert.weights.registry import ModelInfo

log = logging.getLogger("mert")


class Publishable(Protocol):
    """A model and its record: an Embedder is one."""

    model: Any
    info: ModelInfo


def save_pretrained(embedder: Publishable, folder: str | Path, licence: str | None = None, half: bool = False) -> Path:
    """Write config.json, model.safetensors, README.md and golden.safetensors; returns the folder.

    `licence` is a hub licence id such as "cc-by-4.0"; by default it stays that of the loaded model, and a warning
    follows where it is less strict. `half`
    stores the weights in fp16, half the size; the golden states are those of the stored weights.
    OutputError if the disk refuses.
    """
    info = embedder.info
    if licence and restrictions(licence) < restrictions(info.licence):
        log.warning("%s is under %s, and its card will say %s", info.name, info.licence, licence)
    return _describe(write_model(_module(embedder), folder, torch.float16 if half else torch.float32), info, licence)


def save_hubert(embedder: Publishable, folder: str | Path) -> Path:
    """Write a folder that plain `transformers` loads, with README.md and golden.safetensors; returns the folder."""
    if not isinstance(model := _module(embedder), Mert):
        reason = f"is of the family {embedder.info.family}, which transformers has no class of its own for"
        raise CheckpointError(embedder.info.name, reason, "export it as safetensors")
    return _describe(export_hubert(model, folder), embedder.info)


def _module(embedder: Publishable) -> Any:
    """The model, if it is a module of torch and no graph."""
    if isinstance(embedder.model, OnnxMert):
        raise CheckpointError(embedder.model.source, "is run as a graph, whose weights cannot be written", ORIGINAL)
    return embedder.model


def _describe(folder: Path, info: ModelInfo, licence: str | None = None) -> Path:
    """Write the card and the golden states of the weights in a folder, as they were written; returns the folder."""
    model, checkpoint, _ = load_model(folder)
    card = model_card(info, model.config, checkpoint.sha256, licence)
    with write_whole(folder / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8")
    write_golden(model, folder, checkpoint.sha256)
    return folder
