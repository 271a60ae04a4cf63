"""GiantSteps key: two repositories of dance music, the key given by harmony, the split by the artist."""

import numpy as np

from mir_benchmarks.datasets.giantsteps import FLATS, hashed_split
from mir_benchmarks.suite.names import artist_for, artists, title
from mir_benchmarks.suite.plans import ATTEMPTS, CorpusPlan, PlannedClip, bench_seed, corpus_rng, first_score, table
from mir_benchmarks.suite.sizes import Extent
from mir_benchmarks.suite.studio import SYNTHETIC, Studio
from mir_benchmarks.synth.arrange import arrange
from mir_benchmarks.synth.pieces import pieces_of
from mir_benchmarks.synth.score import Score
from mir_benchmarks.synth.seeds import stream

RATE_HZ = 22_050
TUNES = ("ryansMammoth",)  # real ones of the sampled suite
STYLES = ("disco", "hiphop", "pop", "reggae")
TONIC_SHARE = 0.6  # of the longest chord
TEST_MAJOR = 7  # every seventh: the real test set is 85 % minor
FIRST_ID = 10_001
KEY, MTG = "giantsteps-key-dataset", "giantsteps-mtg-key-dataset"
HEADER = ("ID", "ARTIST", "SONG TITLE", "MIX", "LABEL", "BP GENRE", "BP BPM", "BP KEY")
SHARPS = {flat: sharp for sharp, flat in FLATS.items()}  # as the MTG set spells them


def plan(seed: int, extent: Extent, studio: Studio = SYNTHETIC) -> CorpusPlan:
    """Train and valid in all keys in turn, and test mostly minor; two rows no reader may take."""
    rng = corpus_rng("giantsteps", seed)
    names = artists(rng)
    clips: list[PlannedClip] = []
    texts = {}
    keys: list[tuple[object, ...]] = [("ID", "MANUAL KEY", "C")]
    metadata: list[tuple[object, ...]] = [HEADER]
    for i, split in enumerate(extent.splits):
        number = FIRST_ID + i
        score, programs = song(seed, i, split, extent.seconds, rng, studio)
        path = f"{KEY if split == 'test' else MTG}/audio/{number}.LOFI.mp3"
        clips.append(studio.clip(path, score, RATE_HZ, split, programs))
        if split == "test":
            texts[f"{KEY}/annotations/key/{number}.LOFI.key"] = score.key + "\n"
        else:
            tonic, mode = score.key.split()
            keys.append((number, f"{SHARPS.get(tonic, tonic)} {mode}", 2))
            artist = artist_for(names, split, hashed_split)
            metadata.append((number, artist, title(rng), "Original Mix", "Synth", score.style, round(score.tempo_bpm),
                             score.key))  # fmt: skip
    for number, key, confidence in ((FIRST_ID - 1, "C major", 1), (FIRST_ID - 2, "C major / A minor", 2)):
        keys.append((number, key, confidence))
        metadata.append((number, next(names), title(rng), "Original Mix", "Decoy", "House", 120, key))
    texts[f"{MTG}/annotations/annotations.txt"] = table(keys)
    texts[f"{MTG}/annotations/beatport_metadata.txt"] = table(metadata)
    return CorpusPlan(tuple(clips), texts, {"giantsteps_key": extent.counts})


def song(
    seed: int, item: int, split: str, seconds: float, rng: np.random.Generator, studio: Studio
) -> tuple[Score, tuple[int, ...] | None]:
    """A score in the key that the split asks for, and the programs that play it if it is a real tune."""
    tonic, mode = item % 12, ("minor", "major")[item // 12 % 2]
    if split == "test":
        tonic, mode = int(rng.integers(12)), "major" if item % TEST_MAJOR == 0 else "minor"
    style = STYLES[int(rng.integers(len(STYLES)))]
    if studio.sampled and item % 2:
        return tune_in(seed, item, split, seconds, tonic, mode)
    return first_score("giantsteps", seed, item, seconds, says_its_key, style=style, tonic=tonic, mode=mode), None


def tune_in(seed: int, item: int, split: str, seconds: float, tonic: int, mode: str) -> tuple[Score, tuple[int, ...]]:
    """A real tune of the split, with bass and chords, transposed to a key that an excerpt of it shows."""
    tunes = [piece for piece in pieces_of(split, True, TUNES) if piece.key_is_sure and piece.mode == mode]
    for attempt in range(ATTEMPTS):
        words = bench_seed("giantsteps", seed, item, attempt)
        piece = tunes[int(stream(words, "plan").integers(len(tunes)))]
        arranged = arrange(piece, words, seconds, "backed", tonic=tonic)
        if says_its_key(arranged.score):
            return arranged.score, arranged.programs
    raise ValueError(f"giantsteps item {item}: no tune of {split} shows that it is in {mode}")


def says_its_key(score: Score) -> bool:
    """Whether the tonic chord sounds about as long as any other, and some other sounds."""
    seconds: dict[tuple[int, bool], float] = {}
    for chord in score.chords:
        minor = chord.quality.startswith(("m", "dim")) and not chord.quality.startswith("maj")
        seconds[chord.root, minor] = seconds.get((chord.root, minor), 0.0) + chord.duration_s
    tonic_s = seconds.get((score.tonic, score.mode == "minor"), 0.0)
    return len(seconds) > 1 and tonic_s >= TONIC_SHARE * max(seconds.values())
