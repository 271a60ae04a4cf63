"""Resampling in pieces of a second that do not depend on each other, so that any of them can be computed alone.

A piece is resampled with a margin on both sides, which is cut off. That differs from resampling the whole by at most
5e-7 at the usual rates: the margin is several times as long as the filter.

Shapes: N samples.
"""

import math
from collections.abc import Iterator

import numpy as np
import soxr

from mert.audio.recording import QUALITY

MARGIN_S = 0.05


def margin(from_hz: int, to_hz: int) -> int:
    """Input samples on each side of a piece: the fewest that last `MARGIN_S` and are whole output samples.

    >>> margin(44_100, 24_000)
    2205
    """
    unit = from_hz // math.gcd(from_hz, to_hz)
    return -(-from_hz // (unit * round(1 / MARGIN_S))) * unit


def needed(start: int, stop: int, from_hz: int, to_hz: int) -> range:
    """The input samples that the output samples from `start` to `stop` are made of, as if there were no end."""
    if from_hz == to_hz:
        return range(start, stop)
    first, last = start // to_hz, -(-stop // to_hz)
    return range(max(0, first * from_hz - margin(from_hz, to_hz)), last * from_hz + margin(from_hz, to_hz))


def clip(input_N: np.ndarray, at: int, start: int, stop: int, from_hz: int, to_hz: int) -> np.ndarray:
    """Output samples [start, stop) of an input whose samples from `at` on, all that are `needed`, are given.

    Fewer are given only where the input ends.
    """
    if from_hz == to_hz:
        return input_N[start - at : stop - at]
    first = start // to_hz
    pieces = [_piece(input_N, at, k, from_hz, to_hz) for k in range(first, -(-stop // to_hz))]
    return np.concatenate([input_N[:0], *pieces])[start - first * to_hz : stop - first * to_hz]


def in_pieces(blocks: Iterator[np.ndarray], from_hz: int, to_hz: int) -> Iterator[np.ndarray]:
    """A signal at another rate, piece by piece; `clip` gives the same bits.

    >>> wave = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    >>> whole = np.concatenate(list(in_pieces(iter(np.split(wave, 8)), 44_100, 24_000)))
    >>> wanted = needed(30_000, 50_000, 44_100, 24_000)
    >>> part = clip(wave[wanted.start :], wanted.start, 30_000, 50_000, 44_100, 24_000)
    >>> wanted.start, len(whole), bool(np.array_equal(part, whole[30_000:50_000]))
    (41895, 54421, True)
    """
    if from_hz == to_hz:
        yield from blocks
        return
    margin_n = margin(from_hz, to_hz)
    held: list[np.ndarray] = []
    at, end, k = 0, 0, 0  # where the held samples begin and end, and the next piece
    for block_N in blocks:
        held.append(block_N)
        end += len(block_N)
        while end >= (k + 1) * from_hz + margin_n:
            held = [np.concatenate(held)]
            yield _piece(held[0], at, k, from_hz, to_hz)
            k += 1
            kept = max(0, k * from_hz - margin_n)
            held, at = [held[0][kept - at :]], kept
    input_N = np.concatenate([np.zeros(0, np.float32), *held])
    while end > k * from_hz:
        yield _piece(input_N, at, k, from_hz, to_hz)
        k += 1


def _piece(input_N: np.ndarray, at: int, k: int, from_hz: int, to_hz: int) -> np.ndarray:
    """Piece `k` of a signal, of the samples from `at` on."""
    margin_n, start = margin(from_hz, to_hz), k * from_hz
    begin, stop = max(0, start - margin_n), min(start + from_hz, at + len(input_N))
    with_margins_N = input_N[begin - at : start + from_hz + margin_n - at]
    n_before, n = (start - begin) * to_hz // from_hz, max(0, stop - start) * to_hz // from_hz
    return soxr.resample(with_margins_N, from_hz, to_hz, quality=QUALITY)[n_before : n_before + n] if n else input_N[:0]
