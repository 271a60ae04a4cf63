"""Metrics equal their libraries, say so where a number would mean nothing, and follow the task-score rule."""

from __future__ import annotations

import mir_eval
import numpy as np
import pytest
from harness.bench_runs import task_score, weighted_key_score
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, r2_score, roc_auc_score

from mert.errors import MertError
from mir_benchmarks.tasks.registry import TASKS
from probes import metrics

TONICS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
KEYS = tuple(f"{tonic} {mode}" for mode in ("major", "minor") for tonic in TONICS)


def one_hot(classes: list[int], n_classes: int) -> np.ndarray:
    return np.eye(n_classes)[classes]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.sampled_from([1, 3, 50]))
def test_metrics_equal_their_libraries_with_ties_and_missing_classes(seed: int, n: int, levels: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, levels + 1, (n, 4)).astype(np.float32)  # few levels: many ties
    classes = random.integers(0, 3, n)  # class 3 is never true, but may be estimated
    assert metrics.correct(classes, scores).mean() == accuracy_score(classes, scores.argmax(axis=1))
    tags = (random.random((n, 4)) < 0.4).astype(np.int64)
    kept = [c for c in range(4) if 0 < tags[:, c].sum() < n]
    if kept:
        wanted = np.mean([roc_auc_score(tags[:, c], scores[:, c]) for c in kept])
        assert metrics.roc_auc(tags, scores) == pytest.approx(wanted, abs=1e-12)
        wanted = np.mean([average_precision_score(tags[:, c], scores[:, c]) for c in kept])
        assert metrics.average_precision(tags, scores) == pytest.approx(wanted, abs=1e-12)
    values = random.standard_normal((n, 2))
    wanted = [r2_score(values[:, c], scores[:, c]) for c in range(2)]
    np.testing.assert_allclose(metrics.r2(values, scores[:, :2]), wanted)


def test_key_score_is_mir_evals_for_all_576_pairs() -> None:
    pairs = [(reference, estimate) for reference in range(24) for estimate in range(24)]
    wanted = [mir_eval.key.weighted_score(KEYS[r], KEYS[e]) for r, e in pairs]
    targets, logits = np.array([r for r, _ in pairs]), one_hot([e for _, e in pairs], 24)
    assert metrics.key_scores(targets, logits, KEYS).tolist() == wanted
    assert weighted_key_score(targets, logits, KEYS) == pytest.approx(np.mean(wanted))


@pytest.mark.parametrize(
    ("reference", "estimate", "score"),
    [("C major", "C major", 1.0), ("C major", "G major", 0.5), ("C major", "F major", 0.0), ("C major", "A minor", 0.3),
     ("A minor", "C major", 0.3), ("C major", "C minor", 0.2), ("A minor", "E minor", 0.5), ("A minor", "D minor", 0.0),
     ("B minor", "Gb minor", 0.5), ("C major", "Db major", 0.0)],
)  # fmt: skip
def test_relations_of_keys(reference: str, estimate: str, score: float) -> None:
    logits = one_hot([KEYS.index(estimate)], 24)
    assert weighted_key_score(np.array([KEYS.index(reference)]), logits, KEYS) == score


def test_tags_that_cannot_be_ranked_are_left_out_and_named() -> None:
    tags = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1], [0, 0, 1]])
    scores = np.array([[0.9, 0.5, 0.1], [0.1, 0.5, 0.2], [0.2, 0.5, 0.3], [0.3, 0.5, 0.4]])
    assert metrics.scorable(tags).tolist() == [True, False, False]
    assert metrics.roc_auc(tags, scores) == 0.75
    assert metrics.average_precision(tags, scores) == pytest.approx(1 / 2 + 2 / 3 / 2)
    for metric in (metrics.roc_auc, metrics.average_precision):
        with pytest.raises(MertError, match="no tag has both"):
            metric(tags[:, 1:], scores[:, 1:])


def test_r2_is_one_for_the_truth_zero_for_the_mean_and_refused_for_a_constant() -> None:
    truth = np.array([[1.0, 5.0], [2.0, 3.0], [6.0, 1.0]])
    assert metrics.r2(truth, truth).tolist() == [1.0, 1.0]
    assert metrics.r2(truth, np.tile(truth.mean(axis=0), (3, 1))) == pytest.approx([0.0, 0.0])
    with pytest.raises(MertError, match="target 1 is the same in all 3 items"):
        metrics.r2(np.array([[1.0, 2.0], [2.0, 2.0], [3.0, 2.0]]), truth)


@pytest.mark.parametrize("name", ["accuracy", "weighted_score", "roc_auc", "ap", "r2"])
def test_outputs_that_are_not_finite_are_refused(name: str) -> None:
    outputs = np.full((4, 2), np.nan)
    targets = np.array([0, 1, 0, 1]) if name in ("accuracy", "weighted_score") else np.array([[0, 1.0], [1, 0]] * 2)
    with pytest.raises(MertError, match="not finite"):
        metrics.METRICS[name](targets, outputs, ("C major", "D minor"))


def test_the_two_targets_of_emo_are_not_confused() -> None:
    truth = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    outputs = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])  # arousal is right, valence its mean
    columns = ("arousal", "valence")
    assert metrics.METRICS["r2_arousal"](truth, outputs, columns) == 100.0
    assert metrics.METRICS["r2_valence"](truth, outputs, columns) == 0.0
    assert metrics.METRICS["r2"](truth, outputs, columns) == 50.0


def test_values_of_items_are_averaged_by_column_and_unit() -> None:
    columns = ("f_peak", "f_dbn", "sdr_bass")
    values = np.array([[0.2, 1.0, -3.0], [0.4, 0.5, np.nan], [0.6, 0.0, 5.0]])
    assert metrics.METRICS["f_dbn"](np.zeros(0), values, columns) == 50.0
    assert metrics.METRICS["f_peak"](np.zeros(0), values, columns) == pytest.approx(40.0)
    assert metrics.METRICS["sdr_bass"](np.zeros(0), values, columns) == 1.0  # dB, the silent stem has no value
    with pytest.raises(MertError, match="no item has a value"):
        metrics.METRICS["f_dbn"](np.zeros(0), np.full((2, 3), np.nan), columns)


def test_every_metric_of_every_task_is_known_and_scores_by_the_rule() -> None:
    assert {name for task in TASKS.values() for name in task.metrics} <= set(metrics.METRICS)
    points = {"weighted_score": 60.0, "accuracy": 50.0}
    assert task_score(points) == 60.0
    assert task_score({"accuracy": 70.0}) == 70.0
    assert task_score({"r2_valence": 50.0, "r2_arousal": 70.0}) == 60.0
    assert task_score({"f_dbn": 88.0, "f_peak": 80.0}, {"beat_post": "dbn"}) == 88.0
    assert task_score({"f_dbn": 88.0, "f_peak": 80.0}, {"beat_post": "peak"}) == 80.0
    sdrs = dict(zip(TASKS["musdb18"].metrics, (5.5, 5.5, 3.8, 3.1), strict=True))
    assert task_score(sdrs) == pytest.approx(4.475)
