"""The frame clock: which samples a window reads, which frames it gives, and when each frame is.

Group norm spans a window, so windows are part of the meaning of the features. All functions here are pure.
Shapes: N samples, T frames of a recording, F frames of a window.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from mert.errors import AudioError
from mert.models.interface import NetworkConfig


@dataclass(frozen=True)
class Clock:
    """Frames on the time axis: frame t begins at sample stride t, counts once `field` samples are there, and is at
    sample stride t + centre. A MERT reads no others for it; other networks look further to both sides.

    Networks that take no input of a single frame need `least` samples.

    >>> clock = Clock(24_000, 320, 400, 200, 400)
    >>> clock.n_frames(120_000), clock.n_samples(374)
    (374, 119760)
    """

    rate_hz: int
    stride: int
    field: int
    centre: float
    least: int

    @classmethod
    def of(cls, config: NetworkConfig) -> Self:
        """The clock of a network."""
        return cls(config.sample_rate, config.stride, config.receptive_field, config.centre, config.least_samples)

    def n_frames(self, n_samples: int) -> int:
        """Frames in `n_samples`; 0 where not even one fits."""
        return (n_samples - self.field) // self.stride + 1 if n_samples >= self.least else 0

    def n_samples(self, n_frames: int) -> int:
        """Samples that `n_frames` frames read, and no more than the network needs for them."""
        return max(self.stride * (n_frames - 1) + self.field, self.least)

    def times(self, start: int, stop: int) -> np.ndarray:
        """Seconds (float64) of frames start to stop - 1: of MERT the centres of their receptive fields.

        >>> Clock(24_000, 320, 400, 200, 400).times(0, 2).round(5)
        array([0.00833, 0.02167])
        """
        return (self.stride * np.arange(start, stop, dtype=np.float64) + self.centre) / self.rate_hz


@dataclass(frozen=True)
class Span:
    """One window: it reads frames [start, start + frames) and gives frames [keep_from, keep_to)."""

    start: int
    frames: int
    keep_from: int
    keep_to: int


@dataclass(frozen=True)
class Windowing:
    """How a recording is cut: windows of `frames` frames every `hop` frames; None means the whole recording.

    >>> [(s.start, s.keep_from, s.keep_to) for s in Windowing(4, 4).plan(10)]
    [(0, 0, 4), (4, 4, 8), (6, 8, 10)]
    >>> [(s.start, s.keep_from, s.keep_to) for s in Windowing(4, 2).plan(8)]
    [(0, 0, 3), (2, 3, 5), (4, 5, 8)]
    """

    frames: int | None
    hop: int | None

    @classmethod
    def of(cls, clock: Clock, default_s: float, window: float | str | None, hop: float | None) -> Self:
        """From seconds, as the API takes them; ValueError for windows without a frame and hops that leave gaps."""
        if window == "whole":
            if hop is not None:
                raise ValueError('window="whole" has no hop')
            return cls(None, None)
        if isinstance(window, str):
            raise ValueError(f'window is a number of seconds or "whole", not {window!r}')
        window_s = default_s if window is None else window
        if not (math.isfinite(window_s) and (frames := clock.n_frames(round(window_s * clock.rate_hz)))):
            least = f"{clock.least / clock.rate_hz:g} s ({clock.least} samples)"
            raise ValueError(f"a window of {window_s} s has no frame: give at least {least}")
        if clock.stride * (frames - 1) + clock.field < clock.least:
            raise ValueError(f"a window of {window_s} s is too short for this model: give twice as much")
        hop_frames = frames if hop is None else round(hop * clock.rate_hz / clock.stride) if math.isfinite(hop) else 0
        if not 1 <= hop_frames <= frames:
            remedy = f"give 1 to {frames} frames of {clock.stride / clock.rate_hz:.6f} s, so that no frame is left out"
            raise ValueError(f"a hop of {hop} s is {hop_frames} frames: {remedy}")
        return cls(frames, hop_frames)

    def plan(self, n_frames: int) -> list[Span]:
        """All windows of a recording of `n_frames` frames; the frames they give tile it exactly."""
        if self.frames is None or self.hop is None or n_frames < self.frames:
            return [Span(0, n_frames, 0, n_frames)] if n_frames else []
        count = (n_frames - self.frames) // self.hop + 1
        spans = [regular_span(self.frames, self.hop, i, last=i == count - 1) for i in range(count)]
        covered = spans[-1].keep_to
        # The last window ends with the recording and gives only the frames no other reaches.
        tail = Span(n_frames - self.frames, self.frames, covered, n_frames)
        return [*spans, tail] if covered < n_frames else spans


def regular_span(frames: int, hop: int, i: int, last: bool) -> Span:
    """Window i: of the frames it shares, it gives those nearest to its centre; a tie goes to the earlier window."""
    start = i * hop
    reach = (frames - 1 + hop) // 2 + 1
    keep_from = 0 if i == 0 else start - hop + reach
    return Span(start, frames, keep_from, start + (frames if last else reach))


def cut(
    blocks: Iterable[np.ndarray], clock: Clock, windowing: Windowing, name: str
) -> Iterator[tuple[Span, np.ndarray]]:
    """The windows of `plan` with their samples, from blocks of a recording whose end is not yet known.

    Holds at most two windows of samples (for "whole": all). Raises AudioError where not one frame fits.
    """
    buffer = _Buffer()
    i = 0
    for block_N in blocks:
        buffer.append(block_N)
        if windowing.frames is None or windowing.hop is None:
            continue
        # With overlap, what window i gives depends on whether there is a window i + 1.
        ahead = 0 if windowing.hop == windowing.frames else windowing.hop
        while clock.n_frames(buffer.end) >= i * windowing.hop + windowing.frames + ahead:
            span = regular_span(windowing.frames, windowing.hop, i, last=False)
            yield span, buffer.read(clock, span)
            buffer.forget(span.start * clock.stride)  # the last window may begin one frame later
            i += 1
    n_frames = clock.n_frames(buffer.end)
    if not n_frames:
        remedy = f"give at least {clock.least} samples ({clock.least / clock.rate_hz * 1e3:.1f} ms)"
        raise AudioError(name, f"{buffer.end} samples at {clock.rate_hz} Hz are too short for one frame", remedy)
    if windowing.frames is None:
        yield Span(0, n_frames, 0, n_frames), buffer.samples()
        return
    for span in windowing.plan(n_frames)[i:]:
        yield span, buffer.read(clock, span)


class _Buffer:
    """The last samples of a stream, addressed by their position in it."""

    def __init__(self) -> None:
        self._blocks: list[np.ndarray] = []
        self._begin = self.end = 0

    def append(self, block_N: np.ndarray) -> None:
        self._blocks.append(block_N)
        self.end += len(block_N)

    def samples(self) -> np.ndarray:
        if len(self._blocks) != 1:
            self._blocks = [np.concatenate(self._blocks)] if self._blocks else [np.zeros(0, np.float32)]
        return self._blocks[0]

    def read(self, clock: Clock, span: Span) -> np.ndarray:
        start = span.start * clock.stride - self._begin
        return self.samples()[start : start + clock.n_samples(span.frames)]

    def forget(self, before: int) -> None:
        self._blocks = [self.samples()[before - self._begin :]]
        self._begin = before
