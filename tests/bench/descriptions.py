"""Key and tempo of `m.describe` on clips that no head was fitted on: `python descriptions.py [N [MODEL]]`.

Clips of 20 s of `data=sampled`, purpose "test", whose scores and sound fonts are its own. A tempo that is twice, half,
or another simple ratio of the score's counts apart. Beside it: the key whose profile of Krumhansl and Kessler fits
the pitch classes of a constant-Q transform best, and the tempo by the autocorrelation of spectral flux.
Shapes: N samples, T frames, F bins, C pitch classes.
"""

import sys

import mir_eval
import numpy as np
import torch
from scipy.signal import get_window, stft

import mert
from mir_benchmarks.synth.pieces import MAJOR, MINOR
from mir_benchmarks.synth.sampled import SampledCorpus
from teachers.cqt import Cqt

SEED, SECONDS, LEAST_BEATS = 5, 20.0, 8
NAMES = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
NEAR, RATIOS = 0.04, (2, 1 / 2, 3, 1 / 3, 3 / 2, 2 / 3)


def key_by_profile(wave_N: np.ndarray) -> str:
    """A key by Krumhansl and Kessler's profiles, as mir_eval writes it."""
    magnitude_F = Cqt()(torch.from_numpy(wave_N.astype(np.float32))[None])[0].sqrt().mean(0).numpy()
    chroma_C = np.roll(magnitude_F, 2).reshape(-1, 12, 4).sum((0, 2))  # four bins a semitone around those from C1
    rows = [(np.corrcoef(np.roll(profile, tonic), chroma_C)[0, 1], f"{NAMES[tonic]} {mode}")
            for mode, profile in (("major", MAJOR), ("minor", MINOR)) for tonic in range(12)]  # fmt: skip
    return max(rows)[1]


def tempo_by_autocorrelation(wave_N: np.ndarray, rate_hz: int) -> float:
    """Beats a minute, from 55 to 200, by the autocorrelation of spectral flux, with a preference for 120."""
    hop = rate_hz // 100
    _, _, spectrum_FT = stft(wave_N, window=get_window("hann", 1024), nperseg=1024, noverlap=1024 - hop)
    flux_T = np.maximum(np.diff(np.log1p(1000 * np.abs(spectrum_FT)), axis=1), 0).sum(0)
    flux_T = flux_T - flux_T.mean()
    power_T = np.correlate(flux_T, flux_T, "full")[len(flux_T) - 1 :]
    lags = np.arange(30, 110)
    preferred = np.exp(-0.5 * np.log2(6000 / lags / 120) ** 2)
    return float(6000 / lags[np.argmax(power_T[lags] * preferred)])


def tempo_row(bpm: list[float], beat_s: list[float]) -> str:
    """How often tempi agree with those of scores."""
    of_score = np.array(bpm) * np.array(beat_s) / 60
    right = np.abs(of_score - 1) < NEAR
    related = np.min([np.abs(of_score / ratio - 1) for ratio in RATIOS], axis=0) < NEAR
    unsure = np.isnan(of_score).mean()
    apart = (related & ~right).mean()
    return f"{100 * right.mean():.1f} | {100 * apart:.1f} | {100 * unsure:.1f}"


def main(n_wanted: int, name: str) -> None:
    """Print a table."""
    m, corpus = mert.load(name), SampledCorpus(seed=SEED, seconds=SECONDS, purpose="test")
    keys, by_profile, sure, tempi, by_flux, beat_s = [], [], [], list[float](), list[float](), list[float]()
    clips = (i for i in range(len(corpus)) if len(corpus.score(i).beats) >= LEAST_BEATS)
    for i, _ in zip(clips, range(n_wanted), strict=False):
        score, wave_N = corpus.score(i), corpus.read(i)
        described = m.describe(wave_N, sr=corpus.rate_hz)
        key = described.predictions["key"]
        keys.append(mir_eval.key.weighted_score(score.key, key.labels[0]))
        by_profile.append(mir_eval.key.weighted_score(score.key, key_by_profile(wave_N)))
        sure.append(key.sure)
        tempi.append(described.tempo_bpm or np.nan)
        by_flux.append(tempo_by_autocorrelation(wave_N, corpus.rate_hz))
        beat_s.append(float(np.median(np.diff([time for time, _ in score.beats]))))
    held = np.array(sure)
    print(f"{len(keys)} clips; {name} is sure of {100 * held.mean():.1f} % of the keys, and there its score is "
          f"{100 * np.mean(np.array(keys)[held]):.1f}\n\n"
          "| | key, weighted | tempo within 4 % | at a simple ratio | not sure |\n|---|---|---|---|---|\n"
          f"| {name} | {100 * np.mean(keys):.1f} | {tempo_row(tempi, beat_s)} |\n"
          f"| by hand | {100 * np.mean(by_profile):.1f} | {tempo_row(by_flux, beat_s)} |")  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60, sys.argv[2] if len(sys.argv) > 2 else "mert-nano")
