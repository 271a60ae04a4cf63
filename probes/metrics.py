"""Metrics of clip-level outputs, thin over scikit-learn and mir_eval, in points of 0 to 100 (SDR: dB).

Shapes: n items, C outputs of a head (classes, tags, targets, or named values of an item). Everything is float64.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from mert.errors import MertError, need


def correct(targets_n: np.ndarray, logits_nC: np.ndarray) -> np.ndarray:
    """1.0 for each item whose largest logit is that of its class, else 0.0; of equal logits the first counts.

    >>> correct(np.array([0, 1]), np.array([[2.0, 1.0], [3.0, 0.0]]))
    array([1., 0.])
    """
    return np.asarray(_finite(logits_nC).argmax(axis=1) == np.asarray(targets_n), dtype=np.float64)


def key_scores(targets_n: np.ndarray, logits_nC: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """mir_eval's key score of each item: same key 1, a fifth above 0.5, relative 0.3, parallel 0.2.

    >>> key_scores(np.array([0, 0]), np.array([[0.0, 1.0], [1.0, 0.0]]), ("C major", "A minor"))
    array([0.3, 1. ])
    """
    table_CC = _key_table(tuple(classes))
    return table_CC[np.asarray(targets_n, dtype=int), _finite(logits_nC).argmax(axis=1)]


@lru_cache
def _key_table(classes: tuple[str, ...]) -> np.ndarray:
    weighted_score = need("mir_eval.key", "probe", "the weighted key score").weighted_score
    return np.array([[weighted_score(reference, estimate) for estimate in classes] for reference in classes])


def scorable(targets_nC: np.ndarray) -> np.ndarray:
    """[C] of bool: tags with a positive and a negative item; for others a ranking is undefined.

    >>> scorable(np.array([[1, 0, 1], [1, 0, 0]]))
    array([False, False,  True])
    """
    positives_nC = np.asarray(targets_nC) > 0
    return np.asarray(positives_nC.any(axis=0) & ~positives_nC.all(axis=0))


def roc_auc(targets_nC: np.ndarray, scores_nC: np.ndarray) -> float:
    """Macro area under the ROC curve over the `scorable` tags."""
    return _macro(need("sklearn.metrics", "probe", "ROC-AUC").roc_auc_score, targets_nC, scores_nC)


def average_precision(targets_nC: np.ndarray, scores_nC: np.ndarray) -> float:
    """Macro average precision (PR-AUC) over the `scorable` tags."""
    measure = need("sklearn.metrics", "probe", "average precision").average_precision_score
    return _macro(measure, targets_nC, scores_nC)


def _macro(measure: Callable[..., float], targets_nC: np.ndarray, scores_nC: np.ndarray) -> float:
    kept_C = scorable(targets_nC)
    if not kept_C.any():
        raise MertError("metric", "no tag has both a positive and a negative item", "score more items")
    return float(measure(np.asarray(targets_nC)[:, kept_C] > 0, _finite(scores_nC)[:, kept_C], average="macro"))


def r2(targets_nC: np.ndarray, outputs_nC: np.ndarray) -> np.ndarray:
    """[C]: 1 - SSE/SST of each target, about the mean of these items; MertError for a constant target.

    >>> r2(np.array([[0.0], [2.0]]), np.array([[0.0], [1.0]]))
    array([0.5])
    """
    r2_score = need("sklearn.metrics", "probe", "R2").r2_score
    targets_nC = _finite(targets_nC)
    if constant := np.flatnonzero(np.ptp(targets_nC, axis=0) == 0).tolist():
        raise MertError("R2", f"target {constant[0]} is the same in all {len(targets_nC)} items", "give more items")
    return np.asarray(r2_score(targets_nC, _finite(outputs_nC), multioutput="raw_values"), dtype=np.float64)


def item_mean(values_n: np.ndarray) -> float:
    """Mean over the items that have a value; NaN means none (a silent stem has no SDR)."""
    known_n = np.asarray(values_n, dtype=np.float64)
    known_n = known_n[~np.isnan(known_n)]
    if not len(known_n):
        raise MertError("metric", "no item has a value", "look at the recordings of this split")
    return float(known_n.mean())


def _finite(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise MertError("metric", "outputs or targets are not finite", "lower the learning rate, or check the features")
    return values


@dataclass(frozen=True)
class Metric:
    """A metric by name: called with targets, outputs [n, C] and the names of the C columns.

    `scale` turns shares into points; `unit` is "points" or "dB". `of_items` returns a value per item where the metric
    is their mean, and is None where it is not (rankings, R2). The score of a task is the mean of its metrics, but for
    those that count only under one value of a protocol `switch`; one that is `alone` is the score by itself. `span`
    is where it can lie, in its unit.

    >>> METRICS["accuracy"](np.array([1, 1]), np.eye(2), ("dog", "cat"))
    50.0
    """

    name: str
    title: str
    value: Callable[[np.ndarray, np.ndarray, Sequence[str]], float]
    of_items: Callable[[np.ndarray, np.ndarray, Sequence[str]], np.ndarray] | None = None
    scale: float = 100.0
    unit: str = "points"
    switch: tuple[str, str, str] | None = None  # name, the value under which it counts, the default value
    alone: bool = False
    span: tuple[float, float] = (0.0, 100.0)

    def __call__(self, targets: np.ndarray, outputs_nC: np.ndarray, columns: Sequence[str] = ()) -> float:
        """The metric in its unit."""
        return self.scale * self.value(targets, outputs_nC, columns)

    def counts(self, protocol: Mapping[str, str]) -> bool:
        """Whether it is part of a task's score under these protocol switches."""
        if self.switch is None:
            return True
        name, value, default = self.switch
        return protocol.get(name, default) == value


