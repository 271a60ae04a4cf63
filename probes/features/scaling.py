"""Features standardised by their mean and deviation over the training split.

Shapes: R rows, L layers, T frames, D feature size, P width of a window.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probes.features.stores import FrameStore, Layer

SCALINGS = ("standardized", "raw")  # by mean and deviation over the training split, or not at all
PIECE = 4096  # rows at a time


@dataclass(frozen=True)
class Standardizer:
    """Mean and deviation of each dimension over the training split: [P] of one layer, or [L, P] of several."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def identity(cls, shape: tuple[int, ...]) -> Standardizer:
        """A standardizer that changes nothing."""
        return cls(torch.zeros(shape), torch.ones(shape))

    @classmethod
    def bounded(cls, mean: Tensor, deviation: Tensor) -> Standardizer:
        """In float32; dimensions that vary less than 1e-6 are only centred."""
        return cls(mean.float(), torch.where(deviation > 1e-6, deviation, 1.0).float())

    @classmethod
    def of_rows(cls, x: Tensor) -> Standardizer:
        """By two passes over rows [R, P] or [R, L, P] in memory: the mean first, then squares about it."""
        mean = sum(piece.double().sum(dim=0) for piece in x.split(PIECE)) / len(x)
        deviation = torch.sqrt(sum(((piece - mean) ** 2).sum(dim=0) for piece in x.split(PIECE)) / len(x))
        return cls.bounded(mean, deviation)

    @classmethod
    def of_stream(cls, clips: Iterable[np.ndarray]) -> Standardizer:
        """By one pass over clips, [T, D] or [L, T, D] each, from sums of values and squares in float64."""
        count, total, squares = 0, np.zeros(1), np.zeros(1)
        for frames in clips:
            values = frames.astype(np.float64)
            count += values.shape[-2]
            total, squares = total + values.sum(axis=-2), squares + (values**2).sum(axis=-2)
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
        return cls.bounded(torch.from_numpy(mean), torch.from_numpy(deviation))

    def __call__(self, x: Tensor) -> Tensor:
        """Scale rows in place, in their precision and piece by piece: there may be gigabytes of them."""
        for piece in x.split(PIECE):
            piece.copy_((piece.float() - self.mean) / self.deviation)
        return x

    def scale_frames(self, frames: np.ndarray) -> np.ndarray:
        """Scaled frames, [T, D] or [L, T, D]."""
        scaled: np.ndarray = (frames - self.mean.numpy()[..., None, :]) / self.deviation.numpy()[..., None, :]
        return scaled


class StandardizedFrames(FrameStore):
    """A FrameStore whose frames are standardised by those of the training clips."""

    def __init__(self, store: FrameStore, train: tuple[str, ...]) -> None:
        self._store, self._train = store, train
        self._standardizers: dict[str, Standardizer] = {}

    def frames(self, clip_id: str, layer: Layer) -> np.ndarray:
        return self.standardizer(layer).scale_frames(self._store.frames(clip_id, layer))

    def times(self, clip_id: str) -> np.ndarray:
        return self._store.times(clip_id)

    def standardizer(self, layer: Layer) -> Standardizer:
        """The standardizer of a layer [D], or of several [L, D]; computed once."""
        key = repr(layer)
        if key not in self._standardizers:
            frames = (self._store.frames(clip, layer) for clip in self._train)
            self._standardizers[key] = Standardizer.of_stream(frames)
        return self._standardizers[key]
