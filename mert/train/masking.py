"""Span masks, as in fairseq's `compute_mask_indices`.

Shapes: B clips of a group, T frames.
"""

import numpy as np

MIN_SPANS = 2  # per clip


def span_mask(
    random: np.random.Generator, n_clips: int, n_frames: int, probability: float = 0.8, length: int = 5
) -> np.ndarray:
    """Boolean [B, T], true where masked, with equally many masked frames in each clip of the group.

    K = floor(p T / m + u) spans of m frames start at distinct places below T - m (so the last frame is never
    masked) and may overlap, so that p = 0.8 masks about 54 % of the frames; then single frames are unmasked until all
    clips have the smallest count of the group.
    Source: MERT paper, section 3.3, and the recipe's `compute_mask_indices`. ValueError if all frames would be masked.

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
    n_spans = max(MIN_SPANS, int(probability * n_frames / length + random.random()))
    latest = n_frames - length
    if latest <= n_spans:
        latest = n_spans + 1
    starts = random.choice(latest, n_spans, replace=False)
    frames = np.unique(starts[:, None] + np.arange(length))
    return frames[frames < n_frames]
