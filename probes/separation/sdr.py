"""Scores of separated sources: global SDR, museval on request, and the known floor and ceiling.

Shapes: J targets in the order of STEMS, C channels, N samples, F bins, T frames.
"""

from importlib import import_module
from typing import Any

import numpy as np
import torch

from mert.errors import UsageError
from probes.separation.stft import Stft


def global_sdr(reference_CN: np.ndarray, estimate_CN: np.ndarray) -> float:
    """dB: 10 log10 of the energy of the reference over that of the error, of all channels and the whole song.

    The uSDR of the Music Demixing Challenge 2021; 1e-7 is added to both energies.

    >>> round(global_sdr(np.ones((2, 100)), np.full((2, 100), 0.9)), 3)
    20.0
    """
    reference, estimate = (np.asarray(wave, dtype=np.float64) for wave in (reference_CN, estimate_CN))
    if reference.shape != estimate.shape:
        raise ValueError(f"reference {reference.shape} and estimate {estimate.shape} differ in shape")
    signal, error = np.square(reference).sum(), np.square(reference - estimate).sum()
    return float(10 * np.log10((signal + 1e-7) / (error + 1e-7)))


def global_sdrs(references_JCN: np.ndarray, estimates_JCN: np.ndarray) -> np.ndarray:
    """[J] of a song."""
    return np.array([global_sdr(*pair) for pair in zip(references_JCN, estimates_JCN, strict=True)])


def museval_sdrs(references_JCN: np.ndarray, estimates_JCN: np.ndarray, rate_hz: int = 24_000) -> np.ndarray:
    """[J] of a song by BSS Eval v4: the median over frames of one second; NaN where it or its estimate is silent.

    The published number of a target is the median of these over songs. It depends on which other targets are given:
    silent ones, which museval refuses, are left out of the song.
    """
    museval = imported_museval()
    heard_J = np.array([bool(t.any() and e.any()) for t, e in zip(references_JCN, estimates_JCN, strict=True)])
    sdr_J = np.full(len(heard_J), np.nan)
    if not heard_J.any():
        return sdr_J
    references_JCN, estimates_JCN = references_JCN[heard_J], estimates_JCN[heard_J]
    references, estimates = (np.asarray(w, np.float64).transpose(0, 2, 1) for w in (references_JCN, estimates_JCN))
    sdr_JK = museval.evaluate(references, estimates, win=rate_hz, hop=rate_hz)[0]
    sdr_J[heard_J] = [np.nanmedian(sdr_K) if np.isfinite(sdr_K).any() else np.nan for sdr_K in np.asarray(sdr_JK)]
    return sdr_J


def imported_museval() -> Any:
    """The museval package; UsageError where it, or the ffmpeg it looks for, is missing."""
    try:
        return import_module("museval")
    except (ImportError, RuntimeError) as error:
        remedy = "pip install museval, with ffmpeg and ffprobe on PATH; or use sdr=global"
        raise UsageError("sdr=museval", f"museval cannot be imported ({error})", remedy) from None


def mixture_as_estimate(mixture_CN: np.ndarray, n_targets: int = 4) -> np.ndarray:
    """[J, C, N]: the floor, nothing separated."""
    return np.repeat(mixture_CN[None], n_targets, axis=0)


def ideal_masks(targets_JCN: np.ndarray, stft: Stft | None = None) -> torch.Tensor:
    """[J, C, F, T]: the ceiling, the share of each target in the sum of all magnitudes.

    >>> masks = ideal_masks(np.random.default_rng(0).standard_normal((4, 2, 2000)))
    >>> masks.sum(0).allclose(torch.ones(2, 1025, 6, dtype=torch.float64))
    True
    """
    magnitudes_JCFT = (stft or Stft())(torch.as_tensor(targets_JCN)).abs()
    return magnitudes_JCFT / magnitudes_JCFT.sum(0).clamp_min(1e-12)
