"""Tasks with a label per clip: from a dataset and its features to heads on pooled windows.

Shapes: K clips, C outputs.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mir_benchmarks.datasets.dataset import SPLITS, Dataset, Item, TaskError
from mir_benchmarks.tasks.kind import TaskProbe, digest
from mir_benchmarks.tasks.registry import TaskSpec
from probes.clip_probe import ENSEMBLES, ClipConfig, ClipProbe, Labelled
from probes.features.clips import Clip
from probes.features.matrix import FeatureMatrix
from probes.features.stores import PooledStore
from probes.fit import Fit, Setting
from probes.metrics import METRICS
from probes.results import Outputs


class ClipTask(TaskProbe[Fit]):
    """Heads of all rates and seeds of a layer are fitted together, and selected by the task's own metric on valid."""

    def clips(self) -> list[Clip]:
        refuse_constant(self.task, self.dataset)
        return super().clips()

    def prepare(self) -> None:
        task, options = self.task, self.options
        self.together = len(options.lrs) * len(options.seeds)
        several = self.protocol.get("gs_ensemble") == "valid-selected"
        self.config = ClipConfig(
            task.kind, self.dataset.classes, task.monitor, options.hidden, options.epochs(task.max_epochs),
            task.patience, tuple(ENSEMBLES) if several else ("mean-logit",), task.per_window,
        )  # fmt: skip
        self.splits = {name: labelled(task, self.dataset, name) for name in SPLITS}
        source: PooledStore = self.matrix
        if songs := self.dataset.facts.get("songs"):
            source, self.splits = Songs(self.matrix, songs), by_song(self.splits, songs)
        self.probe = ClipProbe(source, **self.splits, config=self.config, device=options.device)
        self.on_message(f"at most {math.ceil(self.probe.memory_bytes() / 2**20)} MiB of features in memory")

    def fit(self, settings: Sequence[Setting]) -> Iterator[Fit]:
        return self.probe.fit(settings)

    def outputs(self, fitted: Fit) -> np.ndarray:
        return self.probe.outputs(fitted)

    def score(self, fitted: Fit, outputs_nC: np.ndarray) -> dict[str, Any]:
        targets, monitor = self.probe.labelled["test"].targets, self.config.monitor
        names = dict.fromkeys((monitor, *self.task.metrics))
        test = {name: METRICS[name](targets, outputs_nC, self.config.classes) for name in names}
        return {"valid": {monitor: fitted.score}, "test": test, "ensemble": self.probe.ensemble(fitted)}

    def fingerprint(self) -> dict[str, Any]:
        def parts() -> Iterator[bytes]:
            for name, split in self.probe.labelled.items():
                for item in self.dataset.split(name):
                    yield f"{item.id}:{self.matrix.entries[item.id].crc32};".encode()
                yield split.targets.tobytes()

        return {"data": digest(self.matrix, parts()), "rules": repr((self.config, 2))}

    @property
    def head(self) -> dict[str, Any]:
        config = self.config
        return {
            "kind": "mlp" if config.hidden else "linear", "hidden": config.hidden, "dropout": 0.2, "optimizer": "Adam",
            "batch": "as many windows as 64 clips have", "max_epochs": config.max_epochs,
            "patience": list(config.patience),
        }  # fmt: skip

    def result_outputs(self, outputs_SnC: np.ndarray) -> Outputs:
        test = self.probe.labelled["test"]
        return Outputs(np.array(test.ids), test.targets, outputs_SnC, self.config.classes, self.groups(test.ids))

    def groups(self, ids: Iterable[str]) -> np.ndarray:
        """A song of several clips is of their artist."""
        clip_of = {song: clip for clip, song in self.dataset.facts.get("songs", {}).items()}
        return super().groups(clip_of.get(name, name) for name in ids)

    def notes(self, outputs_SnC: np.ndarray) -> list[str]:
        return [*absent(self.task, self.dataset, self.splits), *short(self.task, self.dataset, self.matrix)]


def labelled(task: TaskSpec, dataset: Dataset, split: str) -> Labelled:
    items = dataset.split(split)
    rows = [target(task, item, dataset) for item in items]
    dtype = np.int64 if task.kind in ("classification", "key") else np.float32
    return Labelled(tuple(item.id for item in items), np.array(rows, dtype))


