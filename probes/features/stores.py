"""Protocols of stores of features: pooled windows, or frames, of some layers.

Shapes: L layers, T frames, D feature size.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from mert.describe.head import WEIGHTED

Layer = int | slice  # one layer, or several to be summed with trained weights
INPUT = "embed"  # of an encoder: the published "all" leaves it out


def summed(layers: Sequence[str]) -> slice:
    """The layers of a weighted sum: all but the encoder's input, which comes first where there is one."""
    return slice(1 if layers and layers[0] == INPUT else 0, None)


def layer_options(layers: tuple[str, ...]) -> tuple[str, ...]:
    """Every single layer, and the weighted sum where there are several to sum.

    >>> layer_options(("log-mel",)), layer_options(("embed", "layer01", "layer02"))
    (('log-mel',), ('embed', 'layer01', 'layer02', 'all'))
    """
    return (*layers, WEIGHTED) if len(layers[summed(layers)]) > 1 else layers


def layer_number(layers: Sequence[str], option: str) -> Layer:
    """The index of a layer option, or the slice of layers that are summed.

    >>> layer_number(("embed", "layer01", "layer02"), "layer01"), layer_number(("embed", "layer01", "layer02"), "all")
    (1, slice(1, None, None))
    """
    return summed(layers) if option == WEIGHTED else layers.index(option)


def rows_of_spans(spans: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """All rows of spans (first, end), and the number of the span each belongs to."""
    rows = np.concatenate([np.zeros(0, int), *(np.arange(*span) for span in spans)])
    return rows, np.repeat(np.arange(len(spans)), [end - first for first, end in spans])


class FrameStore(Protocol):
    """Frozen features of clips, frame by frame."""

    def frames(self, clip_id: str, layer: Layer) -> np.ndarray:
        """float32 [T, D] of one layer, [L, T, D] of a slice."""

    def times(self, clip_id: str) -> np.ndarray:
        """Seconds [T] of the frames."""


class PooledStore(Protocol):
    """Frozen features of clips, a row per window."""

    layers: tuple[str, ...]

    def rows(self, ids: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """(row numbers, number of the clip each belongs to), for clips in this order."""

    def windows(self, rows: np.ndarray, layer: Layer) -> np.ndarray:
        """[n, P] of one layer, [n, L, P] of a slice."""
