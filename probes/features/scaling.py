"""Features scaled by their mean and deviation over the training clips.

Shapes: L layers, T frames, D feature size, P width of a window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probes.features.stores import FrameStore, Layer


@dataclass(frozen=True)
class Scaling:
    """Mean and deviation of each dimension over the training windows, [P] or [L, P]."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, x: Tensor, wanted: bool = True) -> Scaling:
        if not wanted:
            return cls(torch.zeros(x.shape[1:]), torch.ones(x.shape[1:]))
        mean = sum(piece.double().sum(dim=0) for piece in x.split(4096)) / len(x)
        deviation = torch.sqrt(sum(((piece - mean) ** 2).sum(dim=0) for piece in x.split(4096)) / len(x))
        return cls(mean.float(), torch.where(deviation > 1e-6, deviation, 1.0).float())

    def __call__(self, x: Tensor) -> Tensor:
        """`x` itself, scaled in place and in its precision, piece by piece: there may be gigabytes of it."""
        for piece in x.split(4096):
            piece.copy_((piece.float() - self.mean) / self.deviation)
        return x


class ScaledFrames:
    """Frames of a matrix, each dimension scaled by its mean and deviation over the training clips."""

    def __init__(self, store: FrameStore, train: tuple[str, ...]) -> None:
        self._store, self._train = store, train
        self._scales: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def frames(self, clip_id: str, layer: Layer) -> np.ndarray:
        """[T, D] of one layer, [L, T, D] of a slice."""
        mean, deviation = self._scale(layer)
        scaled: np.ndarray = (self._store.frames(clip_id, layer) - mean) / deviation
        return scaled

    def times(self, clip_id: str) -> np.ndarray:
        """Seconds of a clip's frames."""
        return self._store.times(clip_id)

    def scaling(self, layer: Layer) -> Scaling:
        """The scales of a layer option [D], or of several [L, D], to be kept with a head."""
        mean, deviation = self._scale(layer)
        return Scaling(torch.from_numpy(mean[..., 0, :]), torch.from_numpy(deviation[..., 0, :]))

    def _scale(self, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation, [1, D] or [L, 1, D], computed once."""
        key = repr(layer)
        if key not in self._scales:
            self._scales[key] = self._measured(layer)
        return self._scales[key]

    def _measured(self, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
        count, total, squares = 0, np.zeros(1), np.zeros(1)
        for clip in self._train:
            values = self._store.frames(clip, layer).astype(np.float64)
            count += values.shape[-2]
            total, squares = total + values.sum(axis=-2), squares + (values**2).sum(axis=-2)
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
        deviation = np.where(deviation > 1e-6, deviation, 1.0)
        return mean[..., None, :].astype(np.float32), deviation[..., None, :].astype(np.float32)
