"""GiantSteps key: two repositories of dance music, the key given by harmony, the split by the artist."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mir_benchmarks.suite.names import artist_for, artists, giantsteps_split, title
from mir_benchmarks.suite.plans import CorpusPlan, PlannedClip, corpus_rng, first_score, table
from mir_benchmarks.suite.sizes import Extent
from mir_benchmarks.synth.score import PITCH_CLASSES, Score

RATE_HZ = 22_050
STYLES = ("disco", "hiphop", "pop", "reggae")
TONIC_SHARE = 0.6  # of the longest chord
TEST_MAJOR = 7  # every seventh: the real test set is 85 % minor
FIRST_ID = 10_001
KEY, MTG = "giantsteps-key-dataset", "giantsteps-mtg-key-dataset"
HEADER = ("ID", "ARTIST", "SONG TITLE", "MIX", "LABEL", "BP GENRE", "BP BPM", "BP KEY")
SHARPS = {"Db": "C#", "Eb": "D#", "Gb": "F#", "Ab": "G#", "Bb": "A#"}  # as the MTG set spells them


def plan(seed: int, extent: Extent) -> CorpusPlan:
    """Train and valid in all keys in turn, and test mostly minor; two rows no reader may take."""
    rng = corpus_rng("giantsteps", seed)
    names = artists(rng)
    clips, texts = [], {}
    keys: list[tuple[object, ...]] = [("ID", "MANUAL KEY", "C")]
    metadata: list[tuple[object, ...]] = [HEADER]
    for i, split in enumerate(extent.splits):
        number = FIRST_ID + i
        score = song(seed, i, split, extent.seconds, rng)
        clips.append(PlannedClip(f"{KEY if split == 'test' else MTG}/audio/{number}.LOFI.mp3", score, RATE_HZ))
        if split == "test":
            texts[f"{KEY}/annotations/key/{number}.LOFI.key"] = score.key + "\n"
        else:
            keys.append((number, sharp(score.key), 2))
            metadata.append(credits_of(number, score, split, names, rng))
    for number, key, confidence in ((FIRST_ID - 1, "C major", 1), (FIRST_ID - 2, "C major / A minor", 2)):
        keys.append((number, key, confidence))
        metadata.append((number, next(names), title(rng), "Original Mix", "Decoy", "House", 120, key))
    texts[f"{MTG}/annotations/annotations.txt"] = table(keys)
    texts[f"{MTG}/annotations/beatport_metadata.txt"] = table(metadata)
    counts = {"train": extent.train, "valid": extent.valid, "test": extent.test}
    return CorpusPlan(tuple(clips), texts, {"giantsteps_key": counts})


def song(seed: int, item: int, split: str, seconds: float, rng: np.random.Generator) -> Score:
    tonic, mode = item % 12, ("minor", "major")[item // 12 % 2]
    if split == "test":
        tonic, mode = int(rng.integers(12)), "major" if item % TEST_MAJOR == 0 else "minor"
    style = STYLES[int(rng.integers(len(STYLES)))]
    return first_score("giantsteps", seed, item, seconds, says_its_key, style=style, tonic=tonic, mode=mode)


def says_its_key(score: Score) -> bool:
    """Whether the tonic chord sounds about as long as any other, and some other sounds."""
    seconds: dict[tuple[int, bool], float] = {}
    for chord in score.chords:
        minor = chord.quality.startswith(("m", "dim")) and not chord.quality.startswith("maj")
        seconds[chord.root, minor] = seconds.get((chord.root, minor), 0.0) + chord.duration_s
    tonic_s = seconds.get((score.tonic, score.mode == "minor"), 0.0)
    return len(seconds) > 1 and tonic_s >= TONIC_SHARE * max(seconds.values())


def sharp(key: str) -> str:
    """The MTG set's spelling.

    >>> sharp("Eb minor"), sharp("D major")
    ('D# minor', 'D major')
    """
    tonic, mode = key.split()
    assert tonic in PITCH_CLASSES
    return f"{SHARPS.get(tonic, tonic)} {mode}"


def credits_of(
    number: int, score: Score, split: str, names: Iterator[str], rng: np.random.Generator
) -> tuple[object, ...]:
    """A row of the shop's metadata; the name of the artist decides the split."""
    artist = artist_for(names, split, giantsteps_split)
    return number, artist, title(rng), "Original Mix", "Synth", score.style, round(score.tempo_bpm), score.key
