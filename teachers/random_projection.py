"""Random projections of log-mel frames onto random codebooks (as BEST-RQ, arXiv 2202.01855, and MusicFM): no fitting.

Shapes: B clips, N samples, T frames, F mel bands, D code dimensions, C classes, K codebooks.
"""

from collections.abc import Iterable
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from teachers.clustering import DEFAULT, Fitting, sample_rows, standard
from teachers.spectral import MelCodeTeacher, Spectral

LEVEL, KEPT = -8.0, 0.3  # of log-mel over music, between silence (-11.5) and loud passages (-4); the share kept


class RandomProjectionTeacher(MelCodeTeacher):
    """Code targets [B, 4, T] of 1024 classes each at 75 Hz: argmax of cosines between projected frames and codebooks.

    Most of each frame's level is subtracted first: without normalised input (BEST-RQ), all frames fall in few classes,
    and a clip's statistics would make codes depend on where it was cut. Weights: `mean` and `std` [F], `projection`
    [K, F, D], `codebooks` [K, C, D]. `fit` takes the first two from a corpus; else they are a straight line and 1.
    """

    name = "random_projection"

    @classmethod
    def seeded(
        cls, seed: int = 0, *, n_codebooks: int = 4, n_classes: int = 1024, code_dim: int = 16,
        sample_rate: int = 24_000, n_mels: int = 128,
    ) -> Self:  # fmt: skip
        """A teacher drawn from a seed."""
        random = np.random.default_rng(seed)
        projection = random.standard_normal((n_codebooks, n_mels, code_dim)) * (2 / (n_mels + code_dim)) ** 0.5
        codebooks = random.standard_normal((n_codebooks, n_classes, code_dim))
        codebooks /= np.linalg.norm(codebooks, axis=2, keepdims=True)
        weights = {
            "mean": torch.linspace(2.0, -2.0, n_mels),  # music's log-mel falls by about as much over its bands
            "std": torch.ones(n_mels),
            "projection": torch.from_numpy(projection.astype(np.float32)),
            "codebooks": torch.from_numpy(codebooks.astype(np.float32)),
        }
        return cls(Spectral("mel", sample_rate, n_features=n_mels), weights)

    @classmethod
    def fit(
        cls, waves: Iterable[np.ndarray], *, seed: int = 0, sample_frames: int = 100_000, how: Fitting = DEFAULT,
        **settings: int,
    ) -> Self:  # fmt: skip
        """As `seeded`, with the mean and standard deviation of each mel band of a corpus."""
        drawn = cls.seeded(seed, **settings)
        rows_NF = sample_rows(waves, how.extractor(drawn.levelled), drawn.sample_rate, sample_frames, seed, cls.name)
        mean_F, std_F = standard(rows_NF)
        return cls(drawn.mel, drawn.weights | {"mean": mean_F, "std": std_F})

    def levelled(self, wave_BN: Tensor) -> Tensor:
        """Log-mel frames [B, T, F] with their mean over bands drawn towards zero."""
        frames_BTF = self.mel(wave_BN)
        level_BT1 = frames_BTF.mean(2, keepdim=True)
        return frames_BTF - level_BT1 + KEPT * (level_BT1 - LEVEL)

    def _codes(self, wave_1N: Tensor) -> Tensor:
        w = self.weights_on(wave_1N.device)
        x_TF = (self.levelled(wave_1N)[0] - w["mean"]) / w["std"]
        code_KTD = normalize(x_TF @ w["projection"], dim=2)
        return (code_KTD @ w["codebooks"].transpose(1, 2)).argmax(2)
