"""A teacher of clips as a whole that needs no weights.

Shapes: B clips, N samples, F frequencies.
"""

from __future__ import annotations

import torch

from teachers.base import Targets, Teacher


class Brightness(Teacher):
    """Two numbers of a clip as a whole, about standardised: the power of two bands over that of the lowest, in bels."""

    name = "brightness"
    n_clip_values = 2

    def targets(self, wave_BN: torch.Tensor) -> Targets:
        power_BF = torch.fft.rfft(wave_BN.float()).abs().square()
        low_B, middle_B, high_B = (band.mean(1) for band in power_BF[:, :6000].split(2000, 1))
        clips_B2 = torch.stack([middle_B / low_B, high_B / low_B], 1).log10() + 2
        return Targets(None, None, self.rate_hz, self.fingerprint, clips_B2)
