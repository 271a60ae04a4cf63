"""Input waves: normalisation as in the published preprocessor, and a test wave.

Shapes: N samples.
"""

import numpy as np
import torch


def golden_wave(sample_rate: int) -> torch.Tensor:
    """Test input: one second of a decaying harmonic tone with a little noise, [sample_rate] float32.

    >>> golden_wave(16_000).shape
    torch.Size([16000])
    """
    time_N = torch.arange(sample_rate, dtype=torch.float64) / sample_rate
    partials = [torch.sin(2 * torch.pi * 220 * k * time_N) * torch.exp(-3 * k * time_N) / k for k in range(1, 9)]
    noise_N = torch.randn(sample_rate, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return (0.2 * torch.stack(partials).sum(0) + 0.01 * noise_N).float()


def normalized(wave_N: np.ndarray) -> np.ndarray:
    """Zero mean and unit (population) variance, as in the published preprocessor.

    >>> normalized(np.array([1.0, 3.0], np.float32)).round(3)
    array([-1.,  1.], dtype=float32)
    """
    mean, var = wave_N.mean(dtype=np.float64), wave_N.var(dtype=np.float64)
    return ((wave_N - mean) / np.sqrt(var + 1e-7)).astype(np.float32)
