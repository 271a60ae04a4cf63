"""Intervals of scores by the jackknife over independent groups of test items, and paired comparisons of two results.

Items of one group (artist, song, singer, instrument; else the recording) are not independent, so whole groups are
left out, one at a time, and the spread of the scores without each of them gives the standard error. Nothing is drawn.

Shapes: n items, R blocks that are left out in turn, S seeds, C outputs of a head, G groups of equal scores.
`kept_nR` holds 1 where an item is kept and 0 where it is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mir_benchmarks.conditions import FEW, differences
from mir_benchmarks.datasets.dataset import TaskError
from probes.metrics import METRICS, scorable, score_parts
from probes.results import Outputs, Result

BLOCKS = 100  # more groups than these are left out several at a time
LEVEL = 0.95


def groups_of(outputs: Outputs) -> np.ndarray:
    """[n]: the group of each item; where none are known, or all items are of one, the recording.

    >>> ids = np.array(["a #0", "a #1", "b #0"])
    >>> groups_of(Outputs(ids, np.zeros(3), np.zeros((1, 3, 2)), ("x", "y"))).tolist()
    ['a', 'a', 'b']
    """
    if outputs.groups is not None and len(np.unique(outputs.groups)) > 1:
        return outputs.groups
    return np.array([recording_of(str(name)) for name in outputs.ids])


def recording_of(item_id: str) -> str:
    """The recording of an item: itself, or that of a window `<recording> #<number>`."""
    return re.sub(r" #\d+$", "", item_id)


def keeping(groups_n: np.ndarray) -> np.ndarray:
    """[n, 1 + R] float32: all items are kept, then all but those of one group, or of one of `BLOCKS` blocks of groups.

    >>> keeping(np.array(["a", "a", "b"]))
    array([[1., 0., 1.],
           [1., 0., 1.],
           [1., 1., 0.]], dtype=float32)
    """
    distinct, owner_n = np.unique(groups_n, return_inverse=True)
    block = np.arange(len(distinct))
    if len(distinct) > BLOCKS:
        block = np.random.default_rng(0).permutation(block) % BLOCKS
    left_out_nR = block[owner_n][:, None] == np.arange(block.max() + 1)
    return np.hstack((np.ones((len(owner_n), 1)), ~left_out_nR), dtype=np.float32)


@dataclass(frozen=True)
class Jackknife:
    """A score with all items and with each of R blocks left out [1 + R], of so many independent groups of items."""

    values: np.ndarray
    n_groups: int

    @property
    def whole(self) -> float:
        return float(self.values[0])

    @property
    def deviations(self) -> np.ndarray:
        """[R]: scores without each block, about their mean."""
        return np.asarray(self.values[1:] - self.values[1:].mean())

    @property
    def error(self) -> float:
        """The standard error."""
        return math.sqrt((1 - 1 / len(self.deviations)) * float((self.deviations**2).sum()))

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the standard error: R - 1 for normal deviations, fewer where some are far out."""
        squares = self.deviations**2
        most, total = len(squares) - 1, float(squares.sum())
        excess = len(squares) * float((squares**2).sum()) / total**2 - 1 if total else 0.0
        return float(min(most, 2 * most / excess)) if excess > 0 else float(most)

    @property
    def skewness(self) -> float:
        """Of the score: 0 for a symmetrical one."""
        total = float((self.deviations**2).sum())
        return -float((self.deviations**3).sum()) / total**1.5 if total else 0.0

    def interval(self, span: tuple[float, float], exact: bool = False) -> tuple[float, float] | None:
        """The 95 % interval of a score that can only lie in `span`.

        Between two bounds it is Wilson's, at the number of items that would have this error; below one, an interval
        of the logarithm of the distance to it; without bounds, a t interval corrected for skewness (Hall 1992).
        `exact`: items are right or wrong, and each is a block, so that the error is known. Where a single group
        carries a score, it is all of `span`, or None without bounds.
        """
        low, high = span
        if len(self.values) < 3 or np.isnan(self.values).any():
            return span if math.isfinite(low) else None
        quantile = t_quantile(math.inf if exact else self.freedom)
        if math.isfinite(low):
            share, width = (self.whole - low) / (high - low), high - low
            lowest, highest = wilson(share, self._n_effective(share, self.error / width), quantile)
            return low + width * lowest, low + width * highest
        if math.isfinite(high):
            logs = Jackknife(np.log(np.maximum(high - self.values, 1e-12)), self.n_groups)
            half = t_quantile(logs.freedom) * logs.error
            return high - math.exp(logs.whole + half), high - math.exp(logs.whole - half)
        quantile = t_quantile(len(self.deviations) - 1)
        below, above = (unskewed(q, self.skewness) * self.error for q in (quantile, -quantile))
        return self.whole - below, self.whole - above

    def _n_effective(self, share: float, error: float) -> float:
        """Items that are right or wrong and would have this error; n groups that are all alike count as n."""
        if not error or not 0 < share < 1:
            return self.n_groups
        n_blocks = len(self.deviations)
        return share * (1 - share) / error**2 * n_blocks / (n_blocks - 1)


