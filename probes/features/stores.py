"""What probes ask of a store of features: pooled windows, or frames, of some layers.

Shapes: L layers, T frames, D feature size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

WEIGHTED = "all"  # a softmax-weighted sum of layer01 and up


Layer = int | slice  # one layer, or several to be summed with learnt weights
ALL = slice(1, None)  # layer01 and those above it: the published "all" leaves out the encoder's input


def layer_number(layers: Sequence[str], option: str) -> Layer:
    """A layer option as frames are asked for.

    >>> layer_number(("embed", "layer01", "layer02"), "layer01"), layer_number(("embed", "layer01", "layer02"), "all")
    (1, slice(1, None, None))
    """
    return ALL if option == WEIGHTED else layers.index(option)


class FrameStore(Protocol):
    """Frozen features of clips, frame by frame; FeatureMatrix is one."""

    def frames(self, clip_id: str, layer: Layer) -> np.ndarray:
        """[T, D] of one layer, [L, T, D] of a slice."""
        ...

    def times(self, clip_id: str) -> np.ndarray:
        """Seconds [T] of the frames."""
        ...


class Source(Protocol):
    """Where pooled features come from: a FeatureMatrix, or files made by `mert embed`."""

    layers: tuple[str, ...]

    def rows(self, ids: Iterable[str]) -> tuple[np.ndarray, np.ndarray]: ...

    def windows(self, rows: np.ndarray, layer: int | slice) -> np.ndarray: ...
