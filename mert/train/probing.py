"""Scores of heads on frozen features while a model is trained, by a package that registers a way to compute them."""

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from mert.errors import UsageError
from mert.models.mert import Mert
from mert.train.parallel import World
from mert.train.recipe import Recipe
from mert.weights.checkpoints import blank

GROUP = "mert.monitors"
Monitor = Callable[[Mert], dict[str, float]]  # the score of each task


def open_monitor(recipe: Recipe) -> Monitor | None:
    """What scores the model of a recipe every `probe_every` steps; None if it asks for no scores.

    The first entry point of the group `mert.monitors` makes it of a folder for its data and the names of the tasks.
    UsageError if there is none, or if it does not know a task.
    """
    if not recipe.probe_every:
        return None
    for point in entry_points(group=GROUP):
        monitor: Monitor = point.load()(Path(recipe.out) / "probe", recipe.probe_tasks)
        return monitor
    raise UsageError(
        f"probe_every={recipe.probe_every}", "no installed package scores models", "install mert-hub again"
    )


def probe_scores(module: nn.Module, model: Mert, monitor: Monitor | None, world: World) -> dict[str, Any]:
    """`probe/TASK` of a copy of the `model` in `module`, on the first process; the others wait, and get nothing.

    Neither random numbers nor the number of threads are others after it.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = get_model_state_dict(module, options=options)  # whole, wherever its parts are
    scores: dict[str, float] = {}
    if monitor:
        weights = {name: state[f"model.{name}"].clone() for name in model.state_dict()}
        copy = blank(model.config)
        copy.load_state_dict(weights, assign=True)
        n_threads = torch.get_num_threads()
        with torch.random.fork_rng(devices=[world.device] if world.device.type == "cuda" else []):
            scores = monitor(copy.to(world.device).eval().requires_grad_(False))
        torch.set_num_threads(n_threads)
    world.barrier()
    return {f"probe/{task}": score for task, score in scores.items()}
