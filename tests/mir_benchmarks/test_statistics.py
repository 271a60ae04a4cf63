"""Intervals hold the truth as often as they say; rankings are scikit-learn's; comparisons are fair."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from bench import intervals
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel
from sklearn.metrics import r2_score, roc_auc_score

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


def unbiased_ap(positive: np.ndarray, scores: np.ndarray) -> float:
    """By its definition: for each positive, over the other items that score as high."""
    shares = []
    for i in np.flatnonzero(positive):
        others = (np.arange(len(scores)) != i) & (scores >= scores[i])
        shares.append(positive[others].mean() if others.any() else 1.0)
    return float(np.mean(shares))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 100_000), st.integers(2, 40), st.sampled_from([1, 2, 5, 10_000]), st.sampled_from([2, 9, 999]))
def test_rankings_of_kept_items_equal_their_definitions(seed: int, n: int, levels: int, n_groups: int) -> None:
    random = np.random.default_rng(seed)
    positive = random.random(n) < random.choice([0.1, 0.5, 0.9])
    positive[:2] = True, False
    scores, groups = random.integers(0, levels, n) / levels, random.integers(0, n_groups, n)
    kept = stats.keeping(groups)
    assert kept.shape[1] == 1 + len(set(groups)) and kept[:, 0].all()
    assert {tuple(column) for column in kept[:, 1:].T} == {tuple(groups != group) for group in set(groups)}
    auc, ap = stats.rank_tag(positive, scores, kept)
    for r, rows in enumerate(kept.T > 0):
        if not 0 < positive[rows].sum() < rows.sum():
            assert np.isnan([auc[r], ap[r]]).all()
            continue
        assert auc[r] == pytest.approx(roc_auc_score(positive[rows], scores[rows]), abs=1e-12)
        assert ap[r] == pytest.approx(unbiased_ap(positive[rows], scores[rows]), abs=1e-12)


def test_many_groups_are_left_out_in_blocks_of_whole_groups() -> None:
    groups = np.repeat(np.arange(250), 3)
    left_out = 1 - stats.keeping(groups)[:, 1:]
    assert left_out.shape == (750, stats.BLOCKS) and (left_out.sum(axis=1) == 1).all()
    assert set(left_out.sum(axis=0)) == {6, 9} and (left_out.reshape(250, 3, -1).std(axis=1) == 0).all()


def test_every_metric_without_a_block_is_that_of_the_items_that_are_left() -> None:
    random = np.random.default_rng(3)
    n, columns = 40, ("arousal", "valence")
    cases = [
        (("accuracy",), random.integers(0, 2, n), columns),
        (("weighted_score",), random.integers(0, 2, n), ("C major", "G major")),
        (("roc_auc",), random.integers(0, 2, (n, 2)), columns),
        (("r2_arousal", "r2_valence", "r2"), random.standard_normal((n, 2)) + 100, columns),
        (("f_dbn", "f_peak"), np.zeros(0), ("f_peak", "f_dbn")),
    ]
    for names, targets, labels in cases:
        outputs = outputs_of(targets, random.random((n, 2)), random.random((n, 2)) * 2, columns=labels)
        outputs.groups = np.arange(n) // 4
        got = stats.jackknifed(outputs, names)
        for r, rows in enumerate(stats.keeping(outputs.groups).T > 0):
            for name in names:
                left = targets[rows] if len(targets) else targets
                wanted = [stats.METRICS[name](left, one[rows], labels) for one in outputs.outputs]
                assert got[name][r] == pytest.approx(np.mean(wanted)), name


def test_r2_far_from_zero_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    truth = 1e6 + random.standard_normal((50, 1))
    guess = truth + 0.3 * random.standard_normal((50, 1))
    got = stats.jackknifed(outputs_of(truth, guess, columns=("arousal",)), ("r2_arousal",))["r2_arousal"]
    wanted = [100 * r2_score(truth[rows], guess[rows]) for rows in stats.keeping(np.arange(50)).T > 0]
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


@pytest.mark.check
@pytest.mark.parametrize(
    ("title", "repeats", "also_level"),
    [
        ("accuracy 70 %, small", 500, True), ("accuracy 98 %, small", 500, False),
        ("accuracy 80 %, NSynth, notes of 60 instruments", 150, True), ("key score 69 %, small", 400, True),
        ("beat F 75 %, small", 400, True), ("R² 51, heavy tails, emoMusic", 400, False),
        ("SDR 5 dB, skewed, small", 500, True), ("20 tags of 3 to 25 %, small", 120, False),
        ("20 tags of 5 to 30 %, small, four tracks an artist", 80, False),
    ],
)  # fmt: skip
def test_intervals_hold_the_truth_as_often_as_they_say(title: str, repeats: int, also_level: bool) -> None:
    """93 to 97 %, and what chance adds: four standard errors. Two models are drawn in each repeat."""
    case = next(case for case in intervals.CASES if case.title == title)
    found = intervals.measure(case, repeats, seed=7)
    chance = 4 * (0.05 * 0.95 / (2 * repeats)) ** 0.5
    for name, held in found.held.items():
        assert 0.93 - chance <= held <= 0.97 + chance, (name, found)
    assert (0.03 - chance if also_level else 0) <= found.significant <= 0.07 + 1.5 * chance, found


def test_an_interval_of_ap_that_counted_positives_themselves_would_miss() -> None:
    """The oracle can fail: with scikit-learn's AP in place of the unbiased one, the truth is nearly always below."""
    case = next(case for case in intervals.CASES if case.title == "20 tags of 3 to 25 %, small")
    random, too_high, off = np.random.default_rng(0), [], []
    for _ in range(12):
        models, truth = case.draw(random)
        outputs = next(iter(models.outputs()))
        metrics, _ = stats.summarise(outputs, TAGS)
        too_high.append(metrics["ap"]["mean"] - truth["ap"])
        off.append(stats.jackknifed(outputs, TAGS)["ap"][0] - truth["ap"])
    assert np.mean(too_high) > 3 and abs(np.mean(off)) < 2.5


