"""Which frames the student must guess: spans drawn as the published recipe draws them (fairseq's sampler).

Shapes: B clips of a group, T frames.
"""

from __future__ import annotations

import numpy as np

PROBABILITY = 0.8  # spans a frame, times the span length; some 54 % of the frames end up masked
LENGTH = 5  # frames a span
AT_LEAST = 2  # spans a clip


def span_mask(
    random: np.random.Generator,
    n_clips: int,
    n_frames: int,
    probability: float = PROBABILITY,
    length: int = LENGTH,
) -> np.ndarray:
    """Boolean [B, T], true where masked, with equally many masked frames in each clip of the group.

    K = floor(p T / m + u) spans of m frames start at distinct places below T - m (so the last frame is never
    masked) and may overlap; then every clip is reduced to the smallest count of the group by giving up single frames.
    Source: MERT paper, section 3.3, and the recipe's `compute_mask_indices`. ValueError where nothing would be left.

    >>> mask = span_mask(np.random.default_rng(0), 4, 374)
    >>> sorted(set(mask.sum(axis=1).tolist())) == [int(mask[0].sum())], mask[:, -1].any()
    (True, np.False_)
    """
    rows = [_spans(random, n_frames, probability, length) for _ in range(n_clips)]
    count = min(len(row) for row in rows)
    if count == n_frames:
        raise ValueError(f"all {n_frames} frames would be masked: use longer clips, or a lower probability")
    mask_BT = np.zeros((n_clips, n_frames), dtype=bool)
    for masked_T, row in zip(mask_BT, rows, strict=True):
        masked_T[random.choice(row, count, replace=False)] = True
    return mask_BT


def _spans(random: np.random.Generator, n_frames: int, probability: float, length: int) -> np.ndarray:
    """Masked frame numbers of one clip, each once."""
    n_spans = max(AT_LEAST, int(probability * n_frames / length + random.random()))
    latest = n_frames - length
    if latest <= n_spans:
        latest = n_spans + 1
    starts = random.choice(latest, n_spans, replace=False)
    frames = np.unique(starts[:, None] + np.arange(length))
    return frames[frames < n_frames]
