"""Beats from an activation by a dynamic Bayesian network: bar-pointer states at integer tempi, decoded by Viterbi.

Shapes: T frames, K intervals (frames from beat to beat).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class DbnBeats:
    """The beat model of Krebs, Böck and Widmer (ISMIR 2015), with the parameters of madmom.

    A state is an interval of i frames, any integer from 60 fps / max_bpm to 60 fps / min_bpm, and a position in it
    that advances with each frame. At its end, interval a is followed by b with a probability that is proportional to
    exp(-transition_lambda |b / a - 1|). The first 1/observation_lambda of an interval emits the activation, the rest
    shares its complement. Called with an activation [T], it returns beats in seconds after the first frame.

    >>> activation = np.full(190, 0.02)
    >>> activation[5::25] = 0.9
    >>> DbnBeats(fps=50)(activation)
    array([0.1, 0.6, 1.1, 1.6, 2.1, 2.6, 3.1, 3.6])
    """

    fps: float
    min_bpm: float = 55.0
    max_bpm: float = 215.0
    transition_lambda: float = 100.0
    observation_lambda: int = 16

    def __post_init__(self) -> None:
        if not (0 < self.min_bpm <= self.max_bpm and self.fps > 0 and self.observation_lambda > 1):
            raise ValueError(f"no tempi to choose from: {self}")
        if self.intervals[0] < 1:
            raise ValueError(f"{self.max_bpm} BPM are more beats than {self.fps} frames a second can hold")

    def __call__(self, activation_T: np.ndarray) -> np.ndarray:
        activation_T = np.asarray(activation_T, dtype=np.float64)
        if activation_T.ndim != 1 or not ((activation_T >= 0) & (activation_T <= 1)).all():
            raise ValueError("an activation is a vector of numbers from 0 to 1")
        if not activation_T.any():
            return np.zeros(0)
        beats = [start + activation_T[start:stop].argmax() for start, stop in self.regions(activation_T)]
        return np.array(beats, dtype=np.float64) / self.fps

    @cached_property
    def intervals(self) -> np.ndarray:
        """[K]: all intervals in frames."""
        shortest, longest = (int(np.round(60 * self.fps / bpm)) for bpm in (self.max_bpm, self.min_bpm))
        return np.arange(shortest, longest + 1)

    @cached_property
    def beat_frames(self) -> np.ndarray:
        """[K]: how many frames at the start of each interval are its beat."""
        return np.asarray(-(-self.intervals // self.observation_lambda))

    @cached_property
    def transitions(self) -> np.ndarray:
        """[K, K]: log-probabilities of each interval (column) after each (row)."""
        log_KK = -self.transition_lambda * np.abs(self.intervals / self.intervals[:, None] - 1)
        return np.asarray(log_KK - np.log(np.exp(log_KK).sum(axis=1, keepdims=True)))

    def regions(self, activation_T: np.ndarray) -> list[tuple[int, int]]:
        """(first, end) of the frames of each beat on the likeliest path.

        Nothing is chosen within an interval, so the search goes from beat to beat, not from state to state: a row of
        `entered` is a frame, and holds the best score of a path that enters each interval there. Rows before the first
        frame are zero: the recording may begin anywhere in any interval.
        """
        n_frames, longest = len(activation_T), int(self.intervals[-1])
        columns = np.arange(len(self.intervals))
        entered = np.zeros((longest + n_frames, len(columns)))
        came_from_TK = np.zeros((n_frames, len(columns)), dtype=np.int64)
        passed_TK = self._log_likelihood(activation_T, np.arange(n_frames)[:, None] - self.intervals)
        for t in range(n_frames):
            scores_KK = (entered[longest + t - self.intervals, columns] + passed_TK[t])[:, None] + self.transitions
            came_from_TK[t] = best_K = scores_KK.argmax(axis=0)
            entered[longest + t] = scores_KK[best_K, columns]
        position_P = np.arange(longest)  # where in its last interval a path may end
        start_P = n_frames - 1 - position_P
        ends_PK = entered[longest + start_P] + self._log_likelihood(activation_T, start_P[:, None])
        ends_KP = np.where(position_P < self.intervals[:, None], ends_PK.T, -np.inf)
        k, position = np.unravel_index(ends_KP.argmax(), ends_KP.shape)
        return self._traced(int(k), int(start_P[position]), came_from_TK)

    def _traced(self, k: int, start: int, came_from_TK: np.ndarray) -> list[tuple[int, int]]:
        """The beats of a path that enters its last interval, number k, at frame `start`."""
        regions = []
        while True:
            region = max(start, 0), min(start + int(self.beat_frames[k]), len(came_from_TK))
            if region[0] < region[1]:
                regions.append(region)
            if start <= 0:
                return regions[::-1]
            k = int(came_from_TK[start, k])
            start -= int(self.intervals[k])

    def _log_likelihood(self, activation_T: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Of the frames of intervals entered at `starts` [..., K or 1], as far as they lie in the recording."""
        clipped_T = np.clip(activation_T, 1e-7, 1 - 1e-7)  # logarithms of 0 are infinite
        beat = np.cumsum(np.append(0.0, np.log(clipped_T)))
        rest = np.cumsum(np.append(0.0, np.log((1 - clipped_T) / (self.observation_lambda - 1))))
        edges = (0, self.beat_frames, self.intervals)
        first, middle, end = (np.clip(starts + frames, 0, len(activation_T)) for frames in edges)
        return np.asarray(beat[middle] - beat[first] + rest[end] - rest[middle])
