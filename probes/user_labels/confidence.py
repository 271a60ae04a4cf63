"""How confident a head must be to count as sure, chosen on validation.

Shapes: K recordings, C tags.
"""

import numpy as np

TRUSTED = 0.75  # of the answers that count as sure, this share is right on validation
LIKELY = 0.5  # of the `NEAR` least confident of these answers, and of the tags that are given, at least this share
NEAR = 20
NEVER = 2.0  # no probability reaches it


def least_confidence(confidence_K: np.ndarray, right_K: np.ndarray) -> float:
    """The least confidence from which on answers are right in `TRUSTED` of the cases; `NEVER` if there is none.

    The least confident of them are right in `LIKELY` of the cases, too: poor answers are not carried by many good ones.
    `right_K` is 1 for a right answer and 0 for a wrong one, or the score of an answer in between.

    >>> least_confidence(np.array([0.9, 0.8, 0.6, 0.5, 0.4]), np.array([1, 1, 0, 1, 0]))
    0.5
    """
    order = np.argsort(-confidence_K, kind="stable")
    right_K, number_K = np.cumsum(right_K[order]), np.arange(1, len(order) + 1)
    before_K = np.concatenate([np.zeros(NEAR), right_K])[: len(right_K)]
    likely_K = np.logical_and.accumulate((number_K < NEAR) | (right_K - before_K >= LIKELY * NEAR))
    # Of equal confidences all count, or none.
    ends_K = np.append(np.diff(confidence_K[order]) != 0, True)
    trusted = np.flatnonzero((right_K / number_K >= TRUSTED) & likely_K & ends_K)
    return float(confidence_K[order][trusted[-1]]) if len(trusted) else NEVER


def least_of_tags(targets_KC: np.ndarray, probability_KC: np.ndarray) -> list[float]:
    """For each tag the least probability with the best F-measure among those from which on `LIKELY` are right.

    `NEVER` where there is none, as for a tag without an example.

    >>> least_of_tags(np.array([[1, 0], [0, 0], [1, 0]]), np.array([[0.4, 0.9], [0.1, 0.2], [0.3, 0.1]]))
    [0.3, 2.0]
    """
    return [_best_f(*columns) for columns in zip(targets_KC.T, probability_KC.T, strict=True)]


def _best_f(target_K: np.ndarray, probability_K: np.ndarray) -> float:
    order = np.argsort(-probability_K, kind="stable")
    found_K = np.cumsum(target_K[order])
    number_K = np.arange(1, len(order) + 1)
    f_K = 2 * found_K / (number_K + target_K.sum())
    ends_K = np.append(np.diff(probability_K[order]) != 0, True)
    allowed_K = ends_K & (found_K >= LIKELY * number_K)
    return float(probability_K[order][np.argmax(np.where(allowed_K, f_K, -1))]) if allowed_K.any() else NEVER
