"""The worst test items of each task, with reference and estimate, for error analysis.

Shapes: S seeds, n items, C outputs of a head.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mir_benchmarks.tasks.registry import TASKS
from probes.metrics import METRICS, key_scores, score_parts
from probes.results import Outputs, Result


@dataclass(frozen=True)
class WorstItem:
    """A test item with its label, the estimate of the head, and one number for each of the task's `MEASURES`."""

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


def worst_items(result: Result, outputs: Outputs, n_worst: int = 8) -> list[WorstItem]:
    """The worst test items of a task, worst first; fewer where fewer are wrong.

    >>> outputs = Outputs(np.array(["a", "b"]), np.array([0, 0]), np.array([[[1.0, 4.0], [2.0, 0.0]]]), ("dog", "cat"))
    >>> worst_items(Result({}, {"name": "gtzan_genre"}, {}, {}, "", 0.0, [], {}, {}, []), outputs)
    [WorstItem(id='a', reference='dog', estimate='cat', measures=('3.0', '1 of 1'))]
    """
    rankings = {"multilabel": _tagged, "regression": _rated, "beats": _valued, "separation": _valued}
    ranked = rankings.get(TASKS[result.task["name"]].kind, _classified)(outputs, result)
    return [item for _, item in sorted(ranked, key=lambda pair: (pair[0], pair[1].id))[:n_worst]]


def _classified(outputs: Outputs, result: Result) -> Iterator[tuple[float, WorstItem]]:
    """Keys by their score, classes by the margin; only items that some seed gets wrong."""
    task = TASKS[result.task["name"]]
    is_key = task.kind == "key"
    truth_n = outputs.targets.astype(int)
    rows = np.arange(len(truth_n))
    wrong_n = (outputs.outputs.argmax(axis=2) != truth_n).sum(axis=0)
    rivals_nC = outputs.outputs.mean(axis=0, dtype=np.float64)
    right_n = rivals_nC[rows, truth_n]
    rivals_nC[rows, truth_n] = -np.inf
    margin_n = rivals_nC.max(axis=1) - right_n
    score_n = np.zeros(len(rows))
    if is_key:
        score_n = np.mean([key_scores(truth_n, of_nC, outputs.columns) for of_nC in outputs.outputs], axis=0)
    for i in np.flatnonzero((wrong_n > 0) & (margin_n > 0)).tolist():
        margin = f"{margin_n[i]:.1f}"
        bad = (f"{score_n[i]:.2f}", margin) if is_key else (margin, f"{wrong_n[i]} of {len(outputs.outputs)}")
        reference, estimate = (task.class_name(outputs.columns[c]) for c in (truth_n[i], rivals_nC[i].argmax()))
        yield float(score_n[i] * 1e6 - margin_n[i]), WorstItem(str(outputs.ids[i]), reference, estimate, bad)


def _tagged(outputs: Outputs, result: Result) -> Iterator[tuple[float, WorstItem]]:
    """By the mean rank of the tags of an item; the estimate is as many tags, those with the highest scores."""
    for i, scores_C in enumerate(outputs.outputs.mean(axis=0, dtype=np.float64)):
        tags = np.flatnonzero(outputs.targets[i] > 0)
        order = np.argsort(-scores_C, kind="stable")
        ranks_C = np.argsort(order, kind="stable") + 1
        first = order[: max(1, len(tags))]
        if not len(tags) or not (wrong := [tag for tag in first if tag not in tags]):
            continue
        reference, estimate = (", ".join(outputs.columns[tag] for tag in some) for some in (tags, first))
        bad = (str(ranks_C[wrong].min()), str(ranks_C[tags].max()))
        excess = ranks_C[tags].mean() - (len(tags) + 1) / 2
        yield -float(excess), WorstItem(str(outputs.ids[i]), reference, estimate, bad)


def _rated(outputs: Outputs, result: Result) -> Iterator[tuple[float, WorstItem]]:
    mean_nC = outputs.outputs.mean(axis=0, dtype=np.float64)
    scale_C = outputs.targets.std(axis=0) + 1e-12
    distance_n = np.sqrt((((mean_nC - outputs.targets) / scale_C) ** 2).sum(axis=1))
    for i, far in enumerate(distance_n):
        reference, estimate = _values(outputs, outputs.targets[i]), _values(outputs, mean_nC[i])
        yield -float(far), WorstItem(str(outputs.ids[i]), reference, estimate, (f"{far:.2f}",))


def _valued(outputs: Outputs, result: Result) -> Iterator[tuple[float, WorstItem]]:
    """Beats and stems by their score, because their outputs are values of a metric."""
    parts = score_parts(tuple(result.metrics), result.protocol)
    columns = [outputs.columns.index(part) for part in parts]
    value_n = outputs.outputs[:, :, columns].mean(axis=(0, 2), dtype=np.float64)
    scale = METRICS[parts[0]].scale
    mean_nC = outputs.outputs.mean(axis=0, dtype=np.float64) * scale
    for i in np.flatnonzero(np.isfinite(value_n)).tolist():
        estimate, score = _values(outputs, mean_nC[i], 1), f"{value_n[i] * scale:.1f}"
        yield float(value_n[i]), WorstItem(str(outputs.ids[i]), "", estimate, (score,))


def _values(outputs: Outputs, values_C: np.ndarray, digits: int = 2) -> str:
    titles = (METRICS[name].title if name in METRICS else name for name in outputs.columns)
    return ", ".join(f"{title} {value:.{digits}f}" for title, value in zip(titles, values_C, strict=True))