def test_a_perfect_score_is_not_a_certain_one() -> None:
    truth = np.zeros(100, dtype=int)
    right = np.eye(2)[truth]
    low, high = stats.summarise(outputs_of(truth, right), ("accuracy",))[1]["ci95"]
    assert (low, high) == (pytest.approx(96.3, abs=0.05), 100.0)  # Wilson's interval of 100 of 100
    wrong = stats.summarise(outputs_of(truth, right[:, ::-1]), ("accuracy",))[1]["ci95"]
    assert wrong == [0.0, pytest.approx(3.7, abs=0.05)]
    nearly = right.copy()
    nearly[0] = 0, 1
    wanted = [94.55, 99.82]  # statsmodels.stats.proportion.proportion_confint(99, 100, method="wilson")
    assert stats.summarise(outputs_of(truth, nearly), ("accuracy",))[1]["ci95"] == pytest.approx(wanted, abs=0.01)
    tags = np.repeat([[1], [0]], 20, axis=0)
    metrics, score = stats.summarise(outputs_of(tags, 2.0 * tags), TAGS)
    for summary in (*metrics.values(), score):
        assert summary["mean"] == summary["ci95"][1] == 100 and 85 < summary["ci95"][0] < 95
    songs = outputs_of(np.zeros(0), np.full((12, 1), 5.0), columns=("f_dbn",))
    songs.outputs[:] = 1.0
    assert stats.summarise(songs, ("f_dbn",))[1]["ci95"][0] < 80


def test_two_perfect_models_may_yet_differ() -> None:
    truth = np.zeros(100, dtype=int)
    a, b = (outputs_of(truth, scale * np.eye(2)[truth]) for scale in (1.0, 2.0))
    found = compare(result_of(a), a, result_of(b), b)
    assert found.difference == 0 and found.p == 1 and found.ci95 == pytest.approx((-2.75, 2.75), abs=0.01)
    opposite = outputs_of(truth, 1 - np.eye(2)[truth])
    found = compare(result_of(a), a, result_of(opposite), opposite)
    assert found.difference == 100 and found.ci95[0] > 95 and found.ci95[1] == 100 and found.p < 1e-9


