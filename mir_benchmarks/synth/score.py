"""A score: all facts from which labels are read, with times in seconds from the clip's first sample."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from mir_benchmarks.synth.seeds import Seed

STEMS = ("vocals", "drums", "bass", "other")
PITCH_CLASSES = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")


@dataclass(frozen=True)
class Chord:
    onset_s: float
    duration_s: float
    root: int  # pitch class, C = 0
    quality: str  # a key of theory.QUALITIES
    numeral: str

    @property
    def name(self) -> str:
        return PITCH_CLASSES[self.root] + self.quality


@dataclass(frozen=True)
class Section:
    onset_s: float
    duration_s: float
    name: str
    energy: float


@dataclass(frozen=True)
class Part:
    """One player: an instrument (`family`, `index`), or a singer with a technique (`family` "voice")."""

    role: str
    stem: str
    family: str
    index: int
    gain_db: float
    drive: float = 0.0
    technique: str = ""


@dataclass(frozen=True)
class Note:
    part: int  # index into Score.parts
    onset_s: float
    duration_s: float
    midi: int
    velocity: float
    vowel: str = ""


@dataclass(frozen=True)
class Hit:
    onset_s: float
    piece: str
    velocity: float


@dataclass(frozen=True)
class Score:
    """A clip on paper. `beats` holds (time, position in the bar from 1)."""

    seed: Seed
    seconds: float
    style: str
    tonic: int
    mode: str
    tempo_bpm: float
    metre: tuple[int, int]
    swing: float
    kit: tuple[str, int]
    parts: tuple[Part, ...]
    sections: tuple[Section, ...]
    chords: tuple[Chord, ...]
    beats: tuple[tuple[float, int], ...]
    notes: tuple[Note, ...]
    hits: tuple[Hit, ...]

    @property
    def key(self) -> str:
        """As mir_eval spells it: "Eb minor"."""
        return f"{PITCH_CLASSES[self.tonic]} {self.mode}"

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, ready for JSON."""
        return {**dataclasses.asdict(self), "key": self.key}