def wilson(share: float, n: float, quantile: float) -> tuple[float, float]:
    """Wilson's interval (1927) of a share of n items.

    >>> wilson(1.0, 100, 1.96)[0]
    0.963005192523998
    """
    square = quantile**2 / n
    half = math.sqrt(square * share * (1 - share) + square**2 / 4)
    return (share + square / 2 - half) / (1 + square), (share + square / 2 + half) / (1 + square)


def unskewed(quantile: float, skewness: float) -> float:
    """The quantile of a mean's t that belongs to one of a symmetrical t: Hall's cubic transformation, inverted."""
    if abs(skewness) < 1e-6:
        return quantile
    return (math.cbrt(1 + skewness * quantile - skewness**2 / 6) - 1) * 3 / skewness


def t_quantile(freedom: float) -> float:
    """Where `LEVEL` of Student's t lies about 0; of the normal for infinitely many degrees of freedom."""
    from scipy.special import ndtri, stdtrit

    p = (1 + LEVEL) / 2
    return float(ndtri(p) if math.isinf(freedom) else stdtrit(freedom, p))


def jackknifed(outputs: Outputs, names: Sequence[str]) -> dict[str, np.ndarray]:
    """[1 + R]: the mean over seeds of each metric, in its unit, with all items and without each block.

    AP is that of infinitely many items, estimated without bias (`rank_tag`); NaN where a metric is undefined.
    """
    kept_nR = keeping(groups_of(outputs))
    seeds = [_metrics(outputs, outputs_nC, names, kept_nR) for outputs_nC in outputs.outputs]
    return {name: np.mean([of[name] for of in seeds], axis=0) for name in names}


