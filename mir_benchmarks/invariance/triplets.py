"""How often a segment is nearer to another of its recording than to one of another recording, over all triplets.

Shapes: n segments, P width of a pooled segment, m recordings.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from mir_benchmarks.datasets.dataset import TaskError
from mir_benchmarks.invariance.segments import CLEAN, Segments, around_mean, measure
from mir_benchmarks.report.tables import Table, with_interval
from mir_benchmarks.statistics import Jackknife


def accuracies(segments: Segments, layer_names: Sequence[str]) -> dict[str, Any]:
    """The accuracy of each layer on all triplets, and their number."""
    n_triplets = int(counted(segments.owner_n).sum())
    if not n_triplets:
        reason = f"{len(segments.owner_n)} segments of {len(segments.recordings)} recordings make no triplet"
        raise TaskError("AUDIO", reason, "give two recordings, one of them with two segments")
    layers = {
        name: accuracy(around_mean(vectors_nP, vectors_nP), segments.owner_n)
        for name, vectors_nP in zip(layer_names, segments.vectors[CLEAN].swapaxes(0, 1), strict=True)
    }
    n_anchors = sum(recording["segments"] > 1 for recording in segments.recordings)
    return {"n_triplets": n_triplets, "n_anchor_recordings": n_anchors, "chance": 50.0, "layers": layers}


measure_triplets = partial(measure, "triplets", {}, True, accuracies)  # the JSON of `mert bench triplets`


def counted(owner_n: np.ndarray) -> np.ndarray:
    """[m, m]: triplets with the anchor in one recording and the other segment in another.

    >>> counted(np.array([0, 0, 1]))
    array([[0, 2],
           [0, 0]])
    """
    sizes_m = np.bincount(owner_n)
    return np.outer(sizes_m * (sizes_m - 1), sizes_m) * ~np.eye(len(sizes_m), dtype=bool)


def accuracy(units_nP: np.ndarray, owner_n: np.ndarray) -> dict[str, Any]:
    """Percent of triplets that are right, ordered pairs of recordings weighted equally; a tie is half right.

    The 95 % interval leaves out one recording at a time, with all triplets that hold it.

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
    sums, counts = (of_mm.sum() - np.append(0, of_mm.sum(axis=0) + of_mm.sum(axis=1)) for of_mm in (share_mm, pairs_mm))
    with np.errstate(invalid="ignore"):  # no pair is left without the only recording of two segments
        jackknife = Jackknife(sums / np.where(counts > 0, counts, np.nan), len(share_mm))
    return {"mean": jackknife.whole, "ci95": list(jackknife.interval((0, 100)) or ())}


def triplets_table(measured: Mapping[str, Any]) -> Table:
    """One row per model, at its layer."""
    rows: list[tuple[str, ...]] = []
    for model in measured["models"]:
        cell = with_interval(model["layers"][model["layer"]])
        rows.append((model["model"]["name"], model["layer"], cell, f"{model['n_triplets']:,}"))
    first = measured["models"][0]
    note = (
        f"{first['n_segments']} segments of {measured['segment_s']:g} s of {first['n_recordings']} recordings "
        f"({first['n_anchor_recordings']} with two or more, which hold the anchors); cosine around the mean of all "
        "segments; each pair of recordings counted alike; 95 % intervals over recordings; 50 % by chance."
    )
    columns = ("model", "layer", "accuracy, % [95 % CI]", "triplets")
    return Table("Nearer to its own recording", columns, rows, note, text=frozenset({"layer"}))
