"""How the scores of a suite become recordings: by our synthesiser, or by sound fonts that each split has its own of."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mir_benchmarks.suite.plans import PlannedClip
from mir_benchmarks.synth.arrange import bend
from mir_benchmarks.synth.band import Band, hire, render_band, strokes_of
from mir_benchmarks.synth.banks import banks_of
from mir_benchmarks.synth.effects import drawn_finish
from mir_benchmarks.synth.render import mix
from mir_benchmarks.synth.score import Score

ROLES = {"train": "train", "valid": "test", "test": "test"}  # of the banks: none of training plays in valid or test


@dataclass(frozen=True)
class PlayedClip(PlannedClip):
    """A mono recording of a score as its band plays it: keys are those that are pressed."""

    band: Band = field(repr=False)

    def wave(self) -> np.ndarray:
        stems = render_band(self.score, self.band, self.rate_hz)
        return mix(stems, self.score, self.rate_hz, finish=drawn_finish(self.score.seed))


class Studio:
    """Synthetic recordings."""

    sampled = False

    def clip(
        self, path: str, score: Score, rate_hz: int, split: str, programs: Sequence[int] | None = None
    ) -> PlannedClip:
        """The recording of a score; its own score is as it was played."""
        return PlannedClip(path, score, rate_hz)

    def with_rubato(self, score: Score) -> Score:
        """The score as it is."""
        return score


class SampledStudio(Studio):
    """Recordings by sound fonts; those of train by other ones than those of valid and test."""

    sampled = True

    def clip(
        self, path: str, score: Score, rate_hz: int, split: str, programs: Sequence[int] | None = None
    ) -> PlannedClip:
        band = hire(score, banks_of(ROLES[split]), programs)
        played = as_played(score, band)
        at_pitch = [one and replace(one, shift=0) for one in band.instruments]
        return PlayedClip(path, played, rate_hz, replace(band, instruments=tuple(at_pitch)))

    def with_rubato(self, score: Score) -> Score:
        """The score with a pulse that slows and hurries."""
        return bend(score)


def as_played(score: Score, band: Band) -> Score:
    """The score with the pitches that its players press: in their range."""
    notes = list(score.notes)
    for i, instrument in enumerate(band.instruments):
        if instrument is None:
            continue
        own = [at for at, note in enumerate(notes) if note.part == i]
        for at, stroke in zip(own, strokes_of(score, i, instrument), strict=True):
            notes[at] = replace(notes[at], midi=stroke.key)
    return replace(score, notes=tuple(notes))


SYNTHETIC, SAMPLED = Studio(), SampledStudio()
