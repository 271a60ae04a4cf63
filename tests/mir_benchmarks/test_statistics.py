"""Intervals hold the truth as often as they say; weights give what scikit-learn gives; comparisons are fair."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, r2_score, roc_auc_score

from mir_benchmarks import statistics as stats
from mir_benchmarks.datasets.dataset import TaskError
from probes.results import Outputs, Result

TAGS = ("roc_auc", "ap")


def outputs_of(targets: np.ndarray, *seeds: np.ndarray, columns: tuple[str, ...] | None = None) -> Outputs:
    ids = np.array([f"clip{i:05}" for i in range(len(seeds[0]))])
    return Outputs(ids, targets, np.stack(seeds), columns or tuple(f"c{i}" for i in range(seeds[0].shape[1])))


def result_of(outputs: Outputs, names: tuple[str, ...] = ("accuracy",), **changes: object) -> Result:
    metrics, score = stats.summarise(outputs, names)
    task = {"name": "gtzan_genre", "version": "1", "data": "real", "checksum": "ab"}
    fields: dict = dict(
        model={"name": "m"}, task=task, protocol={}, head={}, layer="layer01", lr=1e-3, seeds=[], metrics=metrics,
        score=score, grid=[],
    )  # fmt: skip
    return Result(**(fields | changes))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000), st.integers(2, 60), st.sampled_from([1, 2, 5, 10_000]))
def test_weighted_rankings_equal_scikit_learns(seed: int, n: int, levels: int) -> None:
    random = np.random.default_rng(seed)
    positive = random.random(n) < random.choice([0.1, 0.5, 0.9])
    positive[:2] = True, False
    scores = random.integers(0, levels, n) / levels
    weights = stats.draw(n, 5, seed)
    auc, ap = stats.rank_tag(positive, scores, weights)
    for r in range(5):
        mass = [weights[positive, r].sum(), weights[~positive, r].sum()]
        if min(mass) == 0:
            assert np.isnan([auc[r], ap[r]]).all()
            continue
        assert auc[r] == pytest.approx(roc_auc_score(positive, scores, sample_weight=weights[:, r]), abs=1e-12)
        assert ap[r] == pytest.approx(average_precision_score(positive, scores, sample_weight=weights[:, r]), abs=1e-12)


def test_every_metric_of_a_resample_is_that_of_the_repeated_items() -> None:
    random = np.random.default_rng(3)
    n, columns = 40, ("arousal", "valence")
    cases = [
        (("accuracy",), random.integers(0, 2, n), columns),
        (("weighted_score",), random.integers(0, 2, n), ("C major", "G major")),
        (TAGS, random.integers(0, 2, (n, 2)), columns),
        (("r2_arousal", "r2_valence", "r2"), random.standard_normal((n, 2)) + 100, columns),
        (("f_dbn", "f_peak"), np.zeros(0), ("f_peak", "f_dbn")),
    ]
    weights = stats.draw(n, 4)
    for names, targets, labels in cases:
        outputs = outputs_of(targets, random.random((n, 2)), random.random((n, 2)) * 2, columns=labels)
        got = stats.resampled(outputs, names, weights)
        for r in range(4):
            rows = np.repeat(np.arange(n), weights[:, r].astype(int))
            for name in names:
                repeated = targets[rows] if len(targets) else targets
                wanted = [stats.METRICS[name](repeated, one[rows], labels) for one in outputs.outputs]
                assert got[name][r] == pytest.approx(np.mean(wanted)), name


def test_r2_under_weights_is_scikit_learns_far_from_zero() -> None:
    random = np.random.default_rng(0)
    truth, weights = 1e6 + random.standard_normal((50, 1)), stats.draw(50, 3)
    guess = truth + 0.3 * random.standard_normal((50, 1))
    outputs = outputs_of(truth, guess, columns=("arousal",))
    got = stats.resampled(outputs, ("r2_arousal",), weights)["r2_arousal"]
    wanted = [100 * r2_score(truth, guess, sample_weight=weights[:, r]) for r in range(3)]
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def compare(first: Result, a: Outputs, second: Result, b: Outputs) -> stats.Comparison:
    return stats.compare(stats.Sample.of(first, a), stats.Sample.of(second, b))


def classified(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    truth = random.integers(0, 2, n)
    return truth, np.eye(2)[np.where(random.random(n) < 0.7, truth, 1 - truth)]


def tagged(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    tags = (random.random((n, 4)) < 0.1).astype(int)
    return tags, random.standard_normal((n, 4)) + 1.2 * tags


def rated(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    truth = random.standard_normal((n, 4))
    return truth, truth + 0.7 * random.standard_normal((n, 4))


@pytest.mark.parametrize(
    ("name", "simulate", "least"),
    [("accuracy", classified, 0.92), ("roc_auc", tagged, 0.90), ("ap", tagged, 0.87), ("r2", rated, 0.90)],
)
def test_intervals_hold_the_truth_about_as_often_as_they_say(name: str, simulate: Callable, least: float) -> None:
    random = np.random.default_rng(1)
    truth, values = simulate(random, 200_000)
    wanted = stats.METRICS[name](truth, values, ("a", "b", "c", "d")[: values.shape[1]])
    held = []
    for repeat in range(250):
        truth, values = simulate(random, 200)
        outputs = outputs_of(truth, values)
        draws = stats.resampled(outputs, (name,), stats.draw(200, 200, repeat))[name]
        low, high = stats._summary(stats._seeds(outputs, name), draws, 200, (name,))["ci95"]
        held.append(low <= wanted <= high)
    assert least <= np.mean(held) <= 0.985


def test_seeds_are_averaged_and_items_drawn_together() -> None:
    truth = np.zeros(100, dtype=int)
    right, half = np.eye(2)[truth], np.eye(2)[np.arange(100) % 2]
    metrics, score = stats.summarise(outputs_of(truth, right, half), ("accuracy",))
    assert metrics["accuracy"] == score and score["seeds"] == [100.0, 50.0] and score["mean"] == 75.0
    assert score["n"] == 100
    low, high = score["ci95"]
    assert 75 - 2.2 * 2.5 < low < 75 - 1.7 * 2.5 and 75 + 1.7 * 2.5 < high < 75 + 2.2 * 2.5  # s.e. 2.5: half of 5
    assert stats.summarise(outputs_of(truth, right, half), ("accuracy",))[1] == score
    assert (stats.draw(9, 5) != stats.draw(9, 5, seed=1)).any()
    opposite = outputs_of(truth, half, 1 - half)  # what one seed loses the other wins, item by item
    assert stats.summarise(opposite, ("accuracy",))[1]["ci95"] == [50.0, 50.0]


def test_score_follows_the_rule_of_its_task() -> None:
    random = np.random.default_rng(0)
    beats = outputs_of(np.zeros(0), random.random((20, 2)), columns=("f_dbn", "f_peak"))
    metrics, score = stats.summarise(beats, ("f_dbn", "f_peak"), {"beat_post": "peak"})
    assert score == metrics["f_peak"] != metrics["f_dbn"]
    tags = outputs_of(*tagged(random, 80))
    metrics, score = stats.summarise(tags, TAGS)
    assert score["mean"] == pytest.approx((metrics["roc_auc"]["mean"] + metrics["ap"]["mean"]) / 2)


def test_tags_left_out_are_named() -> None:
    tags = np.array([[1, 0, 0], [0, 0, 1], [0, 0, 1]])
    outputs = outputs_of(tags, np.zeros((3, 3)), columns=("rock", "zydeco", "jazz"))
    (note,) = stats.left_out(outputs, TAGS)
    assert note.startswith("1 of 3 tags") and note.endswith(": zydeco")
    assert stats.left_out(outputs, ("accuracy",)) == [] and stats.left_out(outputs_of(tags[:, [0]], tags), TAGS) == []


def test_a_paired_comparison_sees_what_intervals_hide() -> None:
    random = np.random.default_rng(0)
    truth, values = classified(random, 300)
    better = values.copy()
    better[np.flatnonzero(values.argmax(1) != truth)[:12]] = values[values.argmax(1) != truth][:12, ::-1]
    a, b = outputs_of(truth, better), outputs_of(truth, values)
    first, second = result_of(a), result_of(b)
    assert first.score["ci95"][0] < second.score["ci95"][1]  # they overlap
    found = compare(first, a, second, b)
    assert found.difference == pytest.approx(4.0) and found.ci95[0] > 1 and found.p < 0.01 and found.n == 300
    mirrored = compare(second, b, first, a)
    assert mirrored.difference == -found.difference and mirrored.ci95 == pytest.approx([-x for x in found.ci95[::-1]])
    same = compare(first, a, first, a)
    assert (same.difference, same.ci95, same.p) == (0.0, (0.0, 0.0), 1.0)


def test_p_values_are_those_of_a_z_test_and_can_be_small() -> None:
    random = np.random.default_rng(2)
    for shift in (0.0, 0.5, 1.0, 1.5, 5.0):
        z = 1.5 * shift
        found = stats._p_value(z + random.standard_normal(4000))
        assert found == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.25, abs=0.015)
    assert 0 < stats._p_value(7.5 + random.standard_normal(1000)) < 1e-10
    assert (stats._p_value(np.zeros(9)), stats._p_value(np.ones(9))) == (1.0, 0.0)


@pytest.mark.check
def test_differences_of_equal_models_are_seldom_significant() -> None:
    random = np.random.default_rng(5)
    p_values = []
    for _ in range(150):
        truth = random.integers(0, 2, 150)
        sides = [outputs_of(truth, np.eye(2)[np.where(random.random(150) < 0.7, truth, 1 - truth)]) for _ in range(2)]
        a, b = (stats.Sample.of(result_of(side), side) for side in sides)
        p_values.append(stats.compare(a, b).p)
    assert 0.01 <= np.mean(np.array(p_values) < 0.05) <= 0.11 and 0.35 < np.mean(p_values) < 0.65


def test_items_may_come_in_another_order() -> None:
    random = np.random.default_rng(0)
    truth, values = classified(random, 50)
    a = outputs_of(truth, values)
    order = random.permutation(50)
    b = Outputs(a.ids[order], truth[order], a.outputs[:, order], a.columns)
    found = compare(result_of(a), a, result_of(b), b)
    assert found.difference == 0.0 and found.ci95 == (0.0, 0.0)


def test_results_of_other_labels_are_not_compared() -> None:
    a = outputs_of(*classified(np.random.default_rng(0), 20))
    result = result_of(a)
    with pytest.raises(TaskError, match="other labels"):
        compare(result, a, result, replace(a, targets=1 - a.targets))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"protocol": {"beat_tol": "0.02"}}, "protocol"),
        ({"limit": "9 items"}, "limit"),
        ({"task": {"name": "gtzan_genre", "version": "2"}}, "version"),
        ({"task": {"name": "gtzan_genre", "version": "1", "data": "real", "labels": "cd"}}, "labels"),
    ],
)
def test_results_of_another_protocol_are_not_compared(change: dict, said: str) -> None:
    a = outputs_of(*classified(np.random.default_rng(0), 20))
    first = result_of(a)
    with pytest.raises(TaskError, match=f"differ in {said}"):
        compare(first, a, replace(first, **change), a)


def test_results_of_other_items_are_not_compared() -> None:
    a = outputs_of(*classified(np.random.default_rng(0), 20))
    result = result_of(a)
    others = (
        Outputs(a.ids[:-1], a.targets[:-1], a.outputs[:, :-1], a.columns),
        replace(a, ids=np.char.add(a.ids, "x")),
        replace(a, ids=np.repeat(a.ids[:1], 20)),
    )
    for other in others:
        with pytest.raises(TaskError, match="not of the same test items"):
            compare(result, a, result, other)
        with pytest.raises(TaskError, match="not of the same test items"):
            compare(result, other, result, a)


@pytest.mark.check
def test_the_largest_task_takes_less_than_a_minute() -> None:
    random = np.random.default_rng(0)
    tags = (random.random((11_479, 87)) < 0.03).astype(np.uint8)
    outputs = outputs_of(tags, (random.standard_normal(tags.shape) + tags).astype(np.float32))
    begun = time.process_time()
    stats.summarise(outputs, TAGS)
    assert time.process_time() - begun < 60
