"""NSynth: single notes of eleven families; the instruments of valid and test are not in train."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from mir_benchmarks.datasets.dataset import SPLITS
from mir_benchmarks.suite.plans import CorpusPlan, OneFile, bench_seed, corpus_rng
from mir_benchmarks.suite.sizes import Extent
from mir_benchmarks.suite.studio import ROLES, SYNTHETIC, Studio
from mir_benchmarks.synth.banks import BANKS, Stroke, banks_of, play
from mir_benchmarks.synth.drum_sounds import band_noise
from mir_benchmarks.synth.instruments import FAMILIES, instrument
from mir_benchmarks.synth.patch import Patch
from mir_benchmarks.synth.programs import range_of
from mir_benchmarks.synth.seeds import Seed, stream
from mir_benchmarks.synth.tones import tone

RATE_HZ = 16_000
HELD = 0.75  # of the clip; the rest is release and silence
VELOCITIES = (25, 50, 75, 100, 127)
SOURCES = ("acoustic", "electronic", "synthetic")
INSTRUMENTS = {"train": range(64, 82), "valid": range(82, 88), "test": range(88, 96)}
LOWEST_MIDI, MIN_PITCHES, MAX_PITCHES = 38, 12, 48
QUALITIES = ("bright", "dark", "distortion", "fast_decay", "long_release", "multiphonic", "nonlinear_env", "percussive",
             "reverb", "tempo-synced")  # fmt: skip


# Programs of General MIDI by family.
PROGRAMS = {
    "bass": range(32, 40), "brass": range(56, 64), "flute": range(72, 80), "guitar": range(24, 31),
    "keyboard": range(0, 8), "mallet": (8, 9, 10, 11, 12, 13, 15, 108), "organ": range(16, 21), "reed": range(64, 72),
    "string": (40, 41, 42, 43, 44, 45, 48, 49, 50, 51), "synth_lead": range(80, 88), "vocal": (52, 53, 54, 91),
}  # fmt: skip
ELECTRONIC = {4, 5, 16, 17, 18, *range(26, 31), *range(33, 38)}
SYNTHETIC_SOUNDS = {38, 39, 50, 51, 54, 62, 63, *range(80, 96)}
DRIVEN_SOUNDS = {29, 30}
TUNING_CENTS = 8.0


@dataclass(frozen=True)
class NoteClip(OneFile):
    """One note; recordings differ in tone control, distance and noise, as those of many libraries do."""

    path: str
    family: str
    index: int
    midi: int
    velocity: int
    seconds: float
    seed: Seed
    rate_hz: int = RATE_HZ

    def wave(self) -> np.ndarray:
        """Float32 [N], peak below 1."""
        n = round(self.seconds * RATE_HZ)
        patch = instrument(self.family, self.index)
        rng = stream(self.seed, "effects")
        breath = band_noise(rng, 2 * n, patch.noise_hz, RATE_HZ).astype(np.float32)
        note = tone(patch, self.midi, HELD * self.seconds, self.velocity / 127, RATE_HZ, breath)[:n]
        return recorded(note, n, rng)


@dataclass(frozen=True)
class PlayedNote(OneFile):
    """One note of a sampled instrument."""

    path: str
    bank: str
    program: int
    midi: int
    velocity: int
    seconds: float
    seed: Seed
    rate_hz: int = RATE_HZ

    def wave(self) -> np.ndarray:
        """Float32 [N], peak below 1."""
        n = round(self.seconds * RATE_HZ)
        rng = stream(self.seed, "effects")
        stroke = Stroke(0.0, HELD * self.seconds, self.midi, self.velocity)
        cents = float(rng.uniform(-TUNING_CENTS, TUNING_CENTS))
        return recorded(play(self.bank, self.program, [stroke], n, RATE_HZ, cents=cents), n, rng)


def recorded(note_N: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """A note as a microphone gives it, float32 [n], peak below 1: duller or brighter, with noise, at some level."""
    wave_N = np.pad(note_N, (0, n - len(note_N)))
    tilt = rng.uniform(-0.5, 0.5)  # of a filter with one zero
    wave_N[1:] += np.float32(tilt) * wave_N[:-1]
    rms = float(np.sqrt(np.mean(np.square(note_N, dtype=np.float64))))
    wave_N += rng.standard_normal(n, dtype=np.float32) * np.float32(rms * 10 ** (rng.uniform(-60, -30) / 20))
    return wave_N * np.float32(0.8 * rng.uniform(0.3, 1.0) / np.abs(wave_N).max())


def plan(seed: int, extent: Extent, studio: Studio = SYNTHETIC) -> CorpusPlan:
    """Families in turn (no synth_lead outside train, as in the original), pitches in turn."""
    rng = corpus_rng("nsynth", seed)
    new_note = sampled_note if studio.sampled else synthetic_note
    span = min(MAX_PITCHES, max(MIN_PITCHES, extent.train // 4))  # each occurs in train a few times
    notes: list[NoteClip | PlayedNote] = []
    trained, skipped = set[int](), 0
    texts = {}
    for split in SPLITS:
        examples: dict[str, dict[str, Any]] = {}
        families = [family for family in FAMILIES if split == "train" or family != "synth_lead"]
        while len(examples) < extent.counts[split]:
            item, family = len(notes), families[len(examples) % len(families)]
            words = bench_seed("nsynth", seed, item)
            row, note = new_note(words, split, family, LOWEST_MIDI + (item + skipped) % span, extent.seconds, rng)
            # Ranges of sampled instruments move pitches by octaves: those that train lacks are left out.
            untrained = studio.sampled and split != "train" and row["pitch"] not in trained
            if row["note_str"] in examples or untrained:
                skipped += studio.sampled
                continue
            trained |= {row["pitch"]} if split == "train" else set()
            examples[row["note_str"]] = {"note": item, **row}
            notes.append(note)
        texts[f"nsynth-{split}/examples.json"] = json.dumps(examples, indent=1)
    return CorpusPlan(tuple(notes), texts, {"nsynth_instrument": extent.counts, "nsynth_pitch": extent.counts})


def synthetic_note(
    words: Seed, split: str, family: str, midi: int, seconds: float, rng: np.random.Generator
) -> tuple[dict[str, Any], NoteClip]:
    """A note of a synthetic instrument of the split, and its row."""
    index = int(rng.choice(INSTRUMENTS[split]))
    source = "synthetic" if family == "synth_lead" else SOURCES[index % len(SOURCES)]
    row = example(family, index, midi, source, qualities_of(instrument(family, index)), rng)
    path = f"nsynth-{split}/audio/{row['note_str']}.wav"
    return row, NoteClip(path, family, index, midi, row["velocity"], seconds, words)


def example(
    family: str, index: int, midi: int, source: str, qualities: set[str], rng: np.random.Generator
) -> dict[str, Any]:
    """A row of examples.json; `instrument` is 1000 times the family plus the index of the instrument."""
    velocity, i_family = int(rng.choice(VELOCITIES)), list(FAMILIES).index(family)
    name = f"{family}_{source}_{index:03d}"
    return {
        "note_str": f"{name}-{midi:03d}-{velocity:03d}", "instrument": 1000 * i_family + index,
        "instrument_str": name, "pitch": midi, "velocity": velocity, "sample_rate": RATE_HZ,
        "qualities": [int(quality in qualities) for quality in QUALITIES],
        "qualities_str": [quality for quality in QUALITIES if quality in qualities],
        "instrument_family": i_family, "instrument_family_str": family,
        "instrument_source": SOURCES.index(source), "instrument_source_str": source,
    }  # fmt: skip


def sampled_note(
    words: Seed, split: str, family: str, midi: int, seconds: float, rng: np.random.Generator
) -> tuple[dict[str, Any], PlayedNote]:
    """A note of a sampled instrument of the split, and its row. Valid and test share a bank, but no program."""
    programs = [*PROGRAMS[family]][{"train": slice(None), "valid": slice(0, None, 2), "test": slice(1, None, 2)}[split]]
    octaves = sorted((midi + octave for octave in range(-36, 37, 12)), key=lambda pitch: abs(pitch - midi))
    midi = next(pitch for pitch in octaves if any(in_range(pitch, program) for program in programs))
    able = [program for program in programs if in_range(midi, program)]
    program, bank = int(rng.choice(able)), str(rng.choice(banks_of(ROLES[split])))
    kinds = {"electronic": ELECTRONIC, "synthetic": SYNTHETIC_SOUNDS}
    source = next((name for name, programs in kinds.items() if program in programs), "acoustic")
    qualities = {"distortion"} if program in DRIVEN_SOUNDS else {"percussive"} if family == "mallet" else set()
    row = example(family, 128 * list(BANKS).index(bank) + program, midi, source, qualities, rng)
    path = f"nsynth-{split}/audio/{row['note_str']}.wav"
    return row, PlayedNote(path, bank, program, midi, row["velocity"], seconds, words)


def in_range(midi: int, program: int) -> bool:
    low, high = range_of(program)
    return low <= midi <= high


def qualities_of(patch: Patch) -> set[str]:
    """Those that the patch decides."""
    facts = {"bright"} if patch.tilt_db < 5 else {"dark"} if patch.tilt_db > 10 else set()
    facts |= {"percussive", "fast_decay"} if patch.sustain < 0.1 and patch.decay_s < 0.8 else set()
    facts |= {"multiphonic"} if patch.detune_cents > 8 else set()
    return facts | ({"long_release"} if patch.release_s > 0.15 else set())
