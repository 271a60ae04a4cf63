"""A result computed again from what is stored: the outputs beside it, its journal, its features, the registry."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mert.embedding.npz import read_npz
from mert.errors import OutputError
from mert.files import read_json
from mir_benchmarks.conditions import scalings_of
from mir_benchmarks.statistics import group_notes, left_out, summarise
from mir_benchmarks.tasks.registry import TASKS
from probes.fit import Setting
from probes.metrics import METRICS
from probes.results import WITH_GROUPS, Outputs, Result, load_outputs, seal
from probes.sweep import Grid, GridRow, Journal, groups, journal_rows, select

AGAIN = "run the task again"


def validated(path: Path) -> tuple[int, int, list[str]]:
    """The number of metrics and of items of a result, and what of it could not be computed again.

    OutputError for the first thing that disagrees with what is stored beside it.
    """
    result, outputs = Result.load(path), load_outputs(path)
    name = result.task["name"]
    if name not in TASKS or path.stem != name:
        raise OutputError(path, f"is of the task {name!r}", "keep the names of the files")
    try:
        for fault in faults(result, outputs):
            raise OutputError(path, fault, AGAIN)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise OutputError(path, f"does not fit its outputs ({type(error).__name__}: {error})", AGAIN) from None
    unknown: list[str] = []
    for what, check in (("fits", of_journal), ("model", of_features), ("notes, labels, audio, command", of_seal)):
        if (other := check(path, result)) is None:
            unknown.append(what)
        elif other:
            raise OutputError(path, other, AGAIN)
    return len(result.metrics), len(outputs.ids), unknown


def faults(result: Result, outputs: Outputs) -> Iterator[str]:
    """What disagrees with the outputs and with the registry."""
    yield from of_registry(result, outputs)
    metrics, score = summarise(outputs, tuple(result.metrics), result.protocol)
    for name, value in (metrics | {"score": score}).items():
        stored = result.score if name == "score" else result.metrics[name]
        for key, computed in value.items():
            if key in ("ci95", "groups") and result.schema < WITH_GROUPS:
                continue  # the interval was that of a bootstrap over items
            if not same(stored.get(key), computed):
                yield f"the {key} of {name} is {computed} by its outputs, not {stored.get(key)}"
    yield from of_grid(result)
    yield from of_seeds(result, outputs)
    of_groups = group_notes(outputs) if result.schema >= WITH_GROUPS else []
    for note in [*left_out(outputs, tuple(result.metrics)), *of_groups]:
        if note not in result.notes:
            yield f"a note is missing: {note}"


def of_registry(result: Result, outputs: Outputs) -> Iterator[str]:
    """Facts that the task fixes."""
    task = TASKS[result.task["name"]]
    if set(result.metrics) != set(task.metrics):
        yield f"its metrics are {', '.join(result.metrics)}, not {', '.join(task.metrics)}"
    for name, value in result.protocol.items():
        if name in task.switches and value not in task.switches[name]:
            yield f"no switch {name}={value} is known"
    for name, wanted in (("title", task.title), ("version", task.version)):
        if result.task.get(name, wanted) != wanted:
            yield f"the {name} of the task is {wanted!r}, not {result.task[name]!r}"
    classes = result.task.get("classes")
    if classes and task.kind not in ("beats", "separation") and list(classes) != list(outputs.columns):
        yield "its classes are not those of its outputs"
    n_test = result.task.get("counts", {}).get("test")
    items = {str(name).rpartition(" #")[0] if task.per_window else str(name) for name in outputs.ids}
    if n_test is not None and len(items) != n_test and task.kind != "key":  # clips of a song may be one item
        yield f"it has {len(items)} test recordings by its outputs, not {n_test}"


def of_grid(result: Result) -> Iterator[str]:
    """The grid has every point once, and layer, scaling and rate are those that validation selects."""
    rows = fits_of(result)
    layers, lrs, seeds = (tuple(dict.fromkeys(row[name] for row in result.grid)) for name in ("layer", "lr", "seed"))
    grid, journal = Grid(layers, lrs, seeds, scalings_of(result)), Journal(None, {})
    journal.fits |= {row.setting: row for row in rows}
    if len(rows) != len(grid) or next(groups(grid, journal, 1), None):
        yield "its grid lacks points, or has one twice"
    if (chosen := select(rows)) != (held := (result.layer, result.lr, result.scaling)):
        here, there = (f"{layer}, {scaling}, at {lr:g}" for layer, lr, scaling in (chosen, held))
        yield f"its grid selects {here}, not {there}"
    if [row["seed"] for row in result.seeds] != list(seeds):
        yield f"its seeds are {list(seeds)} by its grid, not {[row['seed'] for row in result.seeds]}"


def fits_of(result: Result) -> list[GridRow]:
    """The rows of its grid; those of older results do not name the scaling, which was fixed."""
    return [
        GridRow(row["layer"], row["lr"], row["seed"], -math.inf if row["valid"] is None else row["valid"],
                row["epoch"], scaling=row.get("scaling", result.scaling))
        for row in result.grid
    ]  # fmt: skip


def of_seeds(result: Result, outputs: Outputs) -> Iterator[str]:
    """Test metrics of each seed are those of its outputs, validation and epoch those of its point of the grid."""
    grid = {row.setting: row for row in fits_of(result)}
    for row, outputs_nC in zip(result.seeds, outputs.outputs, strict=True):
        for name, stored in row["test"].items():
            computed = METRICS[name](outputs.targets, outputs_nC, outputs.columns)
            if not same(stored, computed):
                yield f"the test {name} of seed {row['seed']} is {computed} by its outputs, not {stored}"
        fit = grid[Setting(result.layer, result.lr, row["seed"], scaling=result.scaling)]
        for name, stored in row["valid"].items():
            wanted = -fit.valid if name == "loss" else fit.valid
            if not same(stored, wanted):
                yield f"the validation {name} of seed {row['seed']} is {wanted} by its grid, not {stored}"
        if row["epoch"] != fit.epoch:
            yield f"the epoch of seed {row['seed']} is {fit.epoch} by its grid, not {row['epoch']}"


def of_journal(path: Path, result: Result) -> str | None:
    """What disagrees with the journal of fits; None without one."""
    written: dict[str, set[str]] = {}
    held = set().union(*result.grid)  # rows of older results hold less
    for key, row in journal_rows(path.parent / "journals" / f"{path.stem}.jsonl"):
        fit = {name: value for name, value in row.as_json().items() if name in held}
        written.setdefault(key, set()).add(as_text(fit))
    if not written:
        return None
    needed = {as_text(row) for row in result.grid}
    missing = min((needed - of_key for of_key in written.values()), key=len)
    return f"its grid is not that of its journal: {min(missing)}" if missing else ""


def as_text(row: dict[str, Any]) -> str:
    return json.dumps(row, sort_keys=True)


def of_features(path: Path, result: Result) -> str | None:
    """What disagrees with the keys of the features beside it; None without features of a model of this name."""
    keys = [read_json(note).get("encoder", {}) for note in path.parent.glob("features/*/*/key.json")]
    named = [key for key in keys if key.get("name") == result.model["name"]]
    if not named:
        return None
    model = json.loads(json.dumps(result.model))
    return "" if model in named else "its model is not the one of the features beside it"


def of_seal(path: Path, result: Result) -> str | None:
    """Whether the JSON is the one that was written with these outputs; None for results of before schema 3."""
    arrays = read_npz(path.with_suffix(".npz"), required=())
    if "seal" not in arrays:
        return None
    changed = str(arrays["seal"]) != seal(read_json(path))
    return "is not the file that was written with the outputs beside it: one of them was changed" if changed else ""


def same(stored: Any, computed: Any) -> bool:
    """Whether two numbers, or two lists of them, are equal to four places."""
    try:
        held = np.array(stored, float)
    except (TypeError, ValueError):
        return False
    return held.shape == np.shape(computed) and bool(np.allclose(held, computed, rtol=0, atol=1e-4, equal_nan=True))