def target(task: TaskSpec, item: Item, dataset: Dataset) -> Any:
    """A class number, tags as 0 and 1, or values scaled as the dataset's facts say."""
    try:
        if task.kind == "multilabel":
            assert isinstance(item.label, tuple)
            tags = {dataset.classes.index(str(tag)) for tag in item.label}
            return [float(i in tags) for i in range(len(dataset.classes))]
        if task.kind == "regression":
            mean, deviation = np.array(dataset.facts["mean"]), np.array(dataset.facts["std"])
            return (np.array(item.label, dtype=float) - mean) / deviation
        return dataset.classes.index(str(item.label))
    except ValueError:
        raise TaskError(item.id, f"has the label {item.label}, which {task.name} does not know",
                        "correct the annotation") from None  # fmt: skip


def refuse_constant(task: TaskSpec, dataset: Dataset) -> None:
    """TaskError where a target of a regression is constant within a split."""
    for split in SPLITS if task.kind == "regression" else ():
        values_KC = np.array([item.label for item in dataset.split(split)], dtype=float)
        if constant := np.flatnonzero(np.ptp(values_KC, axis=0) == 0).tolist():
            reason = f"{dataset.classes[constant[0]]} is the same in all {len(values_KC)} {split} items"
            raise TaskError(task.name, reason, "look at the annotations, or take more items")


def absent(task: TaskSpec, dataset: Dataset, splits: dict[str, Labelled]) -> list[str]:
    """A note on classes of test items that no training item has."""
    if task.kind == "multilabel":
        present = {name: set(np.flatnonzero(split.targets.any(axis=0)).tolist()) for name, split in splits.items()}
    elif task.kind in ("classification", "key"):
        present = {name: set(np.unique(split.targets).tolist()) for name, split in splits.items()}
    else:
        return []
    never = sorted(present["test"] - present["train"])
    return [f"no training item has: {', '.join(dataset.classes[i] for i in never)}"] if never else []


def short(task: TaskSpec, dataset: Dataset, matrix: FeatureMatrix) -> list[str]:
    """A note on recordings shorter than a window, where windows are items: MARBLE drops them, we do not."""
    window_s = matrix.clip_windows.seconds or 0.0
    n = sum(matrix.entries[item.id].seconds < window_s for item in dataset.items) if task.per_window else 0
    return [f"{n} recordings are shorter than a window and kept as one each; MARBLE drops them"] if n else []


class Songs:
    """A PooledStore whose ids are songs, with the windows of all their clips; other ids are unchanged."""

    def __init__(self, source: PooledStore, song_of: Mapping[str, str]) -> None:
        self._source, self.layers = source, source.layers
        self._clips: dict[str, list[str]] = {}
        for clip, song in song_of.items():
            self._clips.setdefault(song, []).append(clip)

    def rows(self, ids: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """(row numbers, number of the song each belongs to), for songs in this order."""
        per_song = [self._source.rows(self._clips.get(name, [name]))[0] for name in ids]
        return np.concatenate(per_song), np.repeat(np.arange(len(per_song)), [len(rows) for rows in per_song])

    def windows(self, rows: np.ndarray, layer: int | slice) -> np.ndarray:
        return self._source.windows(rows, layer)


def by_song(splits: Mapping[str, Labelled], song_of: Mapping[str, str]) -> dict[str, Labelled]:
    """Splits of songs, each with the target of its clips; TaskError if these differ, or a song is in two splits.

    >>> clips = Labelled(("x1", "x2", "y1"), np.array([3, 3, 5]))
    >>> by_song({"train": clips}, {"x1": "x", "x2": "x", "y1": "y"})["train"]
    Labelled(ids=('x', 'y'), targets=array([3, 5]))
    """
    split_of: dict[str, str] = {}
    songs = {}
    for split, clips in splits.items():
        first: dict[str, int] = {}
        for i, clip in enumerate(clips.ids):
            song = song_of.get(clip, clip)
            at = first.setdefault(song, i)
            if not np.array_equal(clips.targets[at], clips.targets[i], equal_nan=clips.targets.dtype.kind == "f"):
                reason = f"its clips {clips.ids[at]} and {clip} have different labels"
                raise TaskError(song, reason, "correct them, or leave out ori_uid")
            if split_of.setdefault(song, split) != split:
                raise TaskError(song, f"has clips in {split_of[song]} and in {split}", "correct ori_uid, or the splits")
        songs[split] = Labelled(tuple(first), clips.targets[list(first.values())])
    return songs
