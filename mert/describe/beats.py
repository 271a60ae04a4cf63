"""Beats from an activation: by a dynamic Bayesian network, or its peaks.

Shapes: T frames.
"""

import math
from functools import lru_cache

import numpy as np

from mert.describe.dbn import DbnBeats

POSTS = ("dbn", "peak")  # ways from an activation to beats
LONGEST_S = 1200.0  # that the network tracks at once: it takes about 75 kB a second
tracker = lru_cache(DbnBeats)


def frame_rate(times_T: np.ndarray) -> float:
    """Frames a second of evenly spaced frames.

    >>> frame_rate(np.arange(10) / 75 + 0.1)
    75.0
    """
    if len(times_T) < 2:
        raise ValueError("a frame rate needs two frames")
    return round((len(times_T) - 1) / float(times_T[-1] - times_T[0]), 6)


def peak_beats(activation_T: np.ndarray, fps: float) -> np.ndarray:
    """Seconds after the first frame of all local maxima above 0.5, as Beat This! picks them at 50 frames a second.

    A maximum is the largest within 3 frames there, and within 5 at 75; neighbours that are equal make one beat.

    >>> peak_beats(np.array([0, 0.6, 0, 0, 0, 0, 0.9, 0.9, 0, 0.4]), fps=50)
    array([0.02, 0.13])
    """
    reach = math.ceil(round(0.06 * fps, 6))
    padded = np.pad(np.asarray(activation_T, dtype=np.float64), reach, constant_values=-np.inf)
    highest_T = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).max(axis=1)
    peaks = np.flatnonzero((padded[reach : len(padded) - reach] == highest_T) & (highest_T > 0.5))
    runs = np.split(peaks, np.flatnonzero(np.diff(peaks) > 1) + 1)
    return np.array([run.mean() for run in runs if len(run)]) / fps


def pick_beats(activation_T: np.ndarray, times_T: np.ndarray, post: str = "dbn") -> np.ndarray:
    """Beat times in seconds of an activation at evenly spaced times, by one of `POSTS`.

    The network begins anew every `LONGEST_S`, so that a recording of hours fits into memory.
    """
    fps = frame_rate(times_T)
    if post == "peak":
        return np.asarray(times_T[0] + peak_beats(activation_T, fps))
    step = max(2, round(LONGEST_S * fps))
    parts = [tracker(fps)(activation_T[start : start + step]) + start / fps for start in range(0, len(times_T), step)]
    return np.asarray(times_T[0] + np.concatenate(parts))


def strength(activation_T: np.ndarray, times_T: np.ndarray, events: np.ndarray) -> float:
    """The mean activation at the frames of some events: how sure they are.

    >>> round(strength(np.array([0.0, 0.8, 0.1, 0.4]), np.arange(4) / 50, np.array([0.02, 0.06])), 2)
    0.6
    """
    return float(activation_T[np.searchsorted((times_T[1:] + times_T[:-1]) / 2, events)].mean())
