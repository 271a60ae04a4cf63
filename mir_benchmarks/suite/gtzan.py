"""GTZAN: ten genres and their beats. Some clips are played by the band of another genre."""

from mir_benchmarks.datasets.dataset import SPLITS
from mir_benchmarks.datasets.splits import gtzan_splits
from mir_benchmarks.suite.plans import CorpusPlan, PlannedClip, corpus_rng, first_score, table
from mir_benchmarks.suite.sizes import Extent
from mir_benchmarks.suite.studio import SYNTHETIC, Studio
from mir_benchmarks.synth.styles import STYLES

RATE_HZ = 22_050
CROSSOVERS = 0.3  # of the clips: their genre is in rhythm and harmony, not in timbre


def plan(seed: int, extent: Extent, studio: Studio = SYNTHETIC) -> CorpusPlan:
    """The first files of each genre in the official lists."""
    rng = corpus_rng("gtzan", seed)
    clips: list[PlannedClip] = []
    texts = {}
    for split in SPLITS:
        for name in listed(split, getattr(extent, split)):
            genre = name.partition(".")[0]
            other = str(rng.choice([style for style in STYLES if style != genre]))
            band = other if rng.random() < CROSSOVERS else None
            score = first_score("gtzan", seed, len(clips), extent.seconds, style=genre, band=band)
            score = studio.with_rubato(score)
            clips.append(studio.clip(f"genres/{genre}/{name}.wav", score, RATE_HZ, split))
            lines = ((f"{time:.3f}", position) for time, position in score.beats)
            texts[f"beats/gtzan_{name.replace('.', '_')}.beats"] = table(lines)
    return CorpusPlan(tuple(clips), texts, {"gtzan_genre": extent.counts, "gtzan_beats": extent.counts})


def listed(split: str, n: int) -> list[str]:
    """The first `n` excerpts of each genre in an official list.

    >>> listed("train", 1)[:2]
    ['blues.00029', 'classical.00030']
    """
    names = [name for name, of in gtzan_splits().items() if of == split]
    return [name for genre in STYLES for name in [name for name in names if name.startswith(f"{genre}.")][:n]]
