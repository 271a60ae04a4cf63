"""Hand-made features, which every model is compared with: log-mel, MFCC, chroma.

Shapes: N samples, T frames, F bins.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mert.errors import need
from probes.encoders.encoder import Encoder, EncoderFacts

RATE_HZ, HOP, N_FFT = 24_000, 320, 1024
STFT: dict[str, Any] = {"sr": RATE_HZ, "n_fft": N_FFT, "hop_length": HOP, "verbose": False}
SHORTEST = 16_384  # samples: the lowest CQT kernel must fit twice over; shorter windows are padded with silence
LOG_FLOOR = 1e-5


class Baseline(Encoder):
    """An encoder of this package: its identity is its settings, whatever the version of Python."""

    def identify(self) -> EncoderFacts:
        return self.facts


def baseline(name: str, dim: int, transform: Any, post: Callable[[torch.Tensor], torch.Tensor]) -> Encoder:
    """An encoder from a spectral transform [1, N] -> [1, F, T]."""

    def frames(wave_N: np.ndarray) -> np.ndarray:
        wave = torch.from_numpy(np.ascontiguousarray(wave_N, np.float32))
        n_frames = max(1, round(len(wave) / HOP))
        wave = torch.nn.functional.pad(wave, (0, max(0, SHORTEST - len(wave))))
        with torch.inference_mode():
            values_FT = post(transform(wave[None])[0])
        return values_FT.T[None, :n_frames].numpy()

    identity = hashlib.sha256(f"{name} {RATE_HZ} {HOP} {N_FFT} {LOG_FLOOR} 1".encode()).hexdigest()
    return Baseline(EncoderFacts(name, identity, RATE_HZ, RATE_HZ / HOP, (name,), dim, "meanstd"), frames)


def log_mel() -> Encoder:
    """128 mel bands, logarithmic."""
    mel = spectral().MelSpectrogram(n_mels=128, **STFT)
    return baseline("log-mel", 128, mel, lambda values_FT: torch.log(values_FT + LOG_FLOOR))


def mfcc() -> Encoder:
    """20 mel-frequency cepstral coefficients with their first and second differences."""
    return baseline("mfcc", 60, spectral().MFCC(n_mfcc=20, n_mels=128, **STFT), with_deltas)


def cqt_chroma() -> Encoder:
    """12 pitch classes folded from seven octaves of a constant-Q transform, as shares of each frame."""
    settings = {"sr": RATE_HZ, "hop_length": HOP, "fmin": 32.703, "n_bins": 84, "bins_per_octave": 12}
    return baseline("cqt-chroma", 12, spectral().CQT1992v2(**settings, verbose=False), chroma)


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


def spectral() -> Any:
    """nnAudio's transforms; MertError where the extra is not installed."""
    return need("nnAudio.features", "probe", "hand-made features")


BASELINES: dict[str, Callable[[], Encoder]] = {"log-mel": log_mel, "mfcc": mfcc, "cqt-chroma": cqt_chroma}
