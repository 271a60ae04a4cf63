"""VocalSet: twenty singers, alone, in ten techniques and seven more, on scales, arpeggios and long tones."""

from dataclasses import dataclass, field

import numpy as np

from mir_benchmarks.datasets.dataset import SPLITS
from mir_benchmarks.datasets.splits import vocalset_technique_splits
from mir_benchmarks.datasets.vocalset import singer_split
from mir_benchmarks.suite.plans import CorpusPlan, OneFile, bench_seed, corpus_rng
from mir_benchmarks.suite.sizes import Extent
from mir_benchmarks.suite.studio import SYNTHETIC, Studio
from mir_benchmarks.synth.render import mix, render
from mir_benchmarks.synth.score import Note, Part, Score
from mir_benchmarks.synth.seeds import stream
from mir_benchmarks.synth.voice import TECHNIQUES, VOWELS

RATE_HZ = 44_100
# f1 to f9 and m1 to m11: voices that sing nowhere in training; odd ones are high.
SINGERS = {f"f{i}": 19 + 2 * i for i in range(1, 10)} | {f"m{i}": 18 + 2 * i for i in range(1, 12)}
# The others of the 17, which no task but the singers' asks for: sung as, seconds of a note, velocity.
OTHERS = {"fast_forte": ("vibrato", 0.25, 1.0), "fast_piano": ("straight", 0.25, 0.4), "forte": ("belt", 0.5, 1.0),
          "messa": ("vibrato", 1.6, 0.8), "pp": ("breathy", 0.5, 0.35), "slow_forte": ("vibrato", 0.8, 1.0),
          "slow_piano": ("straight", 0.8, 0.4)}  # fmt: skip
CONTEXTS = {"arpeggios": (0, 4, 7, 12, 7, 4), "scales": (0, 2, 4, 5, 7, 9, 11, 12, 11, 9, 7, 5, 4, 2),
            "long_tones": (0,)}  # fmt: skip
CENTRES = {"f": (58, 66), "m": (46, 54)}
KEYS = {"c": 0, "f": 5}
OTHER_EVERY = 20
SILENCE_S = (0.1, 0.5)


@dataclass(frozen=True)
class SungClip(OneFile):
    """A singer in a quiet room, some moments after the recorder was started."""

    path: str
    score: Score = field(repr=False)
    silence_s: float
    rate_hz: int = RATE_HZ

    @property
    def seconds(self) -> float:
        return self.silence_s + self.score.seconds

    def wave(self) -> np.ndarray:
        # One room and one microphone for all: only singers differ.
        sung_N = mix(render(self.score, RATE_HZ), self.score, RATE_HZ, room=False, eq=False, noise=False)
        wave_N = np.pad(sung_N, (round(self.silence_s * RATE_HZ), 0))
        hiss_N = stream(self.score.seed, "hiss").standard_normal(len(wave_N), dtype=np.float32)
        return wave_N + np.float32(1e-4) * hiss_N


def plan(seed: int, extent: Extent, studio: Studio = SYNTHETIC) -> CorpusPlan:
    """Each singer has recordings in every split of the singer task; all techniques occur in every split of theirs.

    No sound font sings in techniques: it is our synthetic voice in every studio.
    """
    rng = corpus_rng("vocalset", seed)
    clips: list[SungClip] = []
    technique_counts = dict.fromkeys(SPLITS, 0)
    for name, voice in SINGERS.items():
        of = vocalset_technique_splits()[name]
        for split in extent.splits:
            item = len(clips)
            technique = TECHNIQUES[technique_counts[of] % len(TECHNIQUES)]
            if item % OTHER_EVERY == OTHER_EVERY - 1:
                technique = list(OTHERS)[int(rng.integers(len(OTHERS)))]
            else:
                technique_counts[of] += 1
            context, key, vowel, file_name = recording(name, technique, split, rng, clips)
            folder = f"{'female' if name[0] == 'f' else 'male'}{name[1:]}"
            tonic = float(rng.integers(*CENTRES[name[0]])) + KEYS[key]
            score = performance(("vocalset", seed, item), voice, technique, context, vowel, int(tonic), extent.seconds)
            path = f"FULL/{folder}/{context}/{technique}/{file_name}"
            clips.append(SungClip(path, score, round(float(rng.uniform(*SILENCE_S)), 2)))
    return CorpusPlan(tuple(clips), {}, {"vocalset_singer": extent.counts, "vocalset_technique": technique_counts})


def recording(
    singer: str, technique: str, split: str, rng: np.random.Generator, clips: list[SungClip]
) -> tuple[str, str, str, str]:
    """Context, key, vowel and file name, new to the corpus and of this split in the singer task."""
    taken = {clip.path.rpartition("/")[2] for clip in clips}
    places = [(context, key, vowel) for context in CONTEXTS for key in KEYS for vowel in VOWELS]
    for i in rng.permutation(len(places)):
        context, key, vowel = places[i]
        name = f"{singer}_{context}_{technique}_{key}_{vowel}.wav"
        if name not in taken and singer_split(name.removesuffix(".wav")) == split:
            return context, key, vowel, name
    raise ValueError(f"no name is left for {singer}, {technique} in {split}")


def performance(
    place: tuple[str, int, int], voice: int, technique: str, context: str, vowel: str, tonic: int, seconds: float
) -> Score:
    """A score for one voice; the pattern of the context is repeated to the end."""
    words = bench_seed(*place)
    rng = stream(words, "playing")
    sung_as, note_s, velocity = OTHERS.get(technique, (technique, float(rng.uniform(0.35, 0.7)), 0.85))
    if context == "long_tones":
        note_s = seconds - 0.3
    notes: list[Note] = []
    onset_s = 0.0
    while onset_s < seconds - 0.2:
        interval = CONTEXTS[context][len(notes) % len(CONTEXTS[context])]
        duration_s = min(note_s, seconds - 0.15 - onset_s)
        loud = velocity * float(rng.uniform(0.85, 1.0))
        notes.append(Note(0, onset_s, 0.95 * duration_s, tonic + interval, loud, vowel))
        onset_s += note_s
    part = Part("vocals", "vocals", "voice", voice, 0.0, 0.0, sung_as)
    return Score(words, seconds, "pop", tonic % 12, "major", 60 / note_s, (4, 4), 0.0, ("acoustic", 64), (part,), (),
                 (), (), tuple(notes), ())  # fmt: skip
