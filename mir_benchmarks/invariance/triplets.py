"""Is a segment nearer to another one of its recording than to one of another recording? All triplets, counted exactly.

Shapes: n segments, P width of a pooled segment, m recordings, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mir_benchmarks.datasets.dataset import TaskError
from mir_benchmarks.invariance.segments import (
    CLEAN,
    SEGMENT_S,
    Source,
    Tell,
    around_mean,
    chosen_layer,
    described,
    hear,
    mean_and_interval,
    report,
)
from mir_benchmarks.report.tables import Table
from mir_benchmarks.statistics import LEVELS, draw
from probes.encoders import Encoder

CHANCE = 50.0


def measure_triplets(
    encoders: Sequence[Encoder],
    sources: Sequence[Source],
    left_out: Mapping[str, str] | None = None,
    segment_s: float = SEGMENT_S,
    layer: str | None = None,
    tell: Tell = lambda: None,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Accuracy of each encoder and layer, as the JSON of `mert bench triplets`; and what could not be read."""
    layers = [chosen_layer(encoder, layer) for encoder in encoders]  # refuses unknown ones before the work
    models = []
    for encoder, of_table in zip(encoders, layers, strict=True):
        heard = hear(encoder, sources, None, segment_s, only_whole=True, tell=tell)
        n_triplets = int(counted(heard.owner_n).sum())
        if not n_triplets:
            reason = f"{len(heard.owner_n)} segments of {len(heard.recordings)} recordings make no triplet"
            raise TaskError("AUDIO", reason, "give two recordings, one of them with two segments")
        found = {
            name: accuracy(around_mean(vectors_nP, vectors_nP), heard.owner_n)
            for name, vectors_nP in zip(encoder.facts.layer_names, heard.vectors[CLEAN].swapaxes(0, 1), strict=True)
        }
        n_anchors = sum(recording["segments"] > 1 for recording in heard.recordings)
        extent = {"n_triplets": n_triplets, "n_anchor_recordings": n_anchors, "chance": CHANCE}
        models.append(described(encoder, of_table, heard) | extent | {"layers": found})
    return report("triplets", segment_s, heard, left_out or {}, models), heard.failed


def counted(owner_n: np.ndarray) -> np.ndarray:
    """[m, m]: triplets with the anchor in one recording and the other segment in another.

    >>> counted(np.array([0, 0, 1]))
    array([[0, 2],
           [0, 0]])
    """
    sizes_m = np.bincount(owner_n)
    return np.outer(sizes_m * (sizes_m - 1), sizes_m) * ~np.eye(len(sizes_m), dtype=bool)


def accuracy(units_nP: np.ndarray, owner_n: np.ndarray) -> dict[str, Any]:
    """Percent of triplets that are right, each ordered pair of recordings counted alike; ties are half right.

    The 95 % interval draws recordings: a triplet counts as often as both of its recordings were drawn.

    >>> accuracy(np.eye(2)[[0, 0, 1]], np.array([0, 0, 1]))["mean"]
    100.0
    """
    counts_mm, right_mm = counted(owner_n), np.zeros((owner_n.max() + 1,) * 2)
    for anchor, unit_P in enumerate(units_nP):
        cosines_n = units_nP @ unit_P
        is_same_n = owner_n == owner_n[anchor]
        same = np.sort(cosines_n[is_same_n & (np.arange(len(owner_n)) != anchor)])
        nearer, as_near = (np.searchsorted(same, cosines_n[~is_same_n], side=side) for side in ("right", "left"))
        wins = len(same) - (nearer + as_near) / 2
        right_mm[owner_n[anchor]] += np.bincount(owner_n[~is_same_n], wins, len(right_mm))
    pairs_mm = counts_mm > 0
    share_mm = 100 * right_mm / np.maximum(counts_mm, 1)
    drawn_mR = draw(len(share_mm))
    weight_R = (drawn_mR * (pairs_mm @ drawn_mR)).sum(axis=0)
    draws_R = (drawn_mR * (share_mm @ drawn_mR)).sum(axis=0)[weight_R > 0] / weight_R[weight_R > 0]
    interval = [float(value) for value in np.quantile(draws_R, LEVELS)]
    return {"mean": float(share_mm[pairs_mm].mean()), "ci95": interval}


def triplets_table(measured: Mapping[str, Any]) -> Table:
    """A row a model, at its layer."""
    rows: list[tuple[str, ...]] = [
        (
            one["model"]["name"],
            one["layer"],
            mean_and_interval(one["layers"][one["layer"]], 1),
            f"{one['n_triplets']:,}",
        )
        for one in measured["models"]
    ]
    first = measured["models"][0]
    note = (
        f"{first['n_segments']} segments of {measured['segment_s']:g} s of {first['n_recordings']} recordings "
        f"({first['n_anchor_recordings']} with two or more, which hold the anchors); cosine around the mean of all "
        "segments; each pair of recordings counted alike; 95 % bootstrap intervals over recordings; 50 % by chance."
    )
    columns = ("model", "layer", "accuracy, % [95 % CI]", "triplets")
    return Table("Nearer to its own recording", columns, rows, note, text=frozenset({"layer"}))
