"""How recordings are cut into windows for a probe, and whether features are pooled over each."""

from collections.abc import Iterator
from dataclasses import dataclass

SHORTEST_S = 1.0
NEARLY_S = 0.01  # a resampler may return a sample less than the whole


@dataclass(frozen=True)
class ClipWindows:
    """Non-overlapping windows of `seconds` (None: the whole recording).

    A rest below 1 s is dropped; a longer one is a shorter window, or dropped if `tail` is "drop". A recording shorter
    than a window is one window of its own length. `crop_s` keeps the beginning only; `trim` removes leading silence;
    `pooled` features are averaged over each window, otherwise frames are kept.
    """

    seconds: float | None
    tail: str = "keep"
    crop_s: float | None = None
    trim: bool = False
    pooled: bool = True

    def spans(self, n_samples: int, rate_hz: int) -> Iterator[tuple[int, int]]:
        """(first, end) in samples of each window.

        >>> list(ClipWindows(5.0).spans(115, 10)), list(ClipWindows(5.0, tail="drop").spans(115, 10))
        ([(0, 50), (50, 100), (100, 115)], [(0, 50), (50, 100)])
        >>> list(ClipWindows(5.0).spans(104, 10)), list(ClipWindows(5.0, tail="drop").spans(30, 10))
        ([(0, 50), (50, 100)], [(0, 30)])
        """
        n = n_samples if self.crop_s is None else min(n_samples, round(self.crop_s * rate_hz))
        step = n if self.seconds is None else round(self.seconds * rate_hz)
        for first in range(0, n, max(1, step)):
            end = min(first + step, n)
            rest_kept = self.tail == "keep" and end - first >= SHORTEST_S * rate_hz
            if end - first >= step - NEARLY_S * rate_hz or first == 0 or rest_kept:
                yield first, end
