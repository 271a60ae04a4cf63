"""emoMusic: arousal and valence that follow from tempo, density, drive, mode and register, and raters who differ."""

import math
from collections.abc import Iterator

import numpy as np

from mir_benchmarks.datasets.emomusic import hashed_split
from mir_benchmarks.suite.facts import sung_notes
from mir_benchmarks.suite.names import artist_for, artists, title
from mir_benchmarks.suite.plans import CorpusPlan, PlannedClip, corpus_rng, first_score, table
from mir_benchmarks.suite.sizes import Extent
from mir_benchmarks.suite.studio import SYNTHETIC, Studio
from mir_benchmarks.synth.score import Score
from mir_benchmarks.synth.styles import STYLES

RATE_HZ = 44_100
TEMPI_BPM = (60.0, 168.0)
MEANS = (4.76, 4.97)  # of arousal and valence
DEVIATION, DISAGREEMENT = 1.25, 0.5  # of the composed values, and of the raters: R2 can reach 0.86
SONG_COLUMNS = ("song_id", "file_name", "Artist", "Song title", "start of the segment (min.sec)",
                "end of the segment (min.sec)", "Genre", "Mediaeval 2013 set")  # fmt: skip
VALUE_COLUMNS = ("song_id", "mean_arousal", "std_arousal", "mean_valence", "std_valence")


def plan(seed: int, extent: Extent, studio: Studio = SYNTHETIC) -> CorpusPlan:
    """Development songs are parted by artist, the evaluation set is marked."""
    rng = corpus_rng("emomusic", seed)
    names = artists(rng)
    clips: list[PlannedClip] = []
    songs: list[tuple[object, ...]] = [SONG_COLUMNS]
    values: list[tuple[object, ...]] = [VALUE_COLUMNS]
    for i, split in enumerate(extent.splits):
        tempo_bpm = round(float(np.exp(rng.uniform(*np.log(TEMPI_BPM)))), 1)
        mode, style = ("major", "minor")[int(rng.integers(2))], list(STYLES)[int(rng.integers(len(STYLES)))]
        score = first_score("emomusic", seed, i, extent.seconds, lambda score: len(sung_notes(score)) >= 4, style=style,
                            mode=mode, tempo_bpm=tempo_bpm)  # fmt: skip
        number, part = i + 2, "evaluation" if split == "test" else "development"
        artist = next(names) if split == "test" else artist_for(names, split, hashed_split)
        clips.append(studio.clip(f"clips_45seconds/{number}.mp3", score, RATE_HZ, split))
        # Cells of the real file hold stray tabs and blanks.
        songs.append((number, f"{number}.mp3", f"{artist}\t", f" {title(rng)}", "0.15", "1", score.style, f"{part} "))
        values.append((number, *rated(clips[-1].score, rng)))
    texts = {"annotations/songs_info.csv": table(songs, separator=","),
             "annotations/static_annotations.csv": table(values, separator=",")}  # fmt: skip
    return CorpusPlan(tuple(clips), texts, {"emomusic": extent.counts})


def emotion(score: Score) -> tuple[float, float]:
    """Arousal and valence, about 0 with deviation 1, before anybody rates them.

    Level is not used, because models that normalise their input discard it.
    """
    tempo = math.log2(score.tempo_bpm / 100) / 0.43
    density = math.log2((len(score.notes) + len(score.hits)) / score.seconds / 17) / 0.7
    drive = max(part.drive for part in score.parts) / 0.4 - 0.6
    tune = [note.midi for note in sung_notes(score)]
    register = (sum(tune) / len(tune) - 69) / 6
    arousal = (0.5 * tempo + 0.6 * density + 0.35 * drive) / 1.1
    valence = (0.5 if score.mode == "major" else -0.5) + 0.5 * tempo + 0.55 * register - 0.35 * drive
    return arousal, valence


def rated(score: Score, rng: np.random.Generator) -> Iterator[str]:
    """Mean and deviation of the raters, for arousal and for valence, between 1 and 9."""
    for mean, value in zip(MEANS, emotion(score), strict=True):
        rating = float(np.clip(mean + DEVIATION * value + DISAGREEMENT * rng.standard_normal(), 1, 9))
        yield f"{rating:.4f}"
        yield f"{rng.uniform(0.5, 1.6):.5f}"
