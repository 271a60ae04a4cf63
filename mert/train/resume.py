"""Whether a run may go on: from the same data, teachers and base, by the same recipe but for what is allowed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mert.errors import TrainingError, UsageError
from mert.train.history import Change, begun_recipe, flat
from mert.train.ingredients import NOTHING, described
from mert.train.recipe import Recipe

FREE = {  # changes no result, or is compared by its content: the data, the teachers and the base
    "out", "data", "data_options", "teachers", "init", "checkpoint_every", "keep_checkpoints", "validate_every",
    "probe_every", "probe_tasks", "compile", "activation_checkpointing", "parallel", "loader_workers",
}  # fmt: skip


def continued(path: Path, begun: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The facts `now` of a run that began with others, as its checkpoint at `path` has them: it keeps all licences.

    TrainingError if it was made of anything else. Bases are compared by their weights.
    """
    begun = NOTHING | dict(begun)
    for name in ("corpus", "teachers", "licences"):
        if begun[name] != now[name]:
            remedy = "use the same data and teachers, or another out="
            raise TrainingError(path, f"it was trained with another {name}", remedy)
    if _sha256(begun["base"]) != _sha256(now["base"]):
        reason = f"the run went on from {described(begun['base'])}, not from {described(now['base'])}"
        raise TrainingError(path, reason, "give the same init=, or another out=")
    return dict(now) | {"data_licences": sorted({*begun["data_licences"], *now["data_licences"]})}


def _sha256(base: Mapping[str, Any] | None) -> str | None:
    return base["sha256"] if base else None


def changes_after(run: Path, step: int, recipe: Recipe, allowed: bool) -> list[Change]:
    """What would change in the recipe of a run that goes on after a step: more steps, or whatever is `allowed`.

    UsageError names other changes that affect results.
    """
    if (begun := begun_recipe(run, step)) is None:
        return []
    old, new = flat(begun.to_dict()), flat(recipe.to_dict())
    changes = [
        Change(step, key, old.get(key), new.get(key))
        for key in dict.fromkeys([*old, *new])
        if key.partition(".")[0] not in FREE and old.get(key) != new.get(key)
    ]
    refused = [change for change in changes if change.key != "steps" or change.new < change.old]
    if refused and not allowed:
        remedy = "go on with its recipe, begin anew with another out=, or give --allow-changes"
        raise UsageError(run, f"the run began otherwise: {', '.join(map(str, refused))}", remedy)
    return changes
