"""Pretraining runs of seconds, and what two of them must have in common."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import soundfile
import torch

from harness.sounds import music, tiny_config
from mert.train.checkpoints import Checkpoints
from mert.train.parallel import World

TIMES = {"seconds", "wait_s", "targets_s", "clips_per_s"}  # of a row of metrics, which differ from run to run
ALONE = World(0, 1, torch.device("cpu"))


def write_recordings(folder: Path) -> Path:
    """15 recordings, 13 to train on: batches of 6 cross the border of an epoch in step 3, of 8 in step 2."""
    for i in range(15):
        soundfile.write(folder / f"{i:02d}.wav", music(1.0 + 0.05 * i, seed=i), 24_000)
    return folder


def small_recipe(folder: Path, data: Path, **changes: Any) -> str:
    """A recipe file of six steps, saved every two; the run is `folder/run`."""
    values = {
        "base": "nano", "out": str(folder / "run"), "data": str(data), "teachers": ["random_projection"], "steps": 6,
        "model": tiny_config(dropout=0.1, layer_drop=0.3).to_dict(), "warmup_steps": 2, "batch_clips": 6,
        "group_clips": 3, "clip_s": 0.5, "seed": 7, "checkpoint_every": 2, "validate_every": 4, "validate_clips": 2,
        "class_width": 8, "keep_checkpoints": 1, "mixing": {"shortest": 1000, "longest": 2000},
        "filterbank_start": False,
    } | changes  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(values))  # JSON is YAML
    return str(path)


def rows(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run without its times."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in found]


def newest(run: Path) -> Path:
    """The checkpoint a resume would take."""
    path = Checkpoints(run, ALONE, 1).newest()
    assert path is not None
    return path


def same_end(run: Path, other: Path) -> bool:
    """Equal rows, and equal weights and moments in the newest checkpoints, bit by bit."""
    return rows(run) == rows(other) and same_bits(newest(run), newest(other))


def same_bits(checkpoint: Path, other: Path) -> bool:
    """Whether two checkpoints hold the same names, tensors and other values; there must be weights and moments."""
    a, b = contents(checkpoint), contents(other)
    assert any(name.endswith("exp_avg_sq") for name in a) and any(name.startswith("/model") for name in a)
    equal = [torch.equal(x, b[name]) if torch.is_tensor(x) else x == b[name] for name, x in a.items() if name in b]
    return a.keys() == b.keys() and all(equal)


def contents(checkpoint: Path) -> dict[str, Any]:
    """Everything of a checkpoint by name, whole, however many processes wrote it."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    with tempfile.NamedTemporaryFile() as file:
        dcp_to_torch_save(checkpoint, file.name)
        return dict(leaves(torch.load(file.name, weights_only=True)))


def leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values of nested dictionaries."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{name}/{key}")
    else:
        yield name, tree
