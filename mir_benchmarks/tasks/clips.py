"""Tasks with a label for each clip: from a dataset and its features to a chosen head's outputs.

Shapes: K clips, C outputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mir_benchmarks.datasets.dataset import SPLITS, Dataset, Item, TaskError
from mir_benchmarks.tasks.options import Evaluated, Options, hear
from mir_benchmarks.tasks.registry import TaskSpec
from probes.clip_probe import ENSEMBLES, ClipProbe, Labelled, Rules
from probes.features.matrix import FeatureMatrix
from probes.features.stores import Source
from probes.metrics import METRICS
from probes.results import Outputs
from probes.sweep import Journal, sweep


def clip_task(task: TaskSpec, dataset: Dataset, matrix: FeatureMatrix, options: Options) -> Evaluated:
    """Fit the grid on train, choose on valid, and give the outputs for test, seed by seed."""
    refuse_constant(task, dataset)
    hear(dataset, matrix, options)
    rules = rules_of(task, dataset, options)
    splits = {name: labelled(task, dataset, name) for name in SPLITS}
    source: Source = matrix
    if songs := dataset.facts.get("songs"):
        source, splits = Songs(matrix, songs), by_song(splits, songs)
    probe = ClipProbe(source, **splits, rules=rules, device=options.device)
    grid = options.grid(matrix.layers)
    total = len(list(grid.settings()))
    options.say(f"{total} heads to fit; {probe.memory_bytes() / 2**20:.0f} MiB of features in memory at most")
    journal = Journal(options.journal, fingerprint(dataset, matrix, probe, rules))
    at_once = len(options.lrs) * len(options.seeds)  # all of a layer
    swept = sweep(grid, probe.fit, journal, at_once, lambda row: options.fitted(row, total))
    names = (*dict.fromkeys((rules.monitor, *task.metrics)),)
    outputs, seeds = [], []
    for seed, fitted in swept.heads.items():
        made_KC, ensemble = probe.outputs(fitted)
        targets = probe.labelled["test"].targets
        test = {name: METRICS[name](targets, made_KC, rules.classes) for name in names}
        outputs.append(made_KC.astype(np.float32))
        seeds.append({"seed": seed, "epoch": fitted.epoch, "valid": {rules.monitor: fitted.score}, "test": test,
                      "ensemble": ensemble})  # fmt: skip
    test_split = probe.labelled["test"]
    return Evaluated(
        [row.as_json() for row in swept.rows], swept.layer, swept.lr, seeds,
        Outputs(np.array(test_split.ids), test_split.targets, np.stack(outputs), rules.classes),
        {"kind": "mlp" if rules.hidden else "linear", "hidden": rules.hidden, "dropout": 0.2, "optimizer": "Adam",
         "batch": "as many windows as 64 clips have", "max_epochs": rules.max_epochs, "patience": list(rules.patience)},
        [*absent(task, dataset, splits), *short(task, dataset, matrix)],
    )  # fmt: skip


def rules_of(task: TaskSpec, dataset: Dataset, options: Options) -> Rules:
    """How the task's heads are fitted and scored."""
    several = task.protocol(options.protocol).get("gs_ensemble") == "valid-selected"
    return Rules(
        task.kind, dataset.classes, task.monitor, options.hidden, options.epochs(task.max_epochs), task.patience,
        tuple(ENSEMBLES) if several else ("mean-logit",), options.standardize, task.per_window,
    )  # fmt: skip


def labelled(task: TaskSpec, dataset: Dataset, split: str) -> Labelled:
    """Ids and targets of one split."""
    items = dataset.split(split)
    rows = [target(task, item, dataset) for item in items]
    dtype = np.int64 if task.kind in ("classification", "key") else np.float32
    return Labelled(tuple(item.id for item in items), np.array(rows, dtype))


def target(task: TaskSpec, item: Item, dataset: Dataset) -> Any:
    """A class number, tags as 0 and 1, or values scaled as the dataset's facts say."""
    try:
        if task.kind == "multilabel":
            assert isinstance(item.label, tuple)
            held = {dataset.classes.index(str(tag)) for tag in item.label}
            return [float(i in held) for i in range(len(dataset.classes))]
        if task.kind == "regression":
            mean, deviation = np.array(dataset.facts["mean"]), np.array(dataset.facts["std"])
            return (np.array(item.label, dtype=float) - mean) / deviation
        return dataset.classes.index(str(item.label))
    except ValueError:
        raise TaskError(item.id, f"has the label {item.label}, which {task.name} does not know",
                        "correct the annotation") from None  # fmt: skip


