"""MagnaTagATune: short clips with the 50 most frequent tags, which follow the score, among 138 rare ones."""

import numpy as np

from mir_benchmarks.datasets.dataset import SPLITS
from mir_benchmarks.suite.facts import draw_scores, tags_of
from mir_benchmarks.suite.names import artists, slug, title
from mir_benchmarks.suite.plans import CorpusPlan, PlannedClip, corpus_rng, table
from mir_benchmarks.suite.sizes import Extent
from mir_benchmarks.suite.studio import SYNTHETIC, Studio
from mir_benchmarks.suite.tags import MTT, RARE_MTT

RATE_HZ = 16_000
LETTERS = {"train": "0123456789ab", "valid": "c", "test": "def"}


def plan(seed: int, extent: Extent, studio: Studio = SYNTHETIC) -> CorpusPlan:
    """Each tag holds for a clip of every split, and does not for another."""
    rng = corpus_rng("magnatagatune", seed)
    names = artists(rng)
    tags = sorted((*MTT, *RARE_MTT))
    rows: list[list[str]] = [quoted(["clip_id", *tags, "mp3_path"])]
    clips: list[PlannedClip] = []
    for split in SPLITS:
        for score in draw_scores("magnatagatune", seed, split, extent, MTT):
            letter = LETTERS[split][len(clips) % len(LETTERS[split])]
            path = f"{letter}/{slug(next(names))}-{slug(title(rng))}-{track(rng)}"
            true = {*tags_of(score, MTT), *rng.choice(RARE_MTT, size=2)}
            rows.append(quoted([str(len(clips) + 2), *(str(int(tag in true)) for tag in tags), path]))
            clips.append(studio.clip(f"mp3/{path}", score, RATE_HZ, split))
    return CorpusPlan(tuple(clips), {"annotations_final.csv": table(rows)}, {"mtt": extent.counts})


def track(rng: np.random.Generator) -> str:
    """The end of a file name: number, title, and where the clip lies in the song."""
    start_s = 29 * int(rng.integers(8))
    return f"{int(rng.integers(1, 20)):02d}-{slug(title(rng))}-{start_s}-{start_s + 29}.mp3"


def quoted(cells: list[str]) -> list[str]:
    return [f'"{cell}"' for cell in cells]