def _by_item(name: str, title: str, of_items: Callable, **facts: Any) -> Metric:
    return Metric(name, title, lambda t, o, c: item_mean(of_items(t, o, c)), of_items, **facts)


def _column(name: str, title: str, **facts: Any) -> Metric:
    """A metric whose values per item are the column of its name."""
    return _by_item(name, title, lambda t, o, c: np.asarray(o, dtype=np.float64)[:, tuple(c).index(name)], **facts)


def _r2_of(target: str, title: str) -> Metric:
    def value(targets_nC: np.ndarray, outputs_nC: np.ndarray, columns: Sequence[str]) -> float:
        i = tuple(columns).index(target)
        return float(r2(targets_nC[:, [i]], outputs_nC[:, [i]])[0])

    return Metric(f"r2_{target}", title, value, span=R2_SPAN)


STEMS = ("vocals", "drums", "bass", "other")
R2_SPAN, SDR_SPAN = (-math.inf, 100.0), (-math.inf, math.inf)
METRICS: dict[str, Metric] = {metric.name: metric for metric in (
    _by_item("accuracy", "accuracy", lambda t, o, c: correct(t, o)),
    _by_item("weighted_score", "weighted key score", key_scores, alone=True),
    Metric("roc_auc", "ROC-AUC", lambda t, o, c: roc_auc(t, o)),
    Metric("ap", "average precision", lambda t, o, c: average_precision(t, o)),
    Metric("r2", "R², mean", lambda t, o, c: float(r2(t, o).mean()), span=R2_SPAN),
    _r2_of("valence", "R² valence"),
    _r2_of("arousal", "R² arousal"),
    _column("f_dbn", "beat F, DBN", switch=("beat_post", "dbn", "dbn")),
    _column("f_peak", "beat F, peaks", switch=("beat_post", "peak", "dbn")),
    *(_column(f"sdr_{stem}", f"SDR {stem}", scale=1.0, unit="dB", span=SDR_SPAN) for stem in STEMS),
)}  # fmt: skip


def chance(name: str, classes: Sequence[str]) -> float | None:
    """What guesses give in a metric, in points: of each class as often as of any other, or the mean of the targets.

    >>> chance("accuracy", ("dog", "cat")), chance("roc_auc", ()), chance("f_dbn", ())
    (50.0, 50.0, None)
    """
    if name in ("accuracy", "weighted_score") and classes:
        guesses_CC = np.eye(len(classes))
        truths = (np.full(len(classes), truth) for truth in range(len(classes)))
        return float(np.mean([METRICS[name](truth_C, guesses_CC, classes) for truth_C in truths]))
    return {"roc_auc": 50.0, "r2": 0.0}.get(name)


def score_parts(names: Sequence[str], protocol: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The metrics of a task whose mean is its score; the others are secondary.

    >>> score_parts(("weighted_score", "accuracy")), score_parts(("roc_auc", "ap"))
    (('weighted_score',), ('roc_auc', 'ap'))
    >>> score_parts(("f_dbn", "f_peak"), {"beat_post": "peak"})
    ('f_peak',)
    """
    alone = tuple(name for name in names if METRICS[name].alone)
    return alone or tuple(name for name in names if METRICS[name].counts(protocol or {}))
