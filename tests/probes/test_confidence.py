"""From which confidence on a head is sure: good answers do not carry poor ones, rare tags are not given at random."""

from __future__ import annotations

import numpy as np

from probes.user_labels.confidence import NEVER, least_confidence, least_of_tags


def test_answers_of_a_calibrated_head_count_as_sure_where_they_are_likely_right() -> None:
    """Answers are right as often as they are confident: three quarters of all would be, but those near 0 are not."""
    random = np.random.default_rng(0)
    confidence_K = np.concatenate([random.uniform(0.9, 1.0, 3000), random.uniform(0.0, 0.9, 1000)])
    right_K = (random.uniform(size=4000) < confidence_K).astype(float)
    least = least_confidence(confidence_K, right_K)
    assert 0.4 < least < 0.75
    assert right_K[confidence_K >= least].mean() >= 0.75 and right_K.mean() > 0.75


def test_one_wrong_answer_at_the_top_does_not_silence_a_head() -> None:
    confidence_K = np.linspace(1.0, 0.5, 100)
    assert least_confidence(confidence_K, (np.arange(100) > 0).astype(float)) == 0.5


def test_a_head_that_is_mostly_wrong_is_never_sure() -> None:
    assert least_confidence(np.linspace(1.0, 0.5, 100), np.zeros(100)) == NEVER


def test_a_tag_is_given_from_where_half_of_it_is_right_or_never() -> None:
    """A rare tag that the head cannot tell has its best F-measure where every recording gets it."""
    random = np.random.default_rng(0)
    rare_K = (random.uniform(size=400) < 0.05).astype(float)
    known_K = np.clip(rare_K * 0.6 + random.uniform(0, 0.5, 400), 0, 1)
    targets_KC, probability_KC = np.stack([rare_K, rare_K], 1), np.stack([0.01 * (1 - rare_K), known_K], 1)
    never, known = least_of_tags(targets_KC, probability_KC)
    assert never == NEVER
    assert rare_K[known_K >= known].mean() >= 0.5 and 0.4 < known < 0.7
