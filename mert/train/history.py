"""The history of a run in its folder: the recipe it began with, later changes of it, and every start."""

import json
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from mert.files import append_lines, read_rows, write_whole, writing
from mert.train.parallel import World
from mert.train.recipe import Recipe, read_recipe

RECIPE, CHANGES, STARTS = "recipe.yaml", "changes.jsonl", "starts.jsonl"
SECRET = re.compile(r"token|secret|password|credential|key$", re.IGNORECASE)


class Change(NamedTuple):
    """A key of a recipe whose value changed after a step."""

    step: int
    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}={_shown(self.new)} (was {_shown(self.old)})"


def begun_recipe(run: Path, step: int | None = None) -> Recipe | None:
    """The recipe that a run follows, or followed up to a step: the first one with the changes since; None before it."""
    if not (run / RECIPE).exists():
        return None
    changes = read_changes(run) if step is None else [change for change in read_changes(run) if change.step < step]
    return read_recipe(str(run / RECIPE), [f"{change.key}={json.dumps(change.new)}" for change in changes])


def read_changes(run: Path) -> list[Change]:
    """The changes of a run's recipe, oldest first."""
    return [Change(**row) for row in read_rows(run / CHANGES)]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted keys.

    >>> flat({"lr": 0.1, "mixing": {"gain": 1.0}})
    {'lr': 0.1, 'mixing.gain': 1.0}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def record_start(recipe: Recipe, step: int, changes: Sequence[Change], world: World) -> None:
    """Record that a run begins, or goes on after a step; OutputError if the disk refuses.

    A run that begins writes its recipe; one that goes on keeps it, and adds what changed. Changes of steps that are
    done again are dropped. Keys of a recipe and words of a command that look like secrets lose their value.
    """
    run = Path(recipe.out)
    if step == 0 or not (run / RECIPE).exists():
        with write_whole(run / RECIPE) as temporary:
            temporary.write_text(yaml.safe_dump(without_secrets(recipe.to_dict()), sort_keys=False))
    kept = [change for change in read_changes(run) if change.step < step]
    rows = [change._asdict() for change in [*kept, *changes]]
    if rows or (run / CHANGES).exists():
        with write_whole(run / CHANGES) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with writing(run / STARTS):
        append_lines(run / STARTS, [start_of(step, world)])


def start_of(step: int, world: World) -> dict[str, Any]:
    """When, by which command and with which software a run starts after a step."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "step": step,
        "command": ["mert", *map(without_secret, sys.argv[1:])], "processes": world.size, "device": world.device.type,
        "threads": torch.get_num_threads(), "mert-hub": version("mert-hub"), "torch": torch.__version__,
        "python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}",
    }  # fmt: skip


def without_secrets(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same nested values, those of keys that look like secrets replaced."""
    return {
        key: without_secrets(value) if isinstance(value, Mapping) else "REMOVED" if SECRET.search(key) else value
        for key, value in values.items()
    }


def without_secret(word: str) -> str:
    """A word of a command without a secret value, and without the name of the user's folder.

    >>> without_secret("data_options.token=hf_abc"), without_secret("steps=5")
    ('data_options.token=REMOVED', 'steps=5')
    """
    key = word.partition("=")[0]
    if key != word and SECRET.search(key):
        return f"{key}=REMOVED"
    return word.replace(str(Path.home()), "~")


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)
