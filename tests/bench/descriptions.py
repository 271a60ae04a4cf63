"""Key and tempo of `m.describe` on clips that no head was fitted on: `python descriptions.py [N]`.

Clips of 20 s of `data=sampled`, purpose "test", whose scores and sound fonts are its own. A tempo that is twice, half,
or another simple ratio of the score's counts apart.
"""

import sys

import mir_eval
import numpy as np

import mert
from mir_benchmarks.synth.sampled import SampledCorpus

SEED, SECONDS, LEAST_BEATS = 5, 20.0, 8
NEAR, RATIOS = 0.04, (2, 1 / 2, 3, 1 / 3, 3 / 2, 2 / 3)


def main(n_wanted: int) -> None:
    """Print a row of a table."""
    m, corpus = mert.load("mert-nano-2"), SampledCorpus(seed=SEED, seconds=SECONDS, purpose="test")
    keys, sure, tempi = [], [], []
    clips = (i for i in range(len(corpus)) if len(corpus.score(i).beats) >= LEAST_BEATS)
    for i, _ in zip(clips, range(n_wanted), strict=False):
        score, described = corpus.score(i), m.describe(corpus.read(i), sr=corpus.rate_hz)
        key = described.predictions["key"]
        keys.append(mir_eval.key.weighted_score(score.key, key.labels[0]))
        sure.append(key.sure)
        beat_s = np.median(np.diff([time for time, _ in score.beats]))
        tempi.append((described.tempo_bpm or np.nan) * beat_s / 60)
    of_score = np.array(tempi)
    right = np.abs(of_score - 1) < NEAR
    related = np.min([np.abs(of_score / ratio - 1) for ratio in RATIOS], axis=0) < NEAR
    held = np.array(sure)
    print(f"{len(keys)} clips: key {100 * np.mean(keys):.1f} (weighted), sure of {100 * held.mean():.1f} %, there "
          f"{100 * np.mean(np.array(keys)[held]):.1f}; tempo within 4 % {100 * right.mean():.1f} %, at a simple ratio "
          f"{100 * (related & ~right).mean():.1f} %, not sure of {100 * np.isnan(of_score).mean():.1f} %")  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
