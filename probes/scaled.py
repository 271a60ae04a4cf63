"""Frames scaled by their mean and deviation over the training clips, layer by layer.

Shapes: L layers, T frames, D feature size.
"""

from __future__ import annotations

import numpy as np

from probes.sequence import FrameStore, Layer


class ScaledFrames:
    """Frames of a matrix, each dimension scaled by its mean and deviation over the training clips."""

    def __init__(self, store: FrameStore, train: tuple[str, ...]) -> None:
        self._store, self._train = store, train
        self._scales: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def frames(self, clip_id: str, layer: Layer) -> np.ndarray:
        """[T, D] of one layer, [L, T, D] of a slice."""
        key = repr(layer)
        if key not in self._scales:
            self._scales[key] = self._scale(layer)
        mean, deviation = self._scales[key]
        scaled: np.ndarray = (self._store.frames(clip_id, layer) - mean) / deviation
        return scaled

    def times(self, clip_id: str) -> np.ndarray:
        """Seconds of a clip's frames."""
        return self._store.times(clip_id)

    def _scale(self, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
        count, total, squares = 0, np.zeros(1), np.zeros(1)
        for clip in self._train:
            values = self._store.frames(clip, layer).astype(np.float64)
            count += values.shape[-2]
            total, squares = total + values.sum(axis=-2), squares + (values**2).sum(axis=-2)
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
        deviation = np.where(deviation > 1e-6, deviation, 1.0)
        return mean[..., None, :].astype(np.float32), deviation[..., None, :].astype(np.float32)
