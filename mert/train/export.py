"""A finished run as a model to publish: the weights of its newest checkpoint, and a card that says how they came."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp

from mert.embedding.embedder import Embedder
from mert.errors import CheckpointError
from mert.files import read_json, read_rows
from mert.models.mert import Mert
from mert.train.checkpoints import MARKER, Checkpoints
from mert.train.fairseq2 import checkpoints as fairseq2_checkpoint
from mert.train.parallel import World
from mert.train.recipe import Recipe, read_recipe
from mert.weights.checkpoints import digest
from mert.weights.publish import save_pretrained
from mert.weights.registry import ModelInfo


def export_run(run: Path, out: Path, half: bool = False) -> Path:
    """Write config, safetensors, golden states, card, curves and metrics of a run; returns the folder.

    The run may be of either engine. CheckpointError where it has no complete checkpoint. What its teachers' licences
    forbid, its own forbids.
    """
    recipe = read_recipe(str(run / "recipe.yaml"))
    model = Mert(replace(recipe.model, window_s=recipe.clip_s))  # its window is the context it was trained on
    by_fairseq2 = (run / fairseq2_checkpoint.BEGUN).exists()
    marker = fairseq2_checkpoint.load_newest(model, run) if by_fairseq2 else load_newest(model, run)
    restricted = any("NC" in licence for licence in marker["state"]["licences"].values())
    info = ModelInfo.of(model, out.resolve().name, licence="CC BY-NC 4.0" if restricted else "Apache-2.0")
    info = replace(info, note=story(recipe, marker, read_rows(run / "metrics.jsonl")))
    save_pretrained(Embedder(model, info, digest(model), "cpu"), out, half=half)
    for name in ("curves.png", "metrics.jsonl", "recipe.yaml"):
        if (run / name).exists():
            shutil.copyfile(run / name, out / name)
    return out


def load_newest(model: Mert, run: Path) -> dict[str, Any]:
    """Load the weights of our engine's newest checkpoint; returns its marker."""
    path = Checkpoints(run, World(0, 1, torch.device("cpu")), 1).newest()
    if path is None:
        raise CheckpointError(run, "has no complete checkpoint", "train it further: mert pretrain")
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    dcp.load({"model": weights}, checkpoint_id=path, no_dist=True)
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in weights.items()})
    return read_json(path / MARKER)


def story(recipe: Recipe, marker: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """One line for the card: data, teachers, steps, and how well held-out music was guessed."""
    synthetic = ", synthesised music" if recipe.data == "synth" else ""
    hours = marker["step"] * recipe.batch_clips * recipe.clip_s / 3600
    teachers = ", ".join(f"{name} {print_[:12]}" for name, print_ in marker["state"]["teachers"].items())
    text = (
        f"trained by mert pretrain: {marker['step']} of {recipe.steps} steps, {hours:.1f} h of audio from "
        f"{Path(recipe.data).name}{synthetic} (corpus {marker['state']['corpus'][:12]}); teachers {teachers}"
    )
    held_out = [row for row in rows if "valid/loss" in row and row["step"] <= marker["step"]]
    return text + (f"; held-out loss {held_out[-1]['valid/loss']:.3f}" if held_out else "")