def summarise(
    outputs: Outputs, names: Sequence[str], protocol: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`metrics` and `score` of a Result: each {"mean", "ci95", "seeds", "n", "groups"}.

    >>> right = np.array([[[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 0.0]]])
    >>> score = summarise(Outputs(np.arange(4), np.array([0, 1, 0, 1]), right, ("dog", "cat")), ("accuracy",))[1]
    >>> score["mean"], [round(bound) for bound in score["ci95"]], score["groups"]
    (75.0, [30, 95], 4)
    """
    seeds = {name: _seeds(outputs, name) for name in names}
    jackknives = jackknifed(outputs, names)
    parts = score_parts(tuple(names), protocol)
    score = np.mean([seeds[name] for name in parts], axis=0)
    metrics = {name: _summary(outputs, seeds[name], jackknives[name], (name,)) for name in names}
    return metrics, _summary(outputs, score, np.mean([jackknives[name] for name in parts], axis=0), parts)


def left_out(outputs: Outputs, names: Sequence[str]) -> list[str]:
    """A note on tags without a positive or a negative item, which ranking metrics omit; empty without such tags."""
    if not {"roc_auc", "ap"} & set(names):
        return []
    tags = [str(outputs.columns[i]) for i in np.flatnonzero(~scorable(outputs.targets))]
    total = outputs.targets.shape[1]
    missing = f"{len(tags)} of {total} tags have no positive or no negative test item and are left out of the means"
    return [f"{missing}: {', '.join(tags)}"] if tags else []


def group_notes(outputs: Outputs) -> list[str]:
    """Notes on test items that come in groups, where their intervals need a reader's care."""
    n_groups = len(np.unique(groups_of(outputs)))
    if outputs.groups is None:
        return ["groups of test items (artists, singers, instruments) are not on record: intervals over recordings"]
    if len(np.unique(outputs.groups)) == 1 < n_groups:
        return ["all test items are of one group (artist, singer, instrument): intervals over recordings, too narrow"]
    if n_groups == len(outputs.ids) and n_groups >= FEW:
        return []
    rough = f": fewer than {FEW}, so that intervals are rough" if n_groups < FEW else ""
    return [f"{len(outputs.ids)} test items of {n_groups} independent groups (artists, singers, instruments){rough}"]


@dataclass(frozen=True)
class Comparison:
    """Task score of `a` minus that of `b` on the same n items: the difference, its 95 % interval, and a p-value.

    `p` is two-sided, of a t test over groups of items; where all groups differ alike, of a sign test. The interval is
    None where a single group carries a score.
    """

    task: str
    a: str
    b: str
    difference: float
    ci95: tuple[float, float] | None
    p: float
    n: int


@dataclass(frozen=True)
class Sample:
    """The score of a result without each block of items, ready to be compared; items are in the order of their ids."""

    result: Result
    outputs: Outputs
    mean: float
    jackknife: Jackknife

    @classmethod
    def of(cls, result: Result, outputs: Outputs) -> Sample:
        """Compute a result's scores without each block, once for all comparisons."""
        order = np.argsort(outputs.ids, kind="stable")
        targets = outputs.targets[order] if len(outputs.targets) else outputs.targets
        groups = None if outputs.groups is None else outputs.groups[order]
        ordered = Outputs(outputs.ids[order], targets, outputs.outputs[:, order], outputs.columns, groups)
        parts = score_parts(tuple(result.metrics), result.protocol)
        values = np.mean(list(jackknifed(ordered, parts).values()), axis=0)
        mean = np.mean([_seeds(ordered, name) for name in parts])
        return cls(result, ordered, float(mean), Jackknife(values, _n_groups(ordered)))

    @property
    def span(self) -> tuple[float, float]:
        """Where the score can lie."""
        return METRICS[score_parts(tuple(self.result.metrics), self.result.protocol)[0]].span


def compare(a: Sample, b: Sample, names: tuple[str, str] | None = None) -> Comparison:
    """Paired t test of the difference of two scores; TaskError unless task, protocol and items are the same."""
    first, second = a.result, b.result
    task = first.task["name"]
    if differ := differences(first, second):
        raise TaskError(task, f"two results differ in {', '.join(differ)}", "run both in the same way")
    ids = a.outputs.ids.tolist()
    if ids != b.outputs.ids.tolist() or len(set(ids)) != len(ids):
        raise TaskError(task, "two results are not of the same test items", "run both on the same split")
    if not np.array_equal(a.outputs.targets, b.outputs.targets):
        raise TaskError(task, "two results have other labels for the same items", "run both on the same data")
    if a.jackknife.n_groups != b.jackknife.n_groups:  # those of an old result are not on record
        a, b = (_regrouped(one, other) for one, other in ((a, b), (b, a)))
    paired = Jackknife(a.jackknife.values - b.jackknife.values, a.jackknife.n_groups)
    labels = names or (str(first.model["name"]), str(second.model["name"]))
    return Comparison(task, *labels, a.mean - b.mean, _difference_interval(a, b, paired), _p_value(paired), len(ids))


def _regrouped(sample: Sample, other: Sample) -> Sample:
    """The sample with the groups of the other, where these are fewer."""
    if sample.jackknife.n_groups <= other.jackknife.n_groups:
        return sample
    return Sample.of(sample.result, replace(sample.outputs, groups=groups_of(other.outputs)))


def _difference_interval(a: Sample, b: Sample, paired: Jackknife) -> tuple[float, float] | None:
    """A t interval. Scores that agree on all items by different outputs are told apart by one more item for each."""
    low, high = a.span
    width, error = high - low, paired.error
    if len(paired.values) < 3 or np.isnan(paired.values).any():
        return (-width, width) if math.isfinite(width) else None
    if not error and math.isfinite(width) and not np.array_equal(a.outputs.outputs, b.outputs.outputs):
        error = width * math.sqrt(2) / (paired.n_groups + 2)  # Bonett and Price 2012
    half = t_quantile(paired.freedom) * error
    return max(-width, paired.whole - half), min(width, paired.whole + half)


def _p_value(paired: Jackknife) -> float:
    from scipy.special import stdtr

    if len(paired.values) < 3 or np.isnan(paired.values).any() or not paired.whole:
        return 1.0
    error = paired.error
    return 2 * float(stdtr(paired.freedom, -abs(paired.whole) / error)) if error else 2.0 ** (1 - paired.n_groups)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, running_max = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running_max = max(running_max, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = running_max
    return corrected


def _seeds(outputs: Outputs, name: str) -> np.ndarray:
    return np.array([METRICS[name](outputs.targets, of_nC, outputs.columns) for of_nC in outputs.outputs])


def _n_groups(outputs: Outputs) -> int:
    return len(np.unique(groups_of(outputs)))


def _summary(outputs: Outputs, seeds_S: np.ndarray, values: np.ndarray, parts: Sequence[str]) -> dict[str, Any]:
    jackknife = Jackknife(values, _n_groups(outputs))
    interval = interval_of(jackknife, len(outputs.ids), parts)
    return {
        "mean": float(seeds_S.mean()), "ci95": None if interval is None else list(map(float, interval)),
        "seeds": seeds_S.tolist(), "n": len(outputs.ids), "groups": jackknife.n_groups,
    }  # fmt: skip


def interval_of(jackknife: Jackknife, n_items: int, parts: Sequence[str]) -> tuple[float, float] | None:
    """The interval of a mean of metrics, over so many items."""
    exact = tuple(parts) == ("accuracy",) and len(jackknife.deviations) == n_items
    return jackknife.interval(METRICS[parts[0]].span, exact)


def _metrics(
    outputs: Outputs, outputs_nC: np.ndarray, names: Sequence[str], kept_nR: np.ndarray
) -> dict[str, np.ndarray]:
    """Each metric of one seed for each column of kept items, [R]."""
    values: dict[str, np.ndarray] = {}
    ranked = {"roc_auc", "ap"} & set(names)
    if ranked:
        macro = _macro(outputs.targets, outputs_nC, kept_nR)
        values |= dict(zip(("roc_auc", "ap"), macro, strict=True))
    for name in set(names) - ranked:
        metric = METRICS[name]
        if metric.of_items is not None:
            values[name] = _item_mean(metric.of_items(outputs.targets, outputs_nC, outputs.columns), kept_nR)
        else:
            kept = [i for i, column in enumerate(outputs.columns) if name in ("r2", f"r2_{column}")]
            values[name] = _r2(outputs.targets[:, kept], outputs_nC[:, kept], kept_nR)
    return {name: METRICS[name].scale * values[name] for name in names}


def _item_mean(values_n: np.ndarray, kept_nR: np.ndarray) -> np.ndarray:
    known_n = ~np.isnan(values_n)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known_n, values_n, 0.0) @ kept_nR / (known_n.astype(float) @ kept_nR))


