"""The teacher of the v0 family: k-means clusters of MFCC, or of log-mel and chroma as two streams.

Shapes: B clips, N samples, T frames, F features, C classes, K streams.
"""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from teachers.base import CodeTeacher, TeacherError
from teachers.clustering import DEFAULT, Fitting, kmeans, nearest, sample_rows, standard
from teachers.spectral import Spectral

# The streams behind a name, of HuBERT and of the MERT paper: kind, n_fft, features, classes.
STREAMS = {"mfcc": [("mfcc", 1024, 39, 100)], "mel_chroma": [("mel", 4096, 229, 300), ("chroma", 4096, 264, 200)]}


class KmeansTeacher(CodeTeacher):
    """Code targets [B, K, T]: the nearest centre of each standardised frame; K = 1 for mfcc, 2 for mel_chroma."""

    name = "kmeans"

    def __init__(self, streams: dict[str, Spectral], weights: dict[str, Tensor]) -> None:
        super().__init__({"streams": {key: asdict(value) for key, value in streams.items()}}, weights)
        self.streams = streams
        reaches = [stream.reach for stream in streams.values()]
        self.frames_before, self.frames_after = (max(ends) for ends in zip(*reaches, strict=True))
        first = next(iter(streams.values()))
        self.sample_rate, self.rate_hz = first.sample_rate, first.sample_rate / first.hop
        self.n_classes = tuple(len(weights[f"{key}.centres"]) for key in streams)

    def codebooks(self) -> list[Tensor]:
        return [self.weights[f"{key}.centres"] for key in self.streams]

    @classmethod
    def from_parts(cls, settings: dict[str, Any], weights: dict[str, Tensor]) -> Self:
        return cls({key: Spectral(**value) for key, value in settings["streams"].items()}, weights)

    @classmethod
    def fit(
        cls, waves: Iterable[np.ndarray], *, features: str = "mfcc", n_classes: int | tuple[int, ...] | None = None,
        sample_rate: int = 16_000, sample_frames: int = 100_000, seed: int = 0, how: Fitting = DEFAULT,
    ) -> Self:  # fmt: skip
        """Cluster a sample of a corpus; classes default to 100 for mfcc (HuBERT), 300 and 200 for mel_chroma (MERT)."""
        if features not in STREAMS:
            raise TeacherError(cls.name, f"features={features!r} are unknown", "choose mfcc or mel_chroma")
        known = STREAMS[features]
        streams = {kind: Spectral(kind, sample_rate, n_fft=n_fft, n_features=n) for kind, n_fft, n, _ in known}
        classes = n_classes or tuple(usual for *_, usual in known)
        per_stream = (classes,) * len(streams) if isinstance(classes, int) else tuple(classes)
        if len(per_stream) != len(streams):
            raise TeacherError(cls.name, f"n_classes={per_stream} for {len(streams)} streams", "give one per stream")

        def extract(wave_BN: Tensor) -> Tensor:
            return torch.cat([stream(wave_BN) for stream in streams.values()], 2)

        rows_NF = sample_rows(waves, how.extractor(extract), sample_rate, sample_frames, seed, cls.name)
        weights: dict[str, Tensor] = {}
        columns = np.cumsum([stream.n_features for stream in streams.values()])[:-1]
        parts = zip(streams, per_stream, np.split(rows_NF, columns, axis=1), strict=True)
        for key, n, part_NF in how.track(list(parts), description="streams"):
            mean_F, std_F = standard(part_NF, alike=key != "mfcc")
            rows = ((torch.from_numpy(part_NF) - mean_F) / std_F).numpy()
            centres_CF = kmeans(rows, n, seed, cls.name)
            weights |= {f"{key}.mean": mean_F, f"{key}.std": std_F, f"{key}.centres": centres_CF}
        return cls(streams, weights)

    def _codes(self, wave_1N: Tensor) -> Tensor:
        w, codes = self.weights_on(wave_1N.device), []
        for key, stream in self.streams.items():
            x_TF = (stream(wave_1N)[0] - w[f"{key}.mean"]) / w[f"{key}.std"]
            codes.append(nearest(x_TF, w[f"{key}.centres"]))
        return torch.stack(codes)