def test_items_of_a_group_count_as_one() -> None:
    truth, values = classified(np.random.default_rng(0), 60)
    alone = outputs_of(np.repeat(truth, 5), np.repeat(values, 5, axis=0))
    together = replace(alone, groups=np.repeat(np.arange(60), 5))
    once = outputs_of(truth, values)
    widths = [np.ptp(stats.summarise(each, ("accuracy",))[1]["ci95"]) for each in (alone, together, once)]
    assert widths[1] == pytest.approx(widths[2], rel=0.05) and widths[0] < 0.55 * widths[1]
    assert stats.summarise(together, ("accuracy",))[1]["groups"] == 60
    windows = replace(alone, ids=np.array([f"song {i // 5} #{i % 5}" for i in range(300)]))
    assert stats.summarise(windows, ("accuracy",))[1]["groups"] == 60  # not on record: those of the ids


def test_notes_on_groups() -> None:
    outputs = outputs_of(*classified(np.random.default_rng(0), 20))
    (unknown,) = stats.group_notes(outputs)
    assert "not on record" in unknown
    assert stats.group_notes(replace(outputs, groups=outputs.ids)) == []
    (few,) = stats.group_notes(replace(outputs, groups=np.arange(20) // 5))
    assert few.startswith("20 test items of 4 independent groups") and "rough" in few
    more = outputs_of(*classified(np.random.default_rng(0), 60))
    (many,) = stats.group_notes(replace(more, groups=np.arange(60) // 2))
    assert many.startswith("60 test items of 30 independent groups") and "rough" not in many
    one = replace(outputs, groups=np.zeros(20))
    (single,) = stats.group_notes(one)
    assert "too narrow" in single and stats.summarise(one, ("accuracy",))[1]["groups"] == 20


def test_a_result_with_groups_is_compared_with_one_without() -> None:
    truth, values = classified(np.random.default_rng(0), 60)
    other = classified(np.random.default_rng(1), 60)[1]
    old, new = outputs_of(truth, values), replace(outputs_of(truth, other), groups=np.arange(60) // 6)
    first, second = result_of(old), result_of(new)
    found = compare(first, old, second, new)
    wanted = compare(first, replace(old, groups=new.groups), second, new)
    assert (found.ci95, found.p) == (wanted.ci95, wanted.p)
    mirrored = compare(second, new, first, old)
    assert mirrored.p == pytest.approx(found.p) and mirrored.ci95 == pytest.approx([-x for x in found.ci95[::-1]])


def test_a_score_that_hangs_on_one_group_has_no_interval() -> None:
    tags = np.zeros((20, 1))
    tags[3] = 1
    random = np.random.default_rng(0)
    metrics, _ = stats.summarise(outputs_of(tags, random.random((20, 1))), TAGS)
    assert metrics["ap"]["ci95"] == [0.0, 100.0]
    song = outputs_of(np.zeros(0), np.full((1, 1), 4.0), columns=("sdr_vocals",))
    assert stats.summarise(song, ("sdr_vocals",))[1]["ci95"] is None


def test_seeds_are_averaged_and_items_drawn_together() -> None:
    truth = np.zeros(100, dtype=int)
    right, half = np.eye(2)[truth], np.eye(2)[np.arange(100) % 2]
    metrics, score = stats.summarise(outputs_of(truth, right, half), ("accuracy",))
    assert metrics["accuracy"] == score and score["seeds"] == [100.0, 50.0] and score["mean"] == 75.0
    assert score["n"] == 100
    low, high = score["ci95"]
    assert 75 - 2.2 * 2.5 < low < 75 - 1.7 * 2.5 and 75 + 1.7 * 2.5 < high < 75 + 2.2 * 2.5  # s.e. 2.5: half of 5
    assert stats.summarise(outputs_of(truth, right, half), ("accuracy",))[1] == score
    opposite = outputs_of(truth, half, 1 - half)  # what one seed loses the other wins, item by item
    assert stats.summarise(opposite, ("accuracy",))[1]["ci95"] == pytest.approx([40.4, 59.6], abs=0.1)


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


def test_p_values_are_those_of_a_paired_t_test() -> None:
    random = np.random.default_rng(2)
    songs = random.normal(5, 2, (30, 1)), random.normal(6, 2, (30, 1))
    a, b = (outputs_of(np.zeros(0), each, columns=("sdr_vocals",)) for each in songs)
    found = compare(result_of(a, ("sdr_vocals",)), a, result_of(b, ("sdr_vocals",)), b)
    wanted = ttest_rel(*songs)
    assert found.p == pytest.approx(float(wanted.pvalue[0]), rel=0.1)
    assert found.ci95 == pytest.approx(np.ravel(wanted.confidence_interval()), rel=0.05)


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
