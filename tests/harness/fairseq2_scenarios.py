"""Runs of fairseq2's trainer in one process of their own, whose logging and signals it takes over.

`python fairseq2_scenarios.py CONFIG OUT` prints, as one line of JSON, what came of them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import tomllib
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

import mert
from mert.cli.models import export_run
from mert.cli.train import load_teachers
from mert.errors import MertError
from mert.train.batches import Batches
from mert.train.corpus.opening import open_corpus
from mert.train.fairseq2 import pretrain, write_asset_card
from mert.train.fairseq2.unit import PretrainUnit
from mert.train.recipe import Recipe, read_recipe

next_group, set_step_nr = Batches.next_group, PretrainUnit.set_step_nr


def train(recipe: Recipe, resume: bool = True) -> int | str:
    corpus = open_corpus(recipe.data, recipe.model.sample_rate, recipe.clip_samples, {})
    try:
        return pretrain(recipe, corpus, load_teachers(recipe.teachers), resume)
    except MertError as error:
        return f"{type(error).__name__}: {error}"


def train_until(recipe: Recipe, step: int, number: signal.Signals) -> int | str:
    """Train; the signal comes as that step begins."""

    def with_signal(unit: PretrainUnit, now: int) -> None:
        if now == step:
            os.kill(os.getpid(), number)
            while not unit.stop_request.asked:  # the main thread takes it
                time.sleep(0.001)
        set_step_nr(unit, now)

    PretrainUnit.set_step_nr = with_signal  # type: ignore[method-assign]
    done = train(recipe)
    PretrainUnit.set_step_nr = set_step_nr  # type: ignore[method-assign]
    return done


def train_on_nan(recipe: Recipe) -> int | str:
    def with_nan(batches: Batches, step: int, number: int) -> Any:
        made = next_group(batches, step, number)
        made.wave_BN[0, 100] = float("nan")
        return made

    Batches.next_group = with_nan  # type: ignore[method-assign]
    done = train(recipe)
    Batches.next_group = next_group  # type: ignore[method-assign]
    return done


def damage_newest(out: Path) -> str:
    newest = max((out / "checkpoints").glob("step_*"), key=lambda path: int(path.name[5:]))
    file = next((newest / "optimizer").rglob("*.pt"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return newest.name


def extension() -> Any:
    """What fairseq2 calls by itself where mert-hub is installed."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["fairseq2.extension"]["mert"].partition(":")
    return getattr(import_module(module), name)


def load_by_card(folder: Path) -> bool:
    """Whether fairseq2's `load_model` gives the weights of `mert.load`."""
    from fairseq2 import init_fairseq2
    from fairseq2.models import load_model

    os.environ["FAIRSEQ2_USER_ASSET_DIR"] = str(write_asset_card(folder, "my_mert").parent)
    init_fairseq2(extras=extension(), no_progress=True)
    ours, theirs = mert.load(folder, device="cpu").model, load_model("my_mert", device=torch.device("cpu"))
    wave_BN = torch.randn(1, 9_000)
    same = zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True)
    return (
        ours.config == theirs.config
        and all(name == other and torch.equal(x, y) for (name, x), (other, y) in same)
        and torch.equal(ours(wave_BN)[-1], theirs.eval()(wave_BN)[-1])
    )


def main(config: str, out: Path) -> dict[str, Any]:
    (out / "full").mkdir()
    (out / "full/checkpoints").write_text("no folder")
    recipe = read_recipe(config, [f"out={out / 'run'}", "steps=8", "warmup_steps=2"])
    found: dict[str, Any] = {
        "sigterm": train_until(recipe, 3, signal.SIGTERM),
        "sigusr1": train_until(recipe, 6, signal.SIGUSR1),
        "end": train(recipe),
        "again": train(recipe),
        "damaged": damage_newest(out / "run"),
        "repaired": train(recipe),
        "steps": train(replace(recipe, steps=16)),
        "model": train(replace(recipe, model=replace(recipe.model, ffn_dim=32))),
        "never": train(recipe, resume=False),
        "nan": train_on_nan(replace(recipe, out=str(out / "nan"))),
        "disk": train(replace(recipe, out=str(out / "full"))),
    }
    return found | {"card": load_by_card(export_run(out / "run", out / "model"))}


if __name__ == "__main__":
    torch.manual_seed(0)
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
