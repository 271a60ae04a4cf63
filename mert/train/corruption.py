"""Span masks, as in fairseq's `compute_mask_indices`, and in-batch noise mixing.

Shapes: B clips of a group, N samples, T frames.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MIN_SPANS = 2  # per clip
MAX_PIECES = 3  # to mix into a clip


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


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """In-batch noise mixing of the model's input (MERT paper, section 3.3).

    A clip is mixed with probability `apply_prob` (the reference's `mixture_prob` is its complement) by 1 to 3
    pieces of `shortest` to `longest` samples, cut from the other clips of the group laid end to end, times `gain`.
    """

    apply_prob: float = 0.5
    shortest: int = 12_000
    longest: int = 24_000
    gain: float = 1.0

    def __call__(self, wave_BN: Tensor, random: np.random.Generator) -> Tensor:
        """A mixed copy; the clips unchanged if a group has one clip only, or pieces do not fit."""
        n_clips, n_samples = wave_BN.shape
        pool = (n_clips - 1) * n_samples
        if n_clips < 2 or self.apply_prob <= 0 or self.longest > min(pool, n_samples):
            return wave_BN
        mixed_BN = wave_BN.clone()
        for row in range(n_clips):
            if random.random() < self.apply_prob:
                others_N = torch.cat([wave_BN[:row].flatten(), wave_BN[row + 1 :].flatten()])
                self._mix(mixed_BN[row], others_N, random)
        return mixed_BN

    def _mix(self, clip_N: Tensor, pool_N: Tensor, random: np.random.Generator) -> None:
        for _ in range(random.integers(1, MAX_PIECES, endpoint=True)):
            start = random.integers(0, len(pool_N) - self.longest, endpoint=True)
            length = random.integers(self.shortest, self.longest, endpoint=True)
            at = random.integers(0, len(clip_N) - length, endpoint=True)
            clip_N[at : at + length] += self.gain * pool_N[start : start + length]
