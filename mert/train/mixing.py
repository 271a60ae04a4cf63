"""In-batch noise mixing of the model's input.

Shapes: B clips of a group, N samples.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MAX_PIECES = 3  # to mix into a clip


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
