"""MTG-Jamendo: tracks with tags of genre, instruments and mood."""

from mir_benchmarks.datasets.dataset import SPLITS
from mir_benchmarks.datasets.jamendo import COLUMNS, FILES
from mir_benchmarks.suite.facts import draw_scores, tags_of
from mir_benchmarks.suite.plans import CorpusPlan, PlannedClip, table
from mir_benchmarks.suite.sizes import Extent
from mir_benchmarks.suite.studio import SYNTHETIC, Studio
from mir_benchmarks.suite.tags import GENRE, INSTRUMENT, MOOD, TOP50

RATE_HZ = 24_000
ALL = {**GENRE, **INSTRUMENT, **MOOD}
SUBSETS = {"genre": tuple(GENRE), "instrument": tuple(INSTRUMENT), "moodtheme": tuple(MOOD), "top50tags": TOP50}
TASKS = {"genre": "mtg_genre", "instrument": "mtg_instrument", "moodtheme": "mtg_moodtheme", "top50tags": "mtg_top50"}
FIRST_ID, ID_STEP = 948, 37
TRACKS_OF_ARTIST, TRACKS_OF_ALBUM = 4, 2  # so that no album has two artists


def plan(seed: int, extent: Extent, studio: Studio = SYNTHETIC) -> CorpusPlan:
    """A track is in the files of those sets of which it has a tag; lines end as on Windows."""
    clips: list[PlannedClip] = []
    rows: dict[tuple[str, str], list[tuple[str, ...]]] = {(s, split): [COLUMNS] for s in SUBSETS for split in SPLITS}
    artist = 0
    for split in SPLITS:
        for i, score in enumerate(draw_scores("mtg-jamendo", seed, split, extent, ALL)):
            artist += i % TRACKS_OF_ARTIST == 0
            number = FIRST_ID + ID_STEP * len(clips)
            path = f"{number % 100:02d}/{number}"
            album = artist * TRACKS_OF_ALBUM + i % TRACKS_OF_ARTIST // TRACKS_OF_ALBUM
            row = (f"track_{number:07d}", f"artist_{artist:06d}", f"album_{album:06d}", f"{path}.mp3",
                   f"{score.seconds:.1f}")  # fmt: skip
            for subset, tags in SUBSETS.items():
                if true := [tag for tag in tags_of(score, ALL) if tag in tags]:
                    rows[subset, split].append((*row, *true))
            clips.append(studio.clip(f"audio-low/{path}.low.mp3", score, RATE_HZ, split))
    texts = {f"data/splits/split-0/autotagging_{subset}-{FILES[split]}.tsv": table(lines, newline="\r\n")
             for (subset, split), lines in rows.items()}  # fmt: skip
    counts = {TASKS[s]: {split: len(rows[s, split]) - 1 for split in SPLITS} for s in SUBSETS}
    return CorpusPlan(tuple(clips), texts, counts)
