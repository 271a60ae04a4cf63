"""A model to publish: weights, model card (README.md) and golden states in one folder."""

import logging
from pathlib import Path
from typing import Any, Protocol

import torch

from mert.errors import CheckpointError
from mert.files import write_whole
from mert.models.mert import Mert
from mert.models.onnx import OnnxModel
from mert.weights.arrays import ORIGINAL
from mert.weights.cards import model_card
from mert.weights.centres import HasCentres, carry_centres
from mert.weights.checkpoints import export_hubert, load_model, write_model
from mert.weights.golden import write_golden
from mert.weights.heads import carry_heads, head_cards
from mert.weights.licences import restrictions
from mert.weights.registry import ModelInfo

log = logging.getLogger("mert")


class Publishable(HasCentres, Protocol):
    """A model and its record: an Embedder is one."""

    model: Any
    info: ModelInfo


def save_pretrained(embedder: Publishable, folder: str | Path, licence: str | None = None, half: bool = False) -> Path:
    """Write config.json, model.safetensors, README.md and golden.safetensors; returns the folder.

    `licence` is a hub licence id such as "cc-by-4.0"; by default it stays that of the loaded model, and a warning
    follows where it is less strict. `half` stores the weights in fp16, half the size; the golden states are those of
    the stored weights. Centres that came with the model go along, and its heads, unless `half` rounds the weights that
    they were fitted on: a warning names each head that is left out. OutputError if the disk refuses.
    """
    info, dtype = embedder.info, torch.float16 if half else torch.float32
    if licence and restrictions(licence) < restrictions(info.licence):
        log.warning("%s is under %s, and its card will say %s", info.name, info.licence, licence)
    return _describe(write_model(_module(embedder), folder, dtype), embedder, licence)


def save_hubert(embedder: Publishable, folder: str | Path) -> Path:
    """Write a folder that plain `transformers` loads, with README.md, golden.safetensors and heads; returns it."""
    if not isinstance(model := _module(embedder), Mert):
        reason = f"is of the family {embedder.info.family}, which transformers has no class of its own for"
        raise CheckpointError(embedder.info.name, reason, "export it as safetensors")
    return _describe(export_hubert(model, folder), embedder)


def _module(embedder: Publishable) -> Any:
    """The model, if it is a module of torch and no graph."""
    if isinstance(embedder.model, OnnxModel):
        raise CheckpointError(embedder.model.source, "is run as a graph, whose weights cannot be written", ORIGINAL)
    return embedder.model


def _describe(folder: Path, embedder: Publishable, licence: str | None = None) -> Path:
    """Write what goes with the weights in a folder, as they were written: golden states, centres, heads, card."""
    model, checkpoint, _ = load_model(folder)
    write_golden(model, folder, checkpoint.sha256)
    carry_centres(embedder, folder, checkpoint.sha256)
    carry_heads(embedder, folder, checkpoint.sha256 if _equal(model, embedder.model) else None)
    card = model_card(embedder.info, model.config, checkpoint.sha256, licence, head_cards(folder))
    with write_whole(folder / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8")
    return folder


def _equal(model: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two networks of one kind have the same values: their features are then the same, too."""
    theirs = other.state_dict()
    return all(torch.equal(ours.to(theirs[name]), theirs[name]) for name, ours in model.state_dict().items())
