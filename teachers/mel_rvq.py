"""A residual vector quantiser on log-mel frames (as MuQ, arXiv 2501.01108): acoustic codes that need no download.

Shapes: B clips, N samples, T frames, F mel bands, C classes, K codebooks.
"""

from collections.abc import Iterable
from typing import Self

import numpy as np
import torch
from torch import Tensor

from teachers.clustering import DEFAULT, Fitting, residual_codes, residual_kmeans, sample_rows, standard
from teachers.spectral import MelCodeTeacher, Spectral


class MelRvqTeacher(MelCodeTeacher):
    """Code targets [B, 8, T] of 1024 classes each at 75 Hz, fitted by residual k-means on standardised frames.

    Weights: `mean` and `std` [F], `codebooks` [K, C, F].
    """

    name = "mel_rvq"

    @classmethod
    def fit(
        cls, waves: Iterable[np.ndarray], *, n_codebooks: int = 8, n_classes: int = 1024, sample_rate: int = 24_000,
        n_mels: int = 128, sample_frames: int = 100_000, seed: int = 0, how: Fitting = DEFAULT,
    ) -> Self:  # fmt: skip
        """Fit to a sample of a corpus of float32 mono waves; TeacherError if it has too few distinct frames."""
        mel = Spectral("mel", sample_rate, n_features=n_mels)
        rows_NF = sample_rows(waves, how.extractor(mel), sample_rate, sample_frames, seed, cls.name)
        mean_F, std_F = standard(rows_NF)
        rows = ((torch.from_numpy(rows_NF) - mean_F) / std_F).numpy()
        codebooks_KCF = residual_kmeans(rows, n_codebooks, n_classes, seed, cls.name, how)
        return cls(mel, {"mean": mean_F, "std": std_F, "codebooks": codebooks_KCF})

    def _codes(self, wave_1N: Tensor) -> Tensor:
        w = self.weights_on(wave_1N.device)
        return residual_codes((self.mel(wave_1N)[0] - w["mean"]) / w["std"], w["codebooks"])