def _r2(targets_nC: np.ndarray, outputs_nC: np.ndarray, kept_nR: np.ndarray) -> np.ndarray:
    """Mean over targets of 1 - SSE/SST."""
    truth_Cn = (targets_nC - targets_nC.mean(axis=0)).T.astype(np.float64)  # about the mean: nothing cancels below
    squares_CR = (targets_nC - outputs_nC.astype(np.float64)).T ** 2 @ kept_nR
    total_CR = truth_Cn**2 @ kept_nR - (truth_Cn @ kept_nR) ** 2 / kept_nR.sum(axis=0, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(total_CR > 1e-12, 1 - squares_CR / total_CR, np.nan).mean(axis=0))


def _macro(targets_nC: np.ndarray, scores_nC: np.ndarray, kept_nR: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Macro ROC-AUC and unbiased AP: in each column over the tags that have a positive and a negative there."""
    sums_2R, counts_R = np.zeros((2, kept_nR.shape[1])), np.zeros(kept_nR.shape[1])
    for tag in np.flatnonzero(scorable(targets_nC)):
        tag_2R = rank_tag(targets_nC[:, tag] > 0, scores_nC[:, tag], kept_nR)
        known_R = ~np.isnan(tag_2R[0])
        sums_2R += np.where(known_R, tag_2R, 0.0)
        counts_R += known_R
    with np.errstate(invalid="ignore"):
        auc_R, ap_R = sums_2R / counts_R
    return auc_R, ap_R


def rank_tag(positive_n: np.ndarray, scores_n: np.ndarray, kept_nR: np.ndarray) -> np.ndarray:
    """[2, R]: ROC-AUC and unbiased AP of one tag for each column of kept items; NaN without any on either side.

    AP is the mean over positives of the precision at their score. Counting the positive itself makes the precision of
    few items too high; here it is that of the other items, and 1 where none of them scores as high.

    Only groups of equal scores that hold a positive matter: items are counted up to the edges of these, by one sparse
    product, which is why a hundred columns are cheap.
    """
    order = np.argsort(-scores_n.astype(np.float64), kind="stable")
    starts = np.flatnonzero(np.diff(scores_n[order], prepend=np.nan) != 0)
    ends, sorted_n = np.append(starts[1:], len(order)), positive_n[order]
    n_hits_G = np.add.reduceat(sorted_n, starts, dtype=int)
    starts, ends, n_hits_G = starts[n_hits_G > 0], ends[n_hits_G > 0], n_hits_G[n_hits_G > 0]
    edges = np.union1d(starts, ends)
    passed = np.cumsum(_grouped(order, edges, kept_nR), axis=0)
    before_GR, until_GR = (passed[np.searchsorted(edges, at)] for at in (starts, ends))
    hits_GR = _grouped(order[sorted_n], np.cumsum(n_hits_G), kept_nR)
    hits_until_GR = np.cumsum(hits_GR, axis=0)
    n_positive_R = hits_until_GR[-1]
    n_negative_R = kept_nR.sum(axis=0, dtype=np.float64) - n_positive_R
    negatives_before_GR, negatives_until_GR = before_GR - (hits_until_GR - hits_GR), until_GR - hits_until_GR
    below_GR = n_negative_R - (negatives_before_GR + negatives_until_GR) / 2  # of equals, half are below
    with np.errstate(invalid="ignore", divide="ignore"):
        auc_R = (hits_GR * below_GR).sum(axis=0) / (n_positive_R * n_negative_R)
        precision_GR = np.where(until_GR > 1, (hits_until_GR - 1) / (until_GR - 1), 1.0)
        ap_R = (hits_GR * precision_GR).sum(axis=0) / np.where(n_negative_R > 0, n_positive_R, np.nan)
    return np.stack((auc_R, ap_R))


def _grouped(order: np.ndarray, ends: np.ndarray, kept_nR: np.ndarray) -> np.ndarray:
    """Kept items in `order`, counted between one of `ends` and the next."""
    from scipy.sparse import csr_matrix

    pointers, taken = np.concatenate(([0], ends)), order[: ends[-1]]
    ones = np.ones(len(taken), dtype=kept_nR.dtype)
    return np.asarray(csr_matrix((ones, taken, pointers), shape=(len(ends), len(kept_nR))) @ kept_nR, dtype=float)
