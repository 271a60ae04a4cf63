"""Features made by hand, against which learned ones are measured: log-mel statistics, MFCC, CQT chroma.

Shapes: N samples, T frames, F bins. All at 24 kHz and 75 frames a second, one layer, pooled to mean and deviation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

from mert.errors import MertError
from probes.encoders import Encoder, EncoderFacts

RATE_HZ, HOP, N_FFT = 24_000, 320, 1024
SHORTEST = 16_384  # samples: the lowest CQT kernel must fit twice over; shorter windows are padded with silence
LOG_FLOOR = 1e-5


def baseline(
    name: str, dim: int, transform: Callable[[], Any], post: Callable[[torch.Tensor], torch.Tensor]
) -> Encoder:
    """An encoder from a spectral transform [1, N] -> [1, F, T]."""
    module = transform()

    def frames(wave_N: np.ndarray) -> np.ndarray:
        wave = torch.from_numpy(np.ascontiguousarray(wave_N, np.float32))
        n_frames = max(1, round(len(wave) / HOP))
        if len(wave) < SHORTEST:
            wave = torch.nn.functional.pad(wave, (0, SHORTEST - len(wave)))
        with torch.inference_mode():
            values_FT = post(module(wave[None])[0])
        return values_FT.T[None, :n_frames].numpy()

    identity = hashlib.sha256(f"{name} {RATE_HZ} {HOP} {N_FFT} {LOG_FLOOR} 1".encode()).hexdigest()
    return Encoder(EncoderFacts(name, identity, RATE_HZ, RATE_HZ / HOP, (name,), dim, "meanstd"), frames)


def log_mel() -> Encoder:
    """128 mel bands, logarithmic."""
    return baseline("log-mel", 128, lambda: spectral().MelSpectrogram(n_mels=128, **stft()), logarithm)


def mfcc() -> Encoder:
    """20 mel-frequency cepstral coefficients with their first and second differences."""
    return baseline("mfcc", 60, lambda: spectral().MFCC(n_mfcc=20, n_mels=128, **stft()), with_deltas)


def cqt_chroma() -> Encoder:
    """12 pitch classes folded from seven octaves of a constant-Q transform, as shares of each frame."""
    return baseline("cqt-chroma", 12, lambda: spectral().CQT1992v2(
        sr=RATE_HZ, hop_length=HOP, fmin=32.703, n_bins=84, bins_per_octave=12, verbose=False
    ), chroma)  # fmt: skip


def logarithm(values_FT: torch.Tensor) -> torch.Tensor:
    return torch.log(values_FT + LOG_FLOOR)


def with_deltas(values_FT: torch.Tensor) -> torch.Tensor:
    """Coefficients, and their slopes over five frames, twice."""
    first = slope(values_FT)
    return torch.cat([values_FT, first, slope(first)])


def slope(values_FT: torch.Tensor) -> torch.Tensor:
    """Least-squares slope over five frames.

    >>> slope(torch.arange(6.0)[None]).round(decimals=3)[0, 2:4]
    tensor([1., 1.])
    """
    padded = torch.nn.functional.pad(values_FT[None], (2, 2), mode="replicate")[0]
    n = values_FT.shape[1]
    return sum(k * padded[:, 2 + k : 2 + k + n] for k in (-2, -1, 1, 2)) / 10  # type: ignore[return-value]


def chroma(values_FT: torch.Tensor) -> torch.Tensor:
    """Octaves summed, each frame divided by its sum."""
    folded_FT = values_FT.reshape(7, 12, -1).sum(0)
    return folded_FT / (folded_FT.sum(0, keepdim=True) + LOG_FLOOR)


def stft() -> dict[str, Any]:
    return {"sr": RATE_HZ, "n_fft": N_FFT, "hop_length": HOP, "verbose": False}


@cache
def spectral() -> Any:
    """nnAudio's transforms; MertError where the extra is missing."""
    try:
        import nnAudio.features
    except ImportError:
        raise MertError("nnAudio", "is not installed", 'pip install -e ".[probe]"') from None
    return nnAudio.features


BASELINES: dict[str, Callable[[], Encoder]] = {"log-mel": log_mel, "mfcc": mfcc, "cqt-chroma": cqt_chroma}
