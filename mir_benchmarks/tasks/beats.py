"""Beat tracking: frames of every layer, a head on single frames, and two ways from its activation to beats."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mir_benchmarks.datasets.dataset import Dataset
from mir_benchmarks.tasks.options import Evaluated, Options, hear
from mir_benchmarks.tasks.registry import TaskSpec
from probes.beats.probe import BeatFit, fit_one
from probes.beats.tracking import BeatScores, Tracking
from probes.features.matrix import FeatureMatrix
from probes.features.scaling import ScaledFrames
from probes.features.stores import Layer, layer_number
from probes.fit import Policy
from probes.results import Outputs
from probes.sweep import Journal, Setting, sweep

COLUMNS = {"f_dbn": "dbn", "f_peak": "peak"}


def beat_task(task: TaskSpec, dataset: Dataset, matrix: FeatureMatrix, options: Options) -> Evaluated:
    """Fit the grid on train, choose by F on valid, and score every test recording with both trackers."""
    protocol = task.protocol(options.protocol)
    seconds = 30.0 * len(dataset.items)
    options.say(f"frames of all layers take {matrix.bytes_for(seconds) / 2**20:.0f} MiB for clips of 30 s")
    hear(dataset, matrix, options)
    beats = {split: annotated(dataset, split, matrix) for split in ("train", "valid", "test")}
    rule = {"tolerance_s": float(protocol["beat_tol"]), "trim_s": float(protocol["beat_trim"])}
    tracking = Tracking(protocol["beat_post"], **rule)
    store = ScaledFrames(matrix, tuple(beats["train"])) if options.standardize else matrix
    policy = Policy(options.epochs(task.max_epochs), task.patience)

    def fit(settings: Sequence[Setting]) -> list[BeatFit]:
        return [fit_one(
            store, beats["train"], beats["valid"], layer=layer_number(matrix.layers, setting.layer), lr=setting.lr,
            seed=setting.seed, tracking=tracking, policy=policy, device=options.device,
        ) for setting in settings]  # fmt: skip

    grid = options.grid(matrix.layers)
    total = len(list(grid.settings()))
    journal = Journal(
        options.journal, {"data": digest(matrix, beats), "rules": repr((tracking, policy, options.standardize, 2))}
    )
    swept = sweep(grid, fit, journal, 1, lambda row: options.fitted(row, total))
    outputs, seeds = [], []
    for seed, fitted in swept.heads.items():
        scores = test(fitted, store, beats["test"], layer_number(matrix.layers, swept.layer), rule)
        outputs.append(columns(scores, protocol["beat_agg"]))
        means = 100 * outputs[-1].mean(axis=0)
        seeds.append({"seed": seed, "epoch": fitted.epoch, "valid": {"f_measure": fitted.score},
                      "test": dict(zip(COLUMNS, means.tolist(), strict=True))})  # fmt: skip
    pooled = protocol["beat_agg"] == "pooled"
    return Evaluated(
        [row.as_json() for row in swept.rows], swept.layer, swept.lr, seeds,
        Outputs(np.array(list(beats["test"])), np.zeros(0), np.stack(outputs).astype(np.float32), tuple(COLUMNS)),
        {"kind": "frame-wise mlp", "hidden": 512, "dropout": 0.2, "optimizer": "Adam", "crop_s": 10.0,
         "loss": "binary cross-entropy, targets 0.25 0.5 1 0.5 0.25 about a beat", "epoch_by": "validation loss",
         "batch_clips": "64, or an eighth of train if that is less",
         "max_epochs": policy.max_epochs, "patience": list(policy.patience)},
        ["F is pooled over all beats; its interval takes their number as given"] if pooled else [],
    )  # fmt: skip


def annotated(dataset: Dataset, split: str, matrix: FeatureMatrix) -> dict[str, np.ndarray]:
    """Beats of each clip, up to the end of its audio: some annotations go on behind it."""
    beats = {}
    for item in dataset.split(split):
        assert isinstance(item.label, tuple)
        times = np.array(item.label, dtype=np.float64)
        beats[item.id] = times[times <= matrix.entries[item.id].seconds]
    return beats


def test(
    fit: BeatFit, store: Any, beats: dict[str, np.ndarray], layer: Layer, rule: dict[str, float]
) -> list[dict[str, BeatScores]]:
    """The scores of both trackers on each test recording."""
    scores = []
    for clip, reference in beats.items():
        activation_T, times_T = fit.head.activation(store.frames(clip, layer)), store.times(clip)
        scores.append({name: Tracking(post, **rule).score(reference, activation_T, times_T)
                       for name, post in COLUMNS.items()})  # fmt: skip
    return scores


def columns(scores: list[dict[str, BeatScores]], aggregation: str) -> np.ndarray:
    """[n, 2]: F of each recording, or its share of the pooled F, so that the mean over recordings is the metric."""
    if aggregation == "mean":
        return np.array([[of[name].f_measure for name in COLUMNS] for of in scores])
    matched = np.array([[of[name].matched for name in COLUMNS] for of in scores], dtype=float)
    beats = np.array([[of[name].n_reference + of[name].n_estimate for name in COLUMNS] for of in scores], dtype=float)
    return 2 * matched / beats.mean(axis=0)


def digest(matrix: FeatureMatrix, beats: dict[str, dict[str, np.ndarray]]) -> str:
    """What the fits depend on besides the rules."""
    sha = hashlib.sha256(matrix.digest.encode())
    for split, clips in beats.items():
        for name, times in clips.items():
            sha.update(f"{split}:{name}:{matrix.entries[name].crc32};".encode() + times.tobytes())
    return sha.hexdigest()
