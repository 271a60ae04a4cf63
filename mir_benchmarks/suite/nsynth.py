"""NSynth: single notes of eleven families; the instruments of valid and test are not in train."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from mir_benchmarks.datasets.dataset import SPLITS
from mir_benchmarks.suite.plans import CorpusPlan, OneFile, bench_seed, corpus_rng
from mir_benchmarks.suite.sizes import Extent
from mir_benchmarks.synth.drums import band_noise
from mir_benchmarks.synth.instruments import FAMILIES, instrument
from mir_benchmarks.synth.patch import Patch
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
        wave_N = np.pad(note, (0, n - len(note)))
        tilt = rng.uniform(-0.5, 0.5)  # a filter with one zero: duller or brighter
        wave_N[1:] += np.float32(tilt) * wave_N[:-1]
        rms = float(np.sqrt(np.mean(np.square(note, dtype=np.float64))))
        wave_N += rng.standard_normal(n, dtype=np.float32) * np.float32(rms * 10 ** (rng.uniform(-60, -30) / 20))
        return wave_N * np.float32(0.8 * rng.uniform(0.3, 1.0) / np.abs(wave_N).max())


def plan(seed: int, extent: Extent) -> CorpusPlan:
    """Families in turn (no synth_lead outside train, as in the original), pitches in turn."""
    rng = corpus_rng("nsynth", seed)
    span = min(MAX_PITCHES, max(MIN_PITCHES, extent.train // 4))  # each occurs in train a few times
    notes: list[NoteClip] = []
    texts = {}
    for split in SPLITS:
        examples: dict[str, dict[str, Any]] = {}
        families = [family for family in FAMILIES if split == "train" or family != "synth_lead"]
        while len(examples) < extent.counts[split]:
            item, family = len(notes), families[len(examples) % len(families)]
            row = example(item, family, int(rng.choice(INSTRUMENTS[split])), LOWEST_MIDI + item % span, rng)
            if row["note_str"] in examples:
                continue
            examples[row["note_str"]] = row
            notes.append(NoteClip(
                f"nsynth-{split}/audio/{row['note_str']}.wav", family, row["instrument"] % 1000, row["pitch"],
                row["velocity"], extent.seconds, bench_seed("nsynth", seed, item),
            ))  # fmt: skip
        texts[f"nsynth-{split}/examples.json"] = json.dumps(examples, indent=1)
    return CorpusPlan(tuple(notes), texts, {"nsynth_instrument": extent.counts, "nsynth_pitch": extent.counts})


def example(item: int, family: str, index: int, midi: int, rng: np.random.Generator) -> dict[str, Any]:
    """A row of examples.json; `instrument` is 1000 times the family plus the index of the generator."""
    velocity, i_family = int(rng.choice(VELOCITIES)), list(FAMILIES).index(family)
    source = 2 if family == "synth_lead" else index % len(SOURCES)
    qualities = qualities_of(instrument(family, index))
    name = f"{family}_{SOURCES[source]}_{index:03d}"
    return {
        "note": item, "note_str": f"{name}-{midi:03d}-{velocity:03d}", "instrument": 1000 * i_family + index,
        "instrument_str": name, "pitch": midi, "velocity": velocity, "sample_rate": RATE_HZ,
        "qualities": [int(quality in qualities) for quality in QUALITIES],
        "qualities_str": [quality for quality in QUALITIES if quality in qualities],
        "instrument_family": i_family, "instrument_family_str": family,
        "instrument_source": source, "instrument_source_str": SOURCES[source],
    }  # fmt: skip


def qualities_of(patch: Patch) -> set[str]:
    """Those that the patch decides."""
    facts = {"bright"} if patch.tilt_db < 5 else {"dark"} if patch.tilt_db > 10 else set()
    facts |= {"percussive", "fast_decay"} if patch.sustain < 0.1 and patch.decay_s < 0.8 else set()
    facts |= {"multiphonic"} if patch.detune_cents > 8 else set()
    return facts | ({"long_release"} if patch.release_s > 0.15 else set())
