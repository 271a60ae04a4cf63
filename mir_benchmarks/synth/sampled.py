"""Sampled music as a corpus: scores of our composer and of real composers, played by sound fonts."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from mert.weights.licences import OWN
from mir_benchmarks.synth.arrange import arrange
from mir_benchmarks.synth.band import Band, hire, render_band
from mir_benchmarks.synth.banks import BANKS, PUBLIC_DOMAIN, banks_of, require
from mir_benchmarks.synth.compose import compose
from mir_benchmarks.synth.corpus import INSTRUMENTS, SINGERS
from mir_benchmarks.synth.effects import drawn_finish
from mir_benchmarks.synth.pieces import GROUPS, pieces_of
from mir_benchmarks.synth.programs import MELODIC, range_of
from mir_benchmarks.synth.render import mix, render
from mir_benchmarks.synth.score import Note, Score
from mir_benchmarks.synth.seeds import PURPOSES, Seed, stream

# What is in a clip, and how often.
KINDS = {
    "band": 0.18, "few": 0.12, "alone": 0.08,  # all parts of a composed score, some, one
    "ensemble": 0.16, "backed": 0.11, "solo": 0.11,  # real music: all parts, a tune with bass and chords, a part
    "notes": 0.08,  # one to three long notes of any instrument, as libraries of samples have them
    "synthetic": 0.16,  # a composed score that our own instruments play and our voices sing
}  # fmt: skip
LONG_NOTE_S = (0.4, 3.0)
MOST_BORROWED = 12  # semitones
SOLO_OF_TUNE = 0.7  # of the solos; the others are parts of polyphony
BANK_ROLES = {"train": "train", "valid": "train", "test": "test"}
LEAST = 0.3  # share of the clip for which a part must sound to be chosen


@dataclass(frozen=True)
class SampledClip:
    """A clip on paper: kind, score, band (None: synthetic instruments), and the piece it is from, if it is real."""

    kind: str
    score: Score
    band: Band | None
    piece: str = ""

    def as_dict(self) -> dict[str, Any]:
        """A row of a manifest, with the columns `licence` and `sources` of what sounds."""
        kit = (self.band.kit,) if self.band and self.score.hits else ()
        players = (*self.band.instruments, *kit) if self.band else (None,)
        banks = [BANKS[name] for name in sorted({one.bank for one in players if one})]
        sources = [f"{bank.title} ({bank.package}: {bank.licence})" for bank in banks]
        licences = [bank.licence for bank in banks]
        if None in players:
            sources.append(f"synthetic {'voice' if self.band else 'instruments'} (mert-hub: {OWN})")
            licences.append(OWN)
        if self.piece:
            sources.append(f"music21 corpus {self.piece} ({PUBLIC_DOMAIN})")
        licence = next((licence for licence in licences if licence != PUBLIC_DOMAIN), PUBLIC_DOMAIN)
        about = {"kind": self.kind, "piece": self.piece, "licence": licence, "sources": sources}
        return {**about, "band": self.band.as_dict() if self.band else None, **self.score.as_dict()}


@dataclass(frozen=True)
class SampledCorpus:
    """`n_items` clips of `seconds` at `rate_hz`. Purposes "train", "valid" and "test" share no score.

    "test" shares no sound font with the others, either. `groups` names the groups of real scores, with commas, and
    `kinds` the kinds of clips, equally often (empty: all of KINDS). `borrowed` is the share of the instruments that
    sound from samples of other keys. MertError if fluidsynth, a bank or music21 is missing.
    """

    seed: int = 0
    n_items: int = 36_000
    seconds: float = 10.0
    rate_hz: int = 24_000
    purpose: str = "train"
    groups: str = ",".join(GROUPS)
    kinds: str = ""
    borrowed: float = 0.0

    def __post_init__(self) -> None:
        for name in ("purpose", "groups", "kinds"):
            if not isinstance(value := getattr(self, name), str):
                raise TypeError(f"{name} is text, names with commas between them, not {value!r}")
        if self.purpose not in BANK_ROLES:
            raise ValueError(f"purpose is one of {', '.join(BANK_ROLES)}, not {self.purpose!r}")
        if not (0 <= self.seed < 2**32 and 0 < self.n_items <= 2**32 and self.rate_hz >= 8_000 and self.seconds > 0):
            raise ValueError(
                f"seed and n_items lie in [0, 2**32], rate_hz is at least 8000, seconds positive: got {self}"
            )
        if unknown := set(self._kinds) - set(KINDS):
            raise ValueError(f"kinds are {', '.join(KINDS)}, not {', '.join(sorted(unknown))}")
        if not 0 <= self.borrowed <= 1:
            raise ValueError(f"borrowed is a share from 0 to 1, not {self.borrowed}")
        require(*banks_of(BANK_ROLES[self.purpose]))
        pieces_of(self.purpose, True, self._groups)  # read scores now rather than in each worker

    def __len__(self) -> int:
        return self.n_items

    @property
    def licences(self) -> tuple[str, ...]:
        """Those of the banks, the scores and the synthetic voices."""
        banks = (BANKS[name].licence for name in banks_of(BANK_ROLES[self.purpose]))
        return tuple(sorted({*banks, PUBLIC_DOMAIN, OWN}))

    @property
    def _groups(self) -> tuple[str, ...]:
        return tuple(self.groups.split(","))

    @property
    def _kinds(self) -> dict[str, float]:
        """How often each kind is drawn."""
        named = set(self.kinds.split(",")) if self.kinds else set()
        return {kind: 1 / len(named) for kind in sorted(named)} or KINDS

    def clip(self, index: int) -> SampledClip:
        """Clip `index` on paper."""
        if not 0 <= index < self.n_items:
            raise IndexError(f"clip {index} of {self.n_items}")
        seed = (PURPOSES[f"sampled {self.purpose}"], self.seed, int(index))
        clip = self._drawn(seed)
        if clip.band is None or not self.borrowed:
            return clip
        return dataclasses.replace(clip, band=borrowing(clip.band, self.borrowed, stream(seed, "borrowed")))

    def _drawn(self, seed: Seed) -> SampledClip:
        """The clip of a seed, each instrument with samples of its own."""
        rng = stream(seed, "plan", 1)
        kind = str(rng.choice(list(self._kinds), p=list(self._kinds.values())))
        banks = banks_of(BANK_ROLES[self.purpose])
        if kind == "notes":
            score, program = single_notes(self._composed(seed, "alone", rng), self.seconds, rng)
            return SampledClip(kind, score, hire(score, banks, [program]))
        if kind in ("band", "few", "alone", "synthetic"):
            score = self._composed(seed, kind, rng)
            return SampledClip(kind, score, None if kind == "synthetic" else hire(score, banks))
        tunes = kind == "backed" or (kind == "solo" and rng.random() < SOLO_OF_TUNE)
        pieces = pieces_of(self.purpose, tunes, self._groups)
        piece = pieces[int(rng.integers(len(pieces)))]
        arranged = arrange(piece, seed, self.seconds, kind)
        return SampledClip(kind, arranged.score, hire(arranged.score, banks, arranged.programs), piece.name)

    def score(self, index: int) -> Score:
        """The score of clip `index`."""
        return self.clip(index).score

    def row(self, index: int) -> dict[str, Any]:
        """What a manifest says about clip `index`: the score, the band, the sources and their licence."""
        return self.clip(index).as_dict()

    def read(self, index: int) -> np.ndarray:
        """Clip `index`, float32 [N]."""
        clip = self.clip(index)
        if clip.band is None:
            return mix(render(clip.score, self.rate_hz), clip.score, self.rate_hz)
        stems = render_band(clip.score, clip.band, self.rate_hz)
        return mix(stems, clip.score, self.rate_hz, finish=drawn_finish(clip.score.seed))

    def _composed(self, seed: Seed, kind: str, rng: np.random.Generator) -> Score:
        """All of a composed score, or the parts that were drawn."""
        of = "bench" if self.purpose == "test" else "train"
        score = compose(seed, self.seconds, instruments=INSTRUMENTS[of], singers=SINGERS[of])
        seconds = [sum(note.duration_s for note in score.notes if note.part == i) for i in range(len(score.parts))]
        sounding = [i for i, of_part in enumerate(seconds) if of_part > LEAST * self.seconds]
        if kind in ("band", "synthetic") or not sounding:
            return score
        n = 1 if kind == "alone" else int(rng.integers(2, 4))
        kept = sorted(int(i) for i in rng.permutation(sounding)[:n])
        return only(score, kept, drums=kind == "few" and rng.random() < 0.4)


def only(score: Score, kept: list[int], drums: bool) -> Score:
    """The score without the other parts.

    >>> from mir_benchmarks.synth.compose import compose
    >>> duo = only(compose(0, 8.0, style="jazz"), [0, 1], drums=False)
    >>> len(duo.parts), {note.part for note in duo.notes}, len(duo.hits)
    (2, {0, 1}, 0)
    """
    place = {part: i for i, part in enumerate(kept)}
    notes = tuple(dataclasses.replace(note, part=place[note.part]) for note in score.notes if note.part in place)
    parts = tuple(score.parts[i] for i in kept)
    return dataclasses.replace(score, parts=parts, notes=notes, hits=score.hits if drums else ())


def single_notes(score: Score, seconds: float, rng: np.random.Generator) -> tuple[Score, int]:
    """The score of one to three notes in a row for any melodic program, which is the second value.

    >>> from mir_benchmarks.synth.compose import compose
    >>> score, program = single_notes(only(compose(0, 4.0), [0], False), 4.0, np.random.default_rng(0))
    >>> len(score.parts), 1 <= len(score.notes) <= 3, program in MELODIC
    (1, True, True)
    """
    program = int(rng.choice(MELODIC))
    n, (low, high) = int(rng.integers(1, 4)), range_of(program)
    notes = []
    for i in range(n):
        onset_s = i * seconds / n + float(rng.uniform(0, 0.2 * seconds / n))
        duration_s = min(float(rng.uniform(*LONG_NOTE_S)), (i + 1) * seconds / n - onset_s)
        midi = int(rng.integers(low, high + 1))
        notes.append(Note(0, onset_s, duration_s, midi, float(rng.uniform(0, 1))))
    part = dataclasses.replace(score.parts[0], family="string", role="lead", stem="other", drive=0.0, technique="")
    return dataclasses.replace(score, parts=(part,), notes=tuple(notes), hits=(), chords=(), beats=()), program


def borrowing(band: Band, share: float, rng: np.random.Generator) -> Band:
    """The band, a share of its instruments with samples of keys up to MOST_BORROWED semitones away."""
    instruments = []
    for one in band.instruments:
        borrowed = int(rng.integers(-MOST_BORROWED, MOST_BORROWED + 1)) if rng.random() < share else 0
        instruments.append(one and dataclasses.replace(one, borrowed=borrowed))
    return dataclasses.replace(band, instruments=tuple(instruments))


def corpus(**options: int | float | str) -> SampledCorpus:
    """The corpus of the entry-point group `mert.corpora`; the options are those of SampledCorpus."""
    return SampledCorpus(**options)  # type: ignore[arg-type]
