"""Beat tracking around an activation: targets for training, and scores of the beats that are picked from one.

Shapes: T frames.
"""

from dataclasses import dataclass

import numpy as np

from mert.describe.beats import POSTS, frame_rate, pick_beats
from mert.errors import need


def beat_targets(beats: np.ndarray, times_T: np.ndarray) -> np.ndarray:
    """[T], float32: 1 at the frame nearest to each beat, 0.5 and 0.25 one and two frames off, else 0.

    Beats more than half a frame outside the recording are ignored: some annotations extend beyond the end of the audio.

    >>> beat_targets(np.array([0.31, 9.0]), np.arange(6) / 10)
    array([0.  , 0.25, 0.5 , 1.  , 0.5 , 0.25], dtype=float32)
    """
    fps = frame_rate(times_T)
    at = np.rint((np.asarray(beats, dtype=np.float64) - times_T[0]) * fps).astype(int)
    at = at[(at >= 0) & (at < len(times_T))]
    targets_T = np.zeros(len(times_T), np.float32)
    for off, value in enumerate((1.0, 0.5, 0.25)):
        for near in (at - off, at + off):
            near = near[(near >= 0) & (near < len(times_T))]
            targets_T[near] = np.maximum(targets_T[near], value)
    return targets_T


@dataclass(frozen=True)
class BeatScores:
    """Scores of one recording: F, and the counts from which F over many recordings is pooled."""

    f_measure: float
    matched: int
    n_reference: int
    n_estimate: int


def beat_scores(
    reference: np.ndarray, estimate: np.ndarray, tolerance_s: float = 0.07, trim_s: float = 0.0
) -> BeatScores:
    """F by mir_eval's matching, 0 if nothing was tracked; beats before `trim_s` are ignored.

    >>> beat_scores(np.array([1.0, 2.0]), np.array([1.069, 2.071]))
    BeatScores(f_measure=0.5, matched=1, n_reference=2, n_estimate=2)
    """
    mir_eval = need("mir_eval", "probe", "beat scores")
    both = [mir_eval.beat.trim_beats(np.sort(beats), min_beat_time=trim_s) for beats in (reference, estimate)]
    n_beats = [len(beats) for beats in both]
    matched = len(mir_eval.util.match_events(*both, tolerance_s)) if all(n_beats) else 0
    return BeatScores(f_measure(matched, *n_beats), matched, *n_beats)


def f_measure(matched: int, n_reference: int, n_estimate: int) -> float:
    """The harmonic mean of precision and recall; 0 if nothing matched."""
    return 2 * matched / (n_reference + n_estimate) if matched else 0.0


@dataclass(frozen=True)
class Tracking:
    """From activation to score: `post` is "dbn" or "peak"; tolerance and trim are those of `beat_scores`."""

    post: str = "dbn"
    tolerance_s: float = 0.07
    trim_s: float = 0.0

    def __post_init__(self) -> None:
        if self.post not in POSTS:
            raise ValueError(f'post is "dbn" or "peak", not {self.post!r}')

    def beats(self, activation_T: np.ndarray, times_T: np.ndarray) -> np.ndarray:
        """Beat times in seconds."""
        return pick_beats(activation_T, times_T, self.post)

    def score(self, reference: np.ndarray, activation_T: np.ndarray, times_T: np.ndarray) -> BeatScores:
        """The scores of the beats picked from an activation."""
        return beat_scores(reference, self.beats(activation_T, times_T), self.tolerance_s, self.trim_s)
