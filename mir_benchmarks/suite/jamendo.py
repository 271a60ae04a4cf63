"""MTG-Jamendo: tracks with tags of genre, instruments and mood."""

from __future__ import annotations

from mir_benchmarks.suite.facts import draw_scores, is_clear, tags_of
from mir_benchmarks.suite.plans import CorpusPlan, PlannedClip, first_score
from mir_benchmarks.suite.sizes import SPLITS, Extent
from mir_benchmarks.suite.tags import GENRE, INSTRUMENT, MOOD, TOP50
from mir_benchmarks.synth.score import Score
from mir_benchmarks.synth.styles import STYLES

RATE_HZ = 24_000
ALL = {**GENRE, **INSTRUMENT, **MOOD}
SUBSETS = {"genre": tuple(GENRE), "instrument": tuple(INSTRUMENT), "moodtheme": tuple(MOOD), "top50tags": TOP50}
TASKS = {"genre": "mtg_genre", "instrument": "mtg_instrument", "moodtheme": "mtg_moodtheme", "top50tags": "mtg_top50"}
FILES = {"train": "train", "valid": "validation", "test": "test"}
HEADER = ("TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS")
FIRST_ID, ID_STEP = 948, 37
TRACKS_OF_ARTIST, TRACKS_OF_ALBUM = 4, 2  # so that no album has two artists


def plan(seed: int, extent: Extent) -> CorpusPlan:
    """A track is in the files of those sets of which it has a tag; lines end as on Windows."""
    clips: list[PlannedClip] = []
    rows: dict[tuple[str, str], list[tuple[str, ...]]] = {(s, split): [HEADER] for s in SUBSETS for split in SPLITS}
    artist = 0
    for split in SPLITS:
        scores = draw_scores(lambda item: write(seed, item, extent.seconds), split, getattr(extent, split), ALL)
        for i, score in enumerate(scores):
            artist += i % TRACKS_OF_ARTIST == 0
            number = FIRST_ID + ID_STEP * len(clips)
            path = f"{number % 100:02d}/{number}"
            album = artist * TRACKS_OF_ALBUM + i % TRACKS_OF_ARTIST // TRACKS_OF_ALBUM
            row = (f"track_{number:07d}", f"artist_{artist:06d}", f"album_{album:06d}", f"{path}.mp3",
                   f"{score.seconds:.1f}")  # fmt: skip
            for subset, tags in SUBSETS.items():
                true = [tag for tag in tags_of(score, ALL) if tag in tags]
                if true:
                    rows[subset, split].append((*row, *true))
            clips.append(PlannedClip(f"audio-low/{path}.low.mp3", score, RATE_HZ))
    texts = {
        f"data/splits/split-0/autotagging_{subset}-{FILES[split]}.tsv": "".join(
            "\t".join(row) + "\r\n" for row in lines
        )
        for (subset, split), lines in rows.items()
    }
    counts = {TASKS[s]: {split: len(rows[s, split]) - 1 for split in SPLITS} for s in SUBSETS}
    return CorpusPlan(tuple(clips), texts, counts)


def write(seed: int, item: int, seconds: float) -> Score:
    style = list(STYLES)[item % len(STYLES)]
    return first_score("mtg-jamendo", seed, item, seconds, is_clear, style=style)
