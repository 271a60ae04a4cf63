"""Window and mel filters of the log-mel, as arrays of float32: for those published weights that hold neither.

Shapes: K window, F bins, M mels. This page imports no torch.
"""

import math

import numpy as np


def hann_window(n_fft: int) -> np.ndarray:
    """The periodic Hann window, float32 [K].

    >>> hann_window(4).tolist()
    [0.0, 0.5, 1.0, 0.5]
    """
    angle_K = np.float32(2 * np.pi / n_fft) * np.arange(n_fft, dtype=np.float32)
    return np.float32(0.5) - np.float32(0.5) * np.cos(angle_K.astype(np.float64)).astype(np.float32)


def mel_filters(n_mels: int, n_fft: int, rate_hz: int) -> np.ndarray:
    """Triangles on HTK's mel scale up to half the rate, height 1, float32 [F, M], in the steps of torchaudio.

    Each step is rounded to float32 as there: filters of float64 would differ by 1.3e-5.

    >>> mel_filters(128, 2048, 24_000).shape, int((mel_filters(128, 2048, 24_000).max(0) == 0).sum())
    ((1025, 128), 0)
    """
    hz_F = _evenly(rate_hz // 2, n_fft // 2 + 1)
    top = 2595.0 * math.log10(1.0 + rate_hz / 2 / 700.0)
    octaves = _evenly(top, n_mels + 2) / np.float32(2595.0)
    edges_hz = np.float32(700.0) * ((10.0 ** octaves.astype(np.float64)).astype(np.float32) - np.float32(1.0))
    widths = edges_hz[1:] - edges_hz[:-1]
    slopes_FE = edges_hz[None] - hz_F[:, None]
    falling_FM, rising_FM = -slopes_FE[:, :-2] / widths[:-1], slopes_FE[:, 2:] / widths[1:]
    return np.minimum(falling_FM, rising_FM).clip(min=0)


def _evenly(stop: float, n: int) -> np.ndarray:
    """`n` points from 0 to `stop`, float32, rounded once each as by torch.linspace: from the nearer of the two ends."""
    last, i = float(np.float32(stop)), np.arange(n)
    step = float(np.float32(last) / np.float32(n - 1))
    return np.where(i < n // 2, step * i, last - step * (n - 1 - i)).astype(np.float32)
