"""Fifty losses, held to 1e-4: a change of numerics, ours or torch's, does not pass unseen.

Made by `python tests/test_train_golden.py` (torch 2.9.1); dropout off, float32.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from harness.sounds import music, tiny_config

pytest.importorskip("yaml")
pytest.importorskip("tensorboard")
pytest.importorskip("nnAudio")

from mert.train.corpus.base import GeneratedCorpus
from mert.train.engine import Engine
from mert.train.mixing import Mixing
from mert.train.parallel import World
from mert.train.recipe import Recipe
from teachers import load_teacher

GOLDEN = Path(__file__).parents[1] / "data" / "golden_losses.json"


class Notes:
    """Twelve little pieces."""

    seconds = 1.0

    def __len__(self) -> int:
        return 12

    def __repr__(self) -> str:
        return "Notes()"

    def read(self, index: int):  # type: ignore[no-untyped-def]
        return music(self.seconds, seed=100 + index)


def losses() -> list[float]:
    model = tiny_config(dropout=0.0, attention_dropout=0.0, input_dropout=0.0, layer_drop=0.0, normalize=False)
    recipe = Recipe(
        model=model, batch_clips=4, group_clips=2, clip_s=0.6, steps=50, warmup_steps=10, lr=2e-3, class_width=8,
        validate_clips=0, seed=3, mixing=Mixing(shortest=1000, longest=3000),
    )  # fmt: skip
    teachers = {name: load_teacher(name) for name in recipe.teachers}
    engine = Engine(recipe, GeneratedCorpus(Notes(), 24_000), teachers, World(0, 1, torch.device("cpu")))
    return [engine.step(step)["loss"] for step in range(1, 51)]


@pytest.mark.check
def test_fifty_losses_are_the_golden_ones() -> None:
    assert losses() == pytest.approx(json.loads(GOLDEN.read_text()), rel=1e-4)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(losses(), indent=0) + "\n")
