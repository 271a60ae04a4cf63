"""The test items a head fails worst on, with what was right and what it said: what one listens to first.

Shapes: S seeds, n items, C outputs of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mir_benchmarks.tasks.registry import TASKS
from probes.metrics import METRICS, key_scores, score_parts
from probes.results import Outputs, Result


@dataclass(frozen=True)
class Failure:
    """An item, its label, what the head gave, and how bad that is: a number for each of the task's `MEASURES`."""

    id: str
    reference: str
    estimate: str
    measures: tuple[str, ...]


MEASURES = {
    "classification": ("logit margin", "seeds wrong"),
    "key": ("key score", "logit margin"),
    "multilabel": ("best rank of a wrong tag", "worst rank of a right tag"),
    "regression": ("distance in deviations",),
    "beats": ("task score",),
    "separation": ("task score",),
}


def failures(result: Result, outputs: Outputs, n_worst: int = 8) -> list[Failure]:
    """The worst test items of a task, worst first; fewer where fewer are wrong.

    >>> outputs = Outputs(np.array(["a", "b"]), np.array([0, 0]), np.array([[[1.0, 4.0], [2.0, 0.0]]]), ("dog", "cat"))
    >>> _classified(outputs, None)
    [(-3.0, Failure(id='a', reference='dog', estimate='cat', measures=('3.0', '1 of 1')))]
    """
    finders = {"multilabel": _tagged, "regression": _rated, "beats": _valued, "separation": _valued}
    found = finders.get(TASKS[result.task["name"]].kind, _classified)(outputs, result)
    return [failure for _, failure in sorted(found, key=lambda pair: (pair[0], pair[1].id))[:n_worst]]


def _classified(outputs: Outputs, result: Result | None) -> list[tuple[float, Failure]]:
    """Keys by their score, classes by the margin; items that some seed gets wrong."""
    is_key = result is not None and TASKS[result.task["name"]].kind == "key"
    truth_n = outputs.targets.astype(int)
    rows = np.arange(len(truth_n))
    mean_nC = outputs.outputs.mean(axis=0, dtype=np.float64)
    guesses_Sn = outputs.outputs.argmax(axis=2)
    wrong_n = (guesses_Sn != truth_n).sum(axis=0)
    rivals_nC = mean_nC.copy()
    rivals_nC[rows, truth_n] = -np.inf
    margin_n = rivals_nC.max(axis=1) - mean_nC[rows, truth_n]
    seeds = len(guesses_Sn)
    score_n = np.zeros(len(rows))
    if is_key:
        score_n = np.mean([key_scores(truth_n, of_nC, outputs.columns) for of_nC in outputs.outputs], axis=0)
    found = []
    for i in np.flatnonzero((wrong_n > 0) & (margin_n > 0)).tolist():
        margin = f"{margin_n[i]:.1f}"
        bad = (f"{score_n[i]:.2f}", margin) if is_key else (margin, f"{wrong_n[i]} of {seeds}")
        guess = outputs.columns[int(rivals_nC[i].argmax())]
        found.append(
            (float(score_n[i] * 1e6 - margin_n[i]), _failure(outputs, i, outputs.columns[truth_n[i]], guess, bad))
        )
    return found


def _tagged(outputs: Outputs, result: Result | None) -> list[tuple[float, Failure]]:
    """By the mean rank of the tags an item has, beside as many that were thought likelier."""
    mean_nC = outputs.outputs.mean(axis=0, dtype=np.float64)
    found = []
    for i, scores_C in enumerate(mean_nC):
        tags = np.flatnonzero(outputs.targets[i] > 0)
        order = np.argsort(-scores_C, kind="stable")
        ranks_C = np.argsort(order, kind="stable") + 1
        first = order[: max(1, len(tags))]
        wrong = [tag for tag in first if tag not in tags]
        if not len(tags) or not wrong:
            continue
        said, right = _names(outputs, first), _names(outputs, tags)
        bad = (str(ranks_C[wrong].min()), str(ranks_C[tags].max()))
        excess = ranks_C[tags].mean() - (len(tags) + 1) / 2
        found.append((-float(excess), _failure(outputs, i, right, said, bad)))
    return found


def _rated(outputs: Outputs, result: Result | None) -> list[tuple[float, Failure]]:
    mean_nC = outputs.outputs.mean(axis=0, dtype=np.float64)
    scale_C = outputs.targets.std(axis=0) + 1e-12
    distance_n = np.sqrt((((mean_nC - outputs.targets) / scale_C) ** 2).sum(axis=1))
    found = []
    for i, far in enumerate(distance_n):
        truth, said = _values(outputs, outputs.targets[i]), _values(outputs, mean_nC[i])
        found.append((-float(far), _failure(outputs, i, truth, said, (f"{far:.2f}",))))
    return found


def _valued(outputs: Outputs, result: Result | None) -> list[tuple[float, Failure]]:
    """Beats and stems, whose outputs are a metric's values: the lowest first."""
    assert result is not None
    parts = score_parts(tuple(result.metrics), result.protocol)
    columns = [outputs.columns.index(part) for part in parts]
    value_n = outputs.outputs[:, :, columns].mean(axis=(0, 2), dtype=np.float64)
    scaled = METRICS[parts[0]]
    mean_nC = outputs.outputs.mean(axis=0, dtype=np.float64) * scaled.scale
    return [
        (float(value), _failure(outputs, i, "", _values(outputs, mean_nC[i], 1), (f"{value * scaled.scale:.1f}",)))
        for i, value in enumerate(value_n)
        if np.isfinite(value)
    ]


def _failure(outputs: Outputs, i: int, reference: str, estimate: str, measures: tuple[str, ...]) -> Failure:
    return Failure(str(outputs.ids[i]), reference, estimate, measures)


def _names(outputs: Outputs, tags: np.ndarray) -> str:
    return ", ".join(outputs.columns[tag] for tag in tags)


def _values(outputs: Outputs, values_C: np.ndarray, digits: int = 2) -> str:
    titles = (METRICS[name].title if name in METRICS else name for name in outputs.columns)
    return ", ".join(f"{title} {value:.{digits}f}" for title, value in zip(titles, values_C, strict=True))
