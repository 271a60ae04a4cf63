"""Spectrograms on the clock of the features: frame t is centred where feature frame t is, and there are as many.

Shapes: N samples, F bins, T frames; ... stands for channels and the like.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mert.embedding.windows import Clock
from mert.models.config import base_95m

CLOCK = Clock.of(base_95m())  # 75 frames per second


@dataclass(frozen=True)
class Stft:
    """Short-time spectra with a Hann window of `size` samples around the centre of each frame of `clock`.

    The inverse of T frames is exact for all samples these frames see: windows reach beyond both ends of a recording,
    where there are zeros.

    >>> stft, wave = Stft(), torch.randn(2, 24_000)
    >>> spectrum = stft(wave)
    >>> spectrum.shape, bool((stft.inverse(spectrum, 24_000) - wave).abs().max() < 1e-5)
    (torch.Size([2, 1025, 74]), True)
    """

    clock: Clock = CLOCK
    size: int = 2048

    @property
    def bins(self) -> int:
        """F, from 0 Hz to half the sample rate."""
        return self.size // 2 + 1

    @property
    def reach(self) -> int:
        """Samples by which the first window begins before the recording."""
        return self.size // 2 - self.clock.field // 2

    def times(self, n_samples: int) -> np.ndarray:
        """Seconds of the frames of a recording."""
        return self.clock.times(0, self.clock.n_frames(n_samples))

    def window(self, like: Tensor) -> Tensor:
        return torch.hann_window(self.size, dtype=like.dtype, device=like.device)

    def __call__(self, wave: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """[..., N] -> complex [..., F, T]: all frames, or those from `first` to `last` - 1."""
        n_frames = self.clock.n_frames(wave.shape[-1])
        end = self.size + self.clock.stride * (n_frames - 1) - self.reach
        padded = F.pad(wave, (self.reach, end - wave.shape[-1]))
        frames = padded.unfold(-1, self.size, self.clock.stride)[..., first:last, :]
        return torch.fft.rfft(frames * self.window(wave)).transpose(-1, -2)

    def inverse(self, spectrum: Tensor, n_samples: int) -> Tensor:
        """[..., F, T] -> [..., N], the least-squares signal (Griffin and Lim, 1984)."""
        overlap = Overlap(self, spectrum.shape[:-2], n_samples, spectrum.device)
        overlap.add(spectrum, 0)
        return overlap.wave()


class Overlap:
    """A wave [..., N] added up from blocks of its frames, so that a long spectrum is never in memory as a whole."""

    def __init__(self, stft: Stft, shape: tuple[int, ...], n_samples: int, device: torch.device) -> None:
        self.stft, self.n_samples = stft, n_samples
        n_frames = stft.clock.n_frames(n_samples)
        # A recording may extend by up to a stride beyond the last feature frame, but never beyond its window.
        self._sum = torch.zeros(*shape, stft.size + stft.clock.stride * (n_frames - 1), device=device)
        self._weight = torch.zeros(self._sum.shape[-1], device=device)

    def add(self, spectrum: Tensor, first: int) -> None:
        """Frames [..., F, T] that begin with number `first`."""
        window, stride = self.stft.window(spectrum.real), self.stft.clock.stride
        frames = torch.fft.irfft(spectrum.transpose(-1, -2), n=self.stft.size) * window
        n_frames, size = frames.shape[-2:]
        length = size + stride * (n_frames - 1)
        for to, of in ((self._sum, frames), (self._weight, window.square().expand(n_frames, -1))):
            columns = of.reshape(-1, n_frames, size).transpose(1, 2)
            summed = F.fold(columns, (1, length), (1, size), stride=(1, stride))
            to[..., first * stride : first * stride + length] += summed.reshape(*of.shape[:-2], length)

    def wave(self) -> Tensor:
        """[..., N]."""
        seen = slice(self.stft.reach, self.stft.reach + self.n_samples)
        return self._sum[..., seen] / self._weight[seen]


def at_times(frames: np.ndarray, times_T: np.ndarray, wanted_T: np.ndarray) -> np.ndarray:
    """Feature frames [..., T, D] at other times: the nearest of each, for encoders with another clock.

    >>> at_times(np.array([[1.0], [2.0]]), np.array([0.1, 0.3]), np.array([0.0, 0.1, 0.25])).ravel()
    array([1., 1., 2.])
    """
    if len(times_T) == len(wanted_T) and np.allclose(times_T, wanted_T, rtol=0, atol=1e-6):
        return frames
    nearest = np.searchsorted((times_T[1:] + times_T[:-1]) / 2, wanted_T)
    return frames[..., nearest, :]
