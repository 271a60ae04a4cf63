"""Tasks with a label per clip (classes, tags or values): from pooled features to outputs for the test clips.

Shapes: K clips, R windows, L layers, P width of a window, C outputs.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from mert.describe.head import WEIGHTED
from mert.errors import MertError
from probes.features.scaling import Standardizer
from probes.features.stores import PooledStore, layer_number, layer_options, summed
from probes.fit import Fit, FitData, Setting, Windows, fit, mean_over_clips
from probes.metrics import METRICS

LOSS_OF = {"classification": "classes", "key": "classes", "multilabel": "tags", "regression": "values"}


@dataclass(frozen=True)
class Labelled:
    """Clips and their targets: class numbers [K], tags [K, C] of 0 and 1, or values [K, C]."""

    ids: tuple[str, ...]
    targets: np.ndarray


@dataclass(frozen=True)
class ClipConfig:
    """How heads are fitted and scored: kind of task, names of outputs, the metric that selects, hidden units."""

    kind: str
    classes: tuple[str, ...]
    monitor: str
    hidden: int = 512
    max_epochs: int = 100
    patience: tuple[int, int] = (5, 20)
    ensembles: tuple[str, ...] = ("mean-logit",)
    per_window: bool = False  # every window is scored as an item of its own (VocalSet)


class ClipProbe:
    """Heads on pooled windows: fitted on train, scored on valid, with outputs for the clips of any split."""

    def __init__(
        self, source: PooledStore, train: Labelled, valid: Labelled, test: Labelled, config: ClipConfig,
        device: str = "cpu",
    ) -> None:  # fmt: skip
        self.source, self.config, self.device = source, config, device
        self._rows: dict[str, np.ndarray] = {}
        self._owners: dict[str, np.ndarray] = {}
        self.labelled: dict[str, Labelled] = {}
        for name, split in (("train", train), ("valid", valid), ("test", test)):
            self._rows[name], owners = source.rows(split.ids)
            if config.per_window:
                split, owners = by_window(split, owners), np.arange(len(owners))
            self._owners[name], self.labelled[name] = owners, split
        self._loaded: tuple[str, str] | None = None  # layer and scaling

    def fit(self, settings: Sequence[Setting]) -> Iterator[Fit]:
        """Heads for settings of one layer option and scaling, in their order, as soon as they are fitted.

        A GPU fits them as one stack. On a CPU each core fits whole heads: the products of one head are too small to be
        split, and on busy cores splitting them costs fifty times what it gains.
        """
        self._load(settings[0].layer, settings[0].scaling)
        config, targets = self.config, torch.from_numpy(self.labelled["train"].targets)
        task = FitData(
            train=self._windows["train"], targets=targets.to(self.device), valid=self._windows["valid"],
            score=self.valid_score, loss=LOSS_OF[config.kind], outputs=len(config.classes), hidden=config.hidden,
            max_epochs=config.max_epochs, patience=config.patience,
        )  # fmt: skip
        if self.device != "cpu":
            yield from fit(task, settings, self.device)
            return
        workers = min(len(settings), n_cores())
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(lambda setting: fit(task, [setting])[0], settings)

    def valid_score(self, logits_RC: np.ndarray) -> float:
        """The metric that selects, on validation and under the best ensemble; minus infinity if the head diverged."""
        return self._best_ensemble(logits_RC)[1] if np.isfinite(logits_RC).all() else -np.inf

    def outputs(self, fitted: Fit, split: str = "test") -> np.ndarray:
        """[K, C] for the clips of a split, by the ensemble that validation selected."""
        ensemble, windows = ENSEMBLES[self.ensemble(fitted)], self._windows[split]
        return ensemble(fitted.logits(windows), windows.owners.numpy())

    def ensemble(self, fitted: Fit) -> str:
        """The ensemble that scores best on validation."""
        self._load(fitted.setting.layer, fitted.setting.scaling)
        return self._best_ensemble(fitted.logits(self._windows["valid"]))[0]

    def standardizer(self, layer: str) -> Standardizer:
        """How windows of a layer option are scaled before the head."""
        self._load(layer)
        return self._standardizer

    def memory_bytes(self) -> int:
        """Bytes in memory of the largest layer option."""
        n = sum(map(len, self._rows.values()))
        width, layers = self.source.windows(np.zeros(1, int), 0).shape[-1], self.source.layers
        return n * width * max(4, 2 * len(layers[summed(layers)]) if WEIGHTED in layer_options(layers) else 0)

    def _best_ensemble(self, logits_RC: np.ndarray) -> tuple[str, float]:
        owners, metric = self._windows["valid"].owners.numpy(), METRICS[self.config.monitor]
        targets, classes = self.labelled["valid"].targets, self.config.classes
        scores = {name: metric(targets, ENSEMBLES[name](logits_RC, owners), classes) for name in self.config.ensembles}
        return max(scores.items(), key=lambda item: item[1])

    def _load(self, layer: str, scaling: str = "standardized") -> None:
        """Windows of all splits at one layer option, scaled by train."""
        if (layer, scaling) == self._loaded:
            return
        if layer not in (options := layer_options(self.source.layers)):
            raise MertError("probe", f"no layer {layer!r}", f"give some of {', '.join(options)}")
        which = layer_number(self.source.layers, layer)
        raw = {name: torch.from_numpy(np.ascontiguousarray(self.source.windows(rows, which)))
               for name, rows in self._rows.items()}  # fmt: skip
        train, raw_wanted = raw["train"], scaling == "raw"
        self._standardizer = Standardizer.identity(train.shape[1:]) if raw_wanted else Standardizer.of_rows(train)
        self._windows = {name: Windows(self._standardizer(x).to(self.device), torch.from_numpy(self._owners[name]))
                         for name, x in raw.items()}  # fmt: skip
        self._loaded = layer, scaling


def n_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def by_window(split: Labelled, owners_R: np.ndarray) -> Labelled:
    """Each window as an item of its own, with its clip's target."""
    within = np.arange(len(owners_R)) - np.searchsorted(owners_R, owners_R)
    ids = tuple(f"{split.ids[owner]} #{k}" for owner, k in zip(owners_R, within, strict=True))
    return Labelled(ids, split.targets[owners_R])


def mean_probability(logits_RC: np.ndarray, owners_R: np.ndarray) -> np.ndarray:
    """Logarithm of the mean probability over a clip's windows."""
    shifted = np.exp(logits_RC - logits_RC.max(axis=1, keepdims=True))
    return np.log(mean_over_clips(shifted / shifted.sum(axis=1, keepdims=True), owners_R) + 1e-12)


def vote(logits_RC: np.ndarray, owners_R: np.ndarray) -> np.ndarray:
    """Share of a clip's windows that vote for each class; of equal shares the larger mean logit wins."""
    winners = np.eye(logits_RC.shape[1])[logits_RC.argmax(axis=1)]
    mean = mean_over_clips(logits_RC, owners_R)
    return mean_over_clips(winners, owners_R) + 1e-6 * np.tanh(mean / 100)


def max_logit(logits_RC: np.ndarray, owners_R: np.ndarray) -> np.ndarray:
    """The largest logit of each class among a clip's windows.

    >>> max_logit(np.array([[1.0, 5.0], [3.0, 0.0]]), np.array([0, 0]))
    array([[3., 5.]])
    """
    return np.maximum.reduceat(logits_RC, np.flatnonzero(np.diff(owners_R, prepend=-1)), axis=0)


ENSEMBLES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "mean-logit": mean_over_clips, "vote": vote, "max-logit": max_logit, "mean-probability": mean_probability,
}  # fmt: skip
