"""A head for labels of one's own: the benchmark's grid, chosen on validation, tested once, kept with its facts.

Shapes: K recordings, R rows, L layers, T frames, D and P widths, C outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mert.errors import UsageError
from mert.weights.registry import REGISTRY
from probes.clip_probe import ClipProbe, Labelled, Rules
from probes.features.files import FeatureFiles
from probes.features.stores import WEIGHTED
from probes.fit import Policy, Setting
from probes.heads import DROPOUT, HIDDEN
from probes.metrics import METRICS, r2
from probes.results import library_versions
from probes.sweep import LRS, SEEDS, Fitted, Grid, Journal, Row, Swept, sweep
from probes.user_labels.head import HeadCard, SavedHead, needed
from probes.user_labels.splits import Split, counts, split
from probes.user_labels.table import LabelTable

F = TypeVar("F", bound=Fitted)
MONITORS = {"classification": "accuracy", "multilabel": "roc_auc", "regression": "r2", "frames": "f_measure"}


@dataclass(frozen=True)
class FitOptions:
    """The grid (layers None: every one, and their weighted sum) and how heads learn; `post` and `tolerance_s` are how
    events are picked and matched. `fitted` is called for each point with the number of all."""

    layers: tuple[str, ...] | None = None
    lrs: tuple[float, ...] = LRS
    seeds: tuple[int, ...] = SEEDS
    hidden: int = HIDDEN
    max_epochs: int = 100
    split_seed: int = 0
    post: str = "peak"
    tolerance_s: float = 0.07
    device: str = "cpu"
    fitted: Callable[[Row, int], None] = lambda row, total: None

    def sweep(
        self, layers: tuple[str, ...], fit: Callable[[Sequence[Setting]], Iterable[F]], together: int = 1
    ) -> Swept[F]:
        """Fit every point of the grid."""
        grid = self.grid(layers)
        total = len(list(grid.settings()))
        return sweep(grid, fit, Journal(None, {}), together, lambda row: self.fitted(row, total))

    def grid(self, layers: tuple[str, ...]) -> Grid:
        """The grid over the layers that the features hold; UsageError for others."""
        held = (*layers, WEIGHTED) if len(layers) > 2 else layers
        if unknown := [name for name in self.layers or () if name not in held]:
            raise UsageError("--layers", f"the features have no {unknown[0]}", f"give some of {', '.join(held)}")
        try:
            return Grid(self.layers or held, self.lrs, self.seeds)
        except ValueError as error:
            raise UsageError("--layers, --lrs, --seeds", str(error), "give each once") from None


def fit_head(table: LabelTable, features: FeatureFiles, options: FitOptions | None = None) -> SavedHead:
    """Fit the grid on train, choose layer and rate on valid, score test once, and give the best seed's head.

    >>> from mert import Features
    >>> meta = {"model": "m", "weights_sha256": "0" * 64, "pool": "mean", "window_frames": 74, "hop_frames": 74,
    ...         "window": 1.0, "hop": 1.0, "normalize": False, "dtype": "float32", "sample_rate": 24_000}
    >>> random = np.random.default_rng(0)
    >>> def heard(kind): return Features(random.normal(kind, 0.1, (1, 4)).astype("f4"), None, ("layer01",), meta)
    >>> labels = {f"{i}.wav": ("calm", "wild")[i % 2] for i in range(20)}
    >>> held = {file: heard(["calm", "wild"].index(label)) for file, label in labels.items()}
    >>> table = LabelTable.of("classification", labels)
    >>> head = fit_head(table, FeatureFiles(held), FitOptions(lrs=(1e-2,), seeds=(0,)))
    >>> head.card.scores["test"], head.predict(heard(1)).labels
    ({'accuracy': 100.0, 'n': 4}, ('wild',))
    """
    options = options or FitOptions()
    with needed():
        return (fit_frames if table.task == "frames" else fit_clips)(table, features, options)


def fit_clips(table: LabelTable, features: FeatureFiles, options: FitOptions) -> SavedHead:
    """A head on one row a recording; for values also what takes outputs back to their unit."""
    scale: dict[str, Tensor] = {}
    parts, monitor = split(table, options.split_seed), MONITORS[table.task]
    labelled = {name: Labelled(files, targets(table, files)) for name, files in parts.files.items()}
    if table.task == "regression":
        train = labelled["train"].targets
        mean_C, deviation_C = train.mean(axis=0), train.std(axis=0)
        scale = {"target_mean": torch.from_numpy(mean_C), "target_deviation": torch.from_numpy(deviation_C)}
        labelled = {name: Labelled(of.ids, ((of.targets - mean_C) / deviation_C).astype(np.float32))
                    for name, of in labelled.items()}  # fmt: skip
    rules = Rules(table.task, table.classes, monitor, options.hidden, options.max_epochs)
    probe = OwnProbe(features, **labelled, rules=rules, device=options.device)
    swept = options.sweep(features.layers, probe.fit, together=len(options.lrs) * len(options.seeds))
    seeds = []
    for seed, fitted in swept.heads.items():
        scores = {name: clip_scores(table, labelled[name].targets, probe.outputs(fitted, name)[0])
                  for name in ("valid", "test")}  # fmt: skip
        seeds.append({"seed": seed, "epoch": fitted.epoch} | scores)
    card = card_of(table, features, parts, options, swept, seeds)
    parameters = {name: value[0] for name, value in swept.heads[card.head["seed"]].parameters.items()}
    return SavedHead.of(card, parameters | scale, probe.scaling(swept.layer))


def fit_frames(table: LabelTable, features: FeatureFiles, options: FitOptions) -> SavedHead:
    """A head on single frames, as for beats."""
    from probes.beats.tracking import Tracking
    from probes.user_labels.frames import FrameProbe, heard
    from probes.user_labels.frames import parameters as parameters_of

    if not options.hidden:
        raise UsageError("--head linear", "frame-wise heads have one hidden layer", "leave it out")
    table = heard(table, features)
    parts = split(table, options.split_seed)
    tracking = Tracking(options.post, options.tolerance_s)
    probe = FrameProbe(features, table, parts, tracking, Policy(options.max_epochs), options.device)
    swept = options.sweep(features.layers, probe.fit)
    seeds = [{"seed": seed, "epoch": fitted.epoch, "valid": {"f_measure": fitted.score},
              "test": {"f_measure": probe.test(fitted)}}
             for seed, fitted in swept.heads.items()]  # fmt: skip
    card = card_of(table, features, parts, options, swept, seeds)
    parameters = parameters_of(swept.heads[card.head["seed"]].head)
    return SavedHead.of(card, parameters, probe.scaling(swept.layer))


class OwnProbe(ClipProbe):
    """A ClipProbe for few recordings, where many epochs and layers classify equally well: the loss orders equals.

    Otherwise the first epoch, a single step, would often be kept.
    """

    LEAST = 0.01  # points: less than one recording in 10,000

    def valid_score(self, logits_RC: np.ndarray) -> float:
        """The metric, less a hundredth of a point at most."""
        score = super().valid_score(logits_RC)
        if self.rules.kind == "regression" or not np.isfinite(score):
            return score
        logits, wanted = torch.from_numpy(logits_RC), torch.from_numpy(self.labelled["valid"].targets)
        several = self.rules.kind == "multilabel"
        loss = float((functional.binary_cross_entropy_with_logits if several else functional.cross_entropy)(
            logits, wanted))  # fmt: skip
        return score - self.LEAST * loss / (1 + loss)


def targets(table: LabelTable, files: Sequence[str]) -> np.ndarray:
    """Class numbers [K], tags [K, C] of 0 and 1, or values [K, C] in their own unit."""
    labels = {item.file: item.label for item in table.items}
    if table.task == "classification":
        return np.array([table.classes.index(labels[file]) for file in files], np.int64)
    if table.task == "multilabel":
        return np.array([[name in labels[file] for name in table.classes] for file in files], np.float32)
    return np.array([labels[file] for file in files], np.float64)


def clip_scores(table: LabelTable, targets_K: np.ndarray, made_KC: np.ndarray) -> dict[str, float]:
    """The metrics of a task, in points."""
    if table.task == "regression":
        each = dict(zip(table.classes, (100 * r2(targets_K, made_KC)).tolist(), strict=True))
        return {"r2": float(np.mean(list(each.values())))} | {f"r2_{name}": value for name, value in each.items()}
    names = ("roc_auc", "ap") if table.task == "multilabel" else ("accuracy",)
    return {name: METRICS[name](targets_K, made_KC, table.classes) for name in names}


def card_of(
    table: LabelTable, features: FeatureFiles, parts: Split, options: FitOptions, swept: Swept[Any],
    seeds: list[dict[str, Any]],
) -> HeadCard:  # fmt: skip
    """All that is known of a head, for its JSON; the head is that of the best seed by validation."""
    meta, monitor = features.meta, MONITORS[table.task]
    name, sha256 = str(meta["model"]), str(meta["weights_sha256"])
    pinned = REGISTRY[name].revision if name in REGISTRY and REGISTRY[name].sha256 == sha256 else None
    best = max(seeds, key=lambda seed: float(swept.heads[seed["seed"]].score))
    summed = [layer for layer in features.layers if layer != "embed"]
    valid, test = (
        {key: float(np.mean([seed[part][key] for seed in seeds])) for key in best[part]} | {"n": parts.n[part]}
        for part in ("valid", "test")
    )
    made = ("window", "hop", "window_frames", "hop_frames", "normalize", "dtype", "sample_rate")
    return HeadCard(
        task=table.task, classes=list(table.classes), layer=swept.layer,
        layers=summed if swept.layer == WEIGHTED else [swept.layer],
        encoder={"name": name, "revision": meta.get("revision") or pinned, "sha256": sha256},
        features={fact: meta.get(fact) for fact in made} | {"pool": features.pool},
        head={"kind": "mlp" if options.hidden else "linear", "hidden": options.hidden, "dropout": DROPOUT,
              "lr": swept.lr, "seed": best["seed"], "epoch": best["epoch"], "max_epochs": options.max_epochs},
        scores={"metric": monitor, "unit": "points", "valid": valid, "test": test, "seeds": seeds},
        tracking={"post": options.post, "tolerance_s": options.tolerance_s} if table.task == "frames" else None,
        split={"how": parts.how, "seed": parts.seed} | {part: list(files) for part, files in parts.files.items()},
        counts=counts(table, parts), grid=[row.as_json() for row in swept.rows], notes=list(table.notes),
        versions=library_versions(),
    )  # fmt: skip
