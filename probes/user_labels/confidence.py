"""How confident a head must be to count as sure, chosen on validation.

Shapes: K recordings, C tags.
"""

import numpy as np

TRUSTED = 0.75  # of the answers that count as sure, this share is right on validation
NEVER = 2.0  # no probability reaches it


def least_confidence(confidence_K: np.ndarray, right_K: np.ndarray) -> float:
    """The least confidence from which on answers are right in `TRUSTED` of the cases; `NEVER` if there is none.

    `right_K` is 1 for a right answer and 0 for a wrong one, or the score of an answer in between.

    >>> least_confidence(np.array([0.9, 0.8, 0.6, 0.5, 0.4]), np.array([1, 1, 0, 1, 0]))
    0.5
    """
    order = np.argsort(-confidence_K, kind="stable")
    share_K = np.cumsum(right_K[order]) / np.arange(1, len(order) + 1)
    # Of equal confidences all count, or none.
    ends_K = np.append(np.diff(confidence_K[order]) != 0, True)
    trusted = np.flatnonzero((share_K >= TRUSTED) & ends_K)
    return float(confidence_K[order][trusted[-1]]) if len(trusted) else NEVER


def least_of_tags(targets_KC: np.ndarray, probability_KC: np.ndarray) -> list[float]:
    """For each tag the least probability with the best F-measure; `NEVER` for a tag without an example.

    >>> least_of_tags(np.array([[1, 0], [0, 0], [1, 0]]), np.array([[0.4, 0.9], [0.1, 0.2], [0.3, 0.1]]))
    [0.3, 2.0]
    """
    return [_best_f(*columns) for columns in zip(targets_KC.T, probability_KC.T, strict=True)]


def _best_f(target_K: np.ndarray, probability_K: np.ndarray) -> float:
    order = np.argsort(-probability_K, kind="stable")
    found_K = np.cumsum(target_K[order])
    f_K = 2 * found_K / (np.arange(1, len(order) + 1) + target_K.sum())
    ends_K = np.append(np.diff(probability_K[order]) != 0, True)
    best = int(np.argmax(np.where(ends_K, f_K, -1)))
    return float(probability_K[order][best]) if target_K.any() else NEVER