def refuse_constant(task: TaskSpec, dataset: Dataset) -> None:
    """TaskError where a value to be learnt or scored never changes within a split."""
    for split in SPLITS if task.kind == "regression" else ():
        values_KC = np.array([item.label for item in dataset.split(split)], dtype=float)
        if constant := np.flatnonzero(np.ptp(values_KC, axis=0) == 0).tolist():
            reason = f"{dataset.classes[constant[0]]} is the same in all {len(values_KC)} {split} items"
            raise TaskError(task.name, reason, "look at the annotations, or take more items")


def absent(task: TaskSpec, dataset: Dataset, splits: dict[str, Labelled]) -> list[str]:
    """Notes on classes that are tested but never trained."""
    if task.kind == "multilabel":
        held = {name: set(np.flatnonzero(split.targets.any(axis=0)).tolist()) for name, split in splits.items()}
    elif task.kind in ("classification", "key"):
        held = {name: set(np.unique(split.targets).tolist()) for name, split in splits.items()}
    else:
        return []
    never = sorted(held["test"] - held["train"])
    return [f"no training item has: {', '.join(dataset.classes[i] for i in never)}"] if never else []


def short(task: TaskSpec, dataset: Dataset, matrix: FeatureMatrix) -> list[str]:
    """A note on recordings below one window, where every window counts: MARBLE leaves them out, we do not."""
    window_s = matrix.windowing.seconds or 0.0
    n = sum(matrix.entries[item.id].seconds < window_s for item in dataset.items) if task.per_window else 0
    return [f"{n} recordings are shorter than a window and kept as one each; MARBLE drops them"] if n else []


def fingerprint(dataset: Dataset, matrix: FeatureMatrix, probe: ClipProbe, rules: Rules) -> dict[str, Any]:
    """What a fit depends on: features, audio, targets and rules. Any change of it is another fit."""
    sha = hashlib.sha256(matrix.digest.encode())
    for name, split in probe.labelled.items():
        for item in dataset.split(name):
            sha.update(f"{item.id}:{matrix.entries[item.id].crc32};".encode())
        sha.update(split.targets.tobytes())
    return {"data": sha.hexdigest(), "rules": repr(rules)}


class Songs:
    """A source whose ids are songs, with the windows of all their clips; other ids stay what they are."""

    def __init__(self, source: Source, song_of: Mapping[str, str]) -> None:
        self._source, self.layers = source, source.layers
        self._clips: dict[str, list[str]] = {}
        for clip, song in song_of.items():
            self._clips.setdefault(song, []).append(clip)

    def rows(self, ids: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """(row numbers, number of the song each belongs to), for songs in this order."""
        found = [self._source.rows(self._clips.get(name, [name]))[0] for name in ids]
        return np.concatenate(found), np.repeat(np.arange(len(found)), [len(rows) for rows in found])

    def windows(self, rows: np.ndarray, layer: int | slice) -> np.ndarray:
        """As the source gives them."""
        return self._source.windows(rows, layer)


def by_song(splits: Mapping[str, Labelled], song_of: Mapping[str, str]) -> dict[str, Labelled]:
    """Splits of songs, each with the target of its clips; TaskError where they differ, and for a song in two splits.

    >>> clips = Labelled(("x1", "x2", "y1"), np.array([3, 3, 5]))
    >>> by_song({"train": clips}, {"x1": "x", "x2": "x", "y1": "y"})["train"]
    Labelled(ids=('x', 'y'), targets=array([3, 5]))
    """
    home: dict[str, str] = {}
    made = {}
    for split, clips in splits.items():
        first: dict[str, int] = {}
        for i, clip in enumerate(clips.ids):
            song = song_of.get(clip, clip)
            at = first.setdefault(song, i)
            if not np.array_equal(clips.targets[at], clips.targets[i], equal_nan=clips.targets.dtype.kind == "f"):
                reason = f"its clips {clips.ids[at]} and {clip} have different labels"
                raise TaskError(song, reason, "correct them, or leave out ori_uid")
            if home.setdefault(song, split) != split:
                raise TaskError(song, f"has clips in {home[song]} and in {split}", "correct ori_uid, or the splits")
        made[split] = Labelled(tuple(first), clips.targets[list(first.values())])
    return made
