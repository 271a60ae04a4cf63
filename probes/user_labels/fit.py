"""A head for user labels: the benchmark's grid, selected on validation, tested once, saved with its facts.

Shapes: K recordings, C outputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mert.describe.beats import strength
from mert.describe.head import WEIGHTED, HeadCard, SavedHead, sigmoid, softmax
from mert.errors import UsageError
from mert.weights.registry import REGISTRY
from probes.beats.probe import BeatFit, f_measures, fit_one
from probes.beats.tracking import Tracking
from probes.clip_probe import LOSS_OF, ClipConfig, ClipProbe, Labelled
from probes.features.files import FeatureFiles
from probes.features.scaling import StandardizedFrames, Standardizer
from probes.features.stores import layer_number
from probes.fit import LOSSES, Fit, Policy, Setting
from probes.heads import DROPOUT
from probes.metrics import METRICS, r2
from probes.results import library_versions
from probes.sweep import Evaluation, GridOptions, GridRow, Journal, evaluate
from probes.user_labels.confidence import least_confidence, least_of_tags
from probes.user_labels.copies import copies, keep_together
from probes.user_labels.splits import Split, counts, split
from probes.user_labels.table import LabelTable

MONITORS = {"classification": "accuracy", "multilabel": "roc_auc", "regression": "r2", "frames": "f_measure"}
FEW = 50  # test recordings: the 95 % interval of an accuracy of 70 is 25 points wide
END_S = 0.05  # the last event may come after the centre of the last frame


@dataclass(frozen=True)
class FitOptions(GridOptions):
    """The grid of `GridOptions`, the seed of a random split, and how events are picked (`post`) and matched."""

    max_epochs: int = 100
    split_seed: int = 0
    post: str = "peak"
    tolerance_s: float = 0.07


def fit_head(
    table: LabelTable, features: FeatureFiles, options: FitOptions = FitOptions(),
    on_fit: Callable[[GridRow, int], None] = lambda row, total: None,
) -> SavedHead:  # fmt: skip
    """Fit the grid on train, select layer and rate on validation, score test once, and return the best seed's head.

    `on_fit` is called per point of the grid, with the number of all points. The example of SavedHead fits a head.
    """
    table = keep_together(table, copies(features))
    probe: Any = (FrameProbe if table.task == "frames" else RecordingProbe)(table, features, options)
    done = evaluate(probe, options.grid(features.layers), Journal(None, {}), on_fit)
    card = card_of(probe.table, features, probe.parts, options, done)
    card = replace(card, least=probe.least(done.heads[card.head["seed"]]))
    scale = probe.standardizer(done.layer)
    tensors = probe.parameters(done.heads[card.head["seed"]]) | {"mean": scale.mean, "deviation": scale.deviation}
    return SavedHead(card, {name: value.detach().cpu().float().numpy() for name, value in tensors.items()})


class RecordingProbe(ClipProbe):
    """Heads on one row per recording: classes, tags or values. A `probes.sweep.Probe`."""

    def __init__(self, table: LabelTable, features: FeatureFiles, options: FitOptions) -> None:
        self.table, self.parts = table, split(table, options.split_seed)
        labelled = {name: Labelled(files, targets(table, files)) for name, files in self.parts.files.items()}
        self.units: dict[str, Tensor] = {}  # what converts outputs of a regression to the unit of the labels
        if table.task == "regression":
            train = labelled["train"].targets
            mean_C, deviation_C = train.mean(axis=0), train.std(axis=0)
            self.units = {"target_mean": torch.from_numpy(mean_C), "target_deviation": torch.from_numpy(deviation_C)}
            labelled = {name: Labelled(part.ids, ((part.targets - mean_C) / deviation_C).astype(np.float32))
                        for name, part in labelled.items()}  # fmt: skip
        if table.task == "multilabel":
            labelled["train"] = Labelled(labelled["train"].ids, probabilities(table, labelled["train"].ids))
        config = ClipConfig(table.task, table.classes, MONITORS[table.task], options.hidden, options.max_epochs)
        super().__init__(features, **labelled, config=config, device=options.device)
        self.together = len(options.lrs) * len(options.seeds)

    def valid_score(self, logits_RC: np.ndarray) -> float:
        """The metric, less a hundredth of a point at most: of equal scores the smaller loss is better.

        With few recordings, many epochs and layers classify equally well, and the first epoch, a single step, would
        often be kept.
        """
        score, kind = super().valid_score(logits_RC), self.config.kind
        if kind == "regression" or not np.isfinite(score):
            return score
        wanted = torch.from_numpy(self.labelled["valid"].targets)
        loss = float(LOSSES[LOSS_OF[kind]](torch.from_numpy(logits_RC), wanted))
        return score - 0.01 * loss / (1 + loss)

    def score(self, fitted: Fit, outputs_nC: np.ndarray) -> dict[str, Any]:
        outputs = {"valid": self.outputs(fitted, "valid"), "test": outputs_nC}
        return {name: clip_scores(self.table, self.labelled[name].targets, each) for name, each in outputs.items()}

    def least(self, fitted: Fit) -> list[float]:
        """The confidence from which on the head is sure, of classes or of each tag; none for values."""
        logits_KC, targets = self.outputs(fitted, "valid"), self.labelled["valid"].targets
        if self.config.kind == "regression":
            return []
        if self.config.kind == "multilabel":
            return least_of_tags(targets, sigmoid(logits_KC.astype(np.float64)))
        probability_KC = np.stack([softmax(logits_C) for logits_C in logits_KC.astype(np.float64)])
        return [least_confidence(probability_KC.max(axis=1), probability_KC.argmax(axis=1) == targets)]

    def parameters(self, fitted: Fit) -> dict[str, Tensor]:
        """The tensors to be saved."""
        return {name: value[0] for name, value in fitted.parameters.items()} | self.units


class FrameProbe:
    """Heads on single frames, for events (beats, onsets). A `probes.sweep.Probe`."""

    together = 1

    def __init__(self, table: LabelTable, features: FeatureFiles, options: FitOptions) -> None:
        if not options.hidden:
            raise UsageError("--head linear", "frame-wise heads have one hidden layer", "leave it out")
        self.table = without_late_events(table, features)
        self.parts = split(self.table, options.split_seed)
        self._layers, self._device, self._policy = features.layers, options.device, Policy(options.max_epochs)
        self._tracking = Tracking(options.post, options.tolerance_s)
        events = {item.file: np.array(item.label, np.float64) for item in self.table.items}
        self._events = {name: {file: events[file] for file in files} for name, files in self.parts.files.items()}
        self._store = StandardizedFrames(features, self.parts.files["train"])

    def fit(self, settings: Sequence[Setting]) -> list[BeatFit]:
        return [fit_one(
            self._store, self._events["train"], self._events["valid"], layer=layer_number(self._layers, at.layer),
            lr=at.lr, seed=at.seed, tracking=self._tracking, policy=self._policy, device=self._device,
        ) for at in settings]  # fmt: skip

    def outputs(self, fitted: BeatFit) -> np.ndarray:
        """[n, 1]: F of each test recording."""
        return f_measures(fitted.head, self._store, self._events["test"], fitted.layer, self._tracking)[:, None]

    def score(self, fitted: BeatFit, outputs_nC: np.ndarray) -> dict[str, Any]:
        """Mean F over valid and test recordings, in points."""
        return {"valid": {"f_measure": fitted.score}, "test": {"f_measure": 100 * float(np.mean(outputs_nC))}}

    def least(self, fitted: BeatFit) -> list[float]:
        """The strength of its events from which on the head is sure of them."""
        strengths, scores = [], []
        for file, reference in self._events["valid"].items():
            activation_T, times_T = (
                fitted.head.activation(self._store.frames(file, fitted.layer)),
                self._store.times(file),
            )
            found = self._tracking.beats(activation_T, times_T)
            strengths.append(strength(activation_T, times_T, found) if len(found) else 0.0)
            scores.append(self._tracking.score(reference, activation_T, times_T).f_measure)
        return [least_confidence(np.array(strengths), np.array(scores))]

    def parameters(self, fitted: BeatFit) -> dict[str, Tensor]:
        return dict(fitted.head.weights.items())

    def standardizer(self, layer: str) -> Standardizer:
        return self._store.standardizer(layer_number(self._layers, layer))


def without_late_events(table: LabelTable, features: FeatureFiles) -> LabelTable:
    """The table without events after the end of a recording; LabelError if most are: times in milliseconds, say."""
    ends_s = {item.file: features.times(item.file)[-1] + END_S for item in table.items}
    items = [replace(item, label=tuple(time for time in item.label if time <= ends_s[item.file]))
             for item in table.items]  # fmt: skip
    n, kept = (sum(len(item.label) for item in each) for each in (table.items, items))
    lost = n - kept
    if 2 * lost > n:
        raise table.error(f"{lost} of {n} events are after the end of their recordings", "give times in seconds")
    notes = (*table.notes, f"{lost} events after the end of a recording are left out") if lost else table.notes
    return replace(table, items=tuple(items), notes=notes)


def targets(table: LabelTable, files: Sequence[str]) -> np.ndarray:
    """Class numbers [K], tags [K, C] of 0 and 1, or values [K, C] in their own unit."""
    labels = {item.file: item.label for item in table.items}
    if table.task == "classification":
        return np.array([table.classes.index(labels[file]) for file in files], np.int64)
    if table.task == "multilabel":
        return np.array([[name in labels[file] for name in table.classes] for file in files], np.float32)
    return np.array([labels[file] for file in files], np.float64)


def probabilities(table: LabelTable, files: Sequence[str]) -> np.ndarray:
    """What heads learn for tags [K, C]: the probabilities that the table has, otherwise 0 or 1."""
    items = {item.file: item for item in table.items}
    rows = [
        [items[file].probabilities.get(name, name in items[file].label) for name in table.classes] for file in files
    ]
    return np.array(rows, np.float32)


def clip_scores(table: LabelTable, targets_K: np.ndarray, outputs_KC: np.ndarray) -> dict[str, float]:
    """The metrics of a task, in points."""
    if table.task == "regression":
        each = dict(zip(table.classes, (100 * r2(targets_K, outputs_KC)).tolist(), strict=True))
        return {"r2": float(np.mean(list(each.values())))} | {f"r2_{name}": value for name, value in each.items()}
    names = ("roc_auc", "ap") if table.task == "multilabel" else ("accuracy",)
    return {name: METRICS[name](targets_K, outputs_KC, table.classes) for name in names}


def card_of(
    table: LabelTable, features: FeatureFiles, parts: Split, options: FitOptions, done: Evaluation[Any]
) -> HeadCard:
    """The facts of a head for head.json; the head is that of the best seed by validation."""
    meta, monitor, seeds = features.meta, MONITORS[table.task], done.seeds
    name, sha256 = str(meta["model"]), str(meta["weights_sha256"])
    pinned = REGISTRY[name].revision if name in REGISTRY and REGISTRY[name].sha256 == sha256 else None
    best = max(seeds, key=lambda seed: float(done.heads[seed["seed"]].score))
    summed = [layer for layer in features.layers if layer != "embed"]
    means = {part: {key: float(np.mean([seed[part][key] for seed in seeds])) for key in best[part]}
             | {"n": parts.n[part]} for part in ("valid", "test")}  # fmt: skip
    grid = [{key: value for key, value in row.as_json().items() if key != "scaling"} for row in done.rows]
    facts = ("window", "hop", "window_frames", "hop_frames", "normalize", "dtype", "sample_rate")
    return HeadCard(
        task=table.task, classes=list(table.classes), layer=done.layer,
        layers=summed if done.layer == WEIGHTED else [done.layer],
        encoder={"name": name, "revision": meta.get("revision") or pinned, "sha256": sha256},
        features={fact: meta.get(fact) for fact in facts} | {"pool": features.pool},
        head={"kind": "mlp" if options.hidden else "linear", "hidden": options.hidden, "dropout": DROPOUT,
              "lr": done.lr, "seed": best["seed"], "epoch": best["epoch"], "max_epochs": options.max_epochs},
        scores={"metric": monitor, "unit": "points", **means, "seeds": seeds},
        tracking={"post": options.post, "tolerance_s": options.tolerance_s} if table.task == "frames" else None,
        split={"how": parts.how, "seed": parts.seed} | {part: list(files) for part, files in parts.files.items()},
        counts=counts(table, parts), grid=grid, notes=[*table.notes, *few(parts.n["test"])],
        versions=library_versions(),
    )  # fmt: skip


def few(n_test: int) -> list[str]:
    """A note on a score of few recordings.

    >>> few(8), few(400)
    (['a score of so few test recordings (8) says little'], [])
    """
    return [f"a score of so few test recordings ({n_test}) says little"] if n_test < FEW else []
