"""The trained weights that a run can go on from, as `init` names them, and the recipe that fits them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mert.models.config import MertConfig
from mert.models.mert import Mert
from mert.train import run_folder
from mert.train.history import begun_recipe
from mert.train.ingredients import licences_of
from mert.train.initialisation import Start, TrainedHead
from mert.train.recipe import Recipe, read_recipe, read_settings
from mert.weights.checkpoints import digest
from mert.weights.checkpoints import read_heads as read_fairseq_heads
from mert.weights.hub import load_weights
from mert.weights.licences import strictest

LoadRun = Callable[[Mert, Path], dict[str, Any]]  # fills a model with a run's newest weights; its step and its facts


def read_plan(
    config: str, overrides: Sequence[str] = (), load_run: LoadRun = run_folder.load_newest, resume: bool = True
) -> tuple[Recipe, Start | None]:
    """A recipe as `read_recipe` reads it, and the weights that it goes on from, if it names any.

    The warm-up of a run that is to `resume` with more steps stays as it was, unless it is given.
    """
    opened: dict[str, Start] = {}

    def model_of(init: str) -> MertConfig:
        opened[init] = open_start(init, load_run)
        return opened[init].config

    recipe = read_recipe(config, overrides, model_of)
    run = Path(recipe.out)
    begun = begun_recipe(run) if resume and any(run.glob("*/step_*")) else None
    if begun and begun.steps <= recipe.steps and "warmup_steps" not in read_settings(config, overrides)[1]:
        recipe = replace(recipe, warmup_steps=begun.warmup_steps)
    return recipe, opened.get(recipe.init)


def open_start(init: str, load_run: LoadRun = run_folder.load_newest) -> Start:
    """The weights of a published or bundled model, by name or folder, of a fairseq file, or the newest of a run.

    A run and a fairseq file also hold heads. CheckpointError if they cannot be read.
    """
    path = Path(init)
    if run_folder.is_run(path):
        return _of_run(path, load_run)
    model, info = load_weights(init, with_torch=True)
    base = {"name": info.name, "sha256": info.sha256, "licence": info.licence, "revision": info.revision}
    heads = fairseq_heads(read_fairseq_heads(path)) if path.suffix == ".pt" and path.is_file() else {}
    return Start(config=model.config, state=model.state_dict(), base=base, heads=heads)


def _of_run(run: Path, load_run: LoadRun) -> Start:
    recipe = run_folder.recipe_of(run)
    model = Mert(run_folder.trained_config(recipe))
    marker = load_run(model, run)
    made_of = marker["state"]
    heads = {
        name: TrainedHead(state=state, teacher=made_of["teachers"].get(name))
        for name, state in run_folder.read_heads(run).items()
    }
    base = {
        "name": run.resolve().name, "sha256": digest(model), "revision": f"step {marker['step']}",
        "licence": strictest(licence for _, licence in licences_of(made_of)),
    }  # fmt: skip
    return Start(config=model.config, state=model.state_dict(), base=base, heads=heads)


def fairseq_heads(tensors: Mapping[str, Tensor]) -> dict[str, TrainedHead]:
    """The heads in a fairseq checkpoint by the teachers of the published models, under our names."""
    ours = {
        "encodec": {"projection.weight": "final_proj.weight", "projection.bias": "final_proj.bias",
                    "classes": "label_embs_concat"},
        "cqt": {"projection.weight": "encoder_cqt_model.fc.weight", "projection.bias": "encoder_cqt_model.fc.bias"},
    }  # fmt: skip
    return {
        teacher: TrainedHead(state={name: tensors[theirs] for name, theirs in table.items()})
        for teacher, table in ours.items()
        if all(theirs in tensors for theirs in table.values())
    }
